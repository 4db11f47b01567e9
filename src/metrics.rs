//! Every metric's name, with its kind, unit and meaning. Whoever exports a number takes its name from here.

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while a process lives.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One metric as Prometheus sees it.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// The name; counters end in `_total`, others in their unit.
    pub name: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// What it counts, and in which unit.
    pub help: &'static str,
    /// The label's name, if it has one.
    pub label: Option<&'static str>,
}

const fn counter(name: &'static str, help: &'static str, label: Option<&'static str>) -> Metric {
    Metric { name, kind: Kind::Counter, help, label }
}

const fn gauge(name: &'static str, help: &'static str, label: Option<&'static str>) -> Metric {
    Metric { name, kind: Kind::Gauge, help, label }
}

/// Valid events.
pub const EVENTS: Metric = counter("clawdstrike_events_total", "Valid events, copies included.", None);
/// Written by the archive stage.
pub const ARCHIVED: Metric =
    counter("clawdstrike_events_archived_total", "Events that the archive stage has written to the store.", None);
/// Records that are no valid event.
pub const DEAD_LETTERS: Metric =
    counter("clawdstrike_dead_letters_total", "Records that are no valid event, by reason.", Some("reason"));
/// Records that retention was faster with.
pub const LOST_RECORDS: Metric = counter(
    "clawdstrike_source_lost_records_total",
    "Offsets that were gone from the source before they could be read (retention), by source.",
    Some("source"),
);
/// The same of the archive stage.
pub const ARCHIVE_LOST_RECORDS: Metric = counter(
    "clawdstrike_archive_lost_records_total",
    "Offsets that were gone from the source before the archive stage could read them, by source.",
    Some("source"),
);
/// Events with a clock that can't be right.
pub const RETIMED: Metric = counter(
    "clawdstrike_events_retimed_total",
    "Events whose timestamp lay outside the permitted lateness or skew and was replaced by the reference time.",
    None,
);
/// Alert versions.
pub const ALERT_VERSIONS: Metric =
    counter("clawdstrike_alert_versions_total", "Alert versions emitted: openings, updates and retractions.", None);
/// Sessions for which there was no room.
pub const SESSIONS_LEFT: Metric = counter(
    "clawdstrike_sessions_left_total",
    "Lives of sessions that left the live view for want of room ([limits] sessions_in_view); the store has them.",
    None,
);
/// Groups for which there was no room.
pub const GROUPS_SHED: Metric = counter(
    "clawdstrike_groups_shed_total",
    "Groups that lost events which rules may have needed, for want of room ([limits] state_memory).",
    None,
);
/// The last closed epoch.
pub const EPOCH: Metric = gauge("clawdstrike_epoch", "The last closed epoch (ingest progress; has no unit).", None);
/// Event-time progress.
pub const WATERMARK: Metric = gauge(
    "clawdstrike_watermark_timestamp_seconds",
    "The watermark, in seconds since 1970; absent before it is known.",
    None,
);
/// Parts that don't work as they should.
pub const DEGRADED: Metric =
    gauge("clawdstrike_degraded", "1 for each part that doesn't work as it should; /v1/health says why.", Some("part"));
/// Rules in force.
pub const RULES: Metric = gauge("clawdstrike_rules", "Enabled rules of the set in force.", None);
/// Whether the last load was refused.
pub const RULES_LOAD_FAILED: Metric = gauge(
    "clawdstrike_rules_load_failed",
    "1 if the last attempt to load a rule set was refused; /v1/rules says why.",
    None,
);
/// Open watches.
pub const WATCHERS: Metric = gauge("clawdstrike_api_watchers", "Watches (server-sent events) that are open.", None);
/// Watches that were too slow.
pub const WATCHERS_CUT_OFF: Metric = counter(
    "clawdstrike_api_watchers_cut_off_total",
    "Watches that were cut off because their readers were too slow.",
    None,
);
