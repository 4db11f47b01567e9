//! Every metric's name, with its kind, unit and meaning. Whoever exports a number takes its name from here. What is counted
//! where it happens, in this process, is counted by the instruments in [`LIVE`].

use std::sync::LazyLock;

use prometheus::{Gauge, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while a process lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How often a measure fell into each of some ranges.
    Histogram,
}

/// One metric as Prometheus sees it.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// The name; counters end in `_total`, others in their unit.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// What it counts, and in which unit.
    pub help: &'static str,
    /// The labels' names.
    pub labels: &'static [&'static str],
}

const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Metric {
    Metric { name, kind: Kind::Counter, help, labels }
}

const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Metric {
    Metric { name, kind: Kind::Gauge, help, labels }
}

/// Valid events.
pub const EVENTS: Metric = counter("clawdstrike_events_total", "Valid events, copies included.", &[]);
/// Written by the archive stage.
pub const ARCHIVED: Metric =
    counter("clawdstrike_events_archived_total", "Events that the archive stage has written to the store.", &[]);
/// Left out by the archive stage.
pub const ARCHIVE_LEFT_OUT: Metric = counter(
    "clawdstrike_archive_left_out_total",
    "Low-risk events that the archive stage has left out, because only a share of them is kept.",
    &[],
);
/// Records that are no valid event.
pub const DEAD_LETTERS: Metric =
    counter("clawdstrike_dead_letters_total", "Records that are no valid event, by reason.", &["reason"]);
/// Records that retention was faster with.
pub const LOST_RECORDS: Metric = counter(
    "clawdstrike_source_lost_records_total",
    "Offsets that were gone from the source before they could be read (retention), by source.",
    &["source"],
);
/// The same of the archive stage.
pub const ARCHIVE_LOST_RECORDS: Metric = counter(
    "clawdstrike_archive_lost_records_total",
    "Offsets that were gone from the source before the archive stage could read them, by source.",
    &["source"],
);
/// Events with a clock that can't be right.
pub const RETIMED: Metric = counter(
    "clawdstrike_events_retimed_total",
    "Events whose timestamp lay outside the permitted lateness or skew and was replaced by the reference time.",
    &[],
);
/// Alert versions.
pub const ALERT_VERSIONS: Metric =
    counter("clawdstrike_alert_versions_total", "Alert versions emitted: openings, updates and retractions.", &[]);
/// Sessions for which there was no room.
pub const SESSIONS_LEFT: Metric = counter(
    "clawdstrike_sessions_left_total",
    "Lives of sessions that left the live view for want of room ([limits] sessions_in_view); the store has them.",
    &[],
);
/// Groups for which there was no room.
pub const GROUPS_SHED: Metric = counter(
    "clawdstrike_groups_shed_total",
    "Groups that lost events which rules may have needed, for want of room ([limits] state_memory).",
    &[],
);
/// The last closed epoch.
pub const EPOCH: Metric = gauge("clawdstrike_epoch", "The last closed epoch (ingest progress; has no unit).", &[]);
/// Event-time progress.
pub const WATERMARK: Metric = gauge(
    "clawdstrike_watermark_timestamp_seconds",
    "The watermark, in seconds since 1970; absent before it is known.",
    &[],
);
/// Parts that don't work as they should.
pub const DEGRADED: Metric =
    gauge("clawdstrike_degraded", "1 for each part that doesn't work as it should; /v1/health says why.", &["part"]);
/// Rules in force.
pub const RULES: Metric = gauge("clawdstrike_rules", "Enabled rules of the set in force.", &[]);
/// Whether the last load was refused.
pub const RULES_LOAD_FAILED: Metric = gauge(
    "clawdstrike_rules_load_failed",
    "1 if the last attempt to load a rule set was refused; /v1/rules says why.",
    &[],
);
/// Open watches.
pub const WATCHERS: Metric = gauge("clawdstrike_api_watchers", "Watches (server-sent events) that are open.", &[]);
/// Watches that were too slow.
pub const WATCHERS_CUT_OFF: Metric = counter(
    "clawdstrike_api_watchers_cut_off_total",
    "Watches that were cut off because their readers were too slow.",
    &[],
);

/// How far sources have been read.
pub const POSITION: Metric =
    gauge("clawdstrike_source_position", "The next offset to read, by source and partition.", &["source", "partition"]);
/// How far sources are from their ends.
pub const LAG: Metric = gauge(
    "clawdstrike_source_lag",
    "What lies between the next offset to read and the end of the partition when that was last known: offsets (Kafka) or bytes (files), by source and partition.",
    &["source", "partition"],
);
/// Time since an epoch was closed.
pub const EPOCH_DELAY: Metric = gauge(
    "clawdstrike_epoch_delay_seconds",
    "Since the last epoch was closed: epochs are given at least every half second.",
    &[],
);
/// How far event time is behind.
pub const WATERMARK_DELAY: Metric = gauge(
    "clawdstrike_watermark_delay_seconds",
    "How far the watermark is behind the wall clock; absent before it is known.",
    &[],
);
/// What waits.
pub const QUEUE: Metric = gauge(
    "clawdstrike_queue_depth",
    "What waits: requests (for the dataflow), exports (epochs, for their takers), store_alerts, store_sessions (for the store).",
    &["queue"],
);
/// Hits.
pub const HITS: Metric =
    counter("clawdstrike_hits_total", "What events have sent to groups: one for each key that they concern.", &[]);
/// What operators hold.
pub const STATE_BYTES: Metric =
    gauge("clawdstrike_state_bytes", "Memory of live state on all workers, as estimated, by operator.", &["operator"]);
/// How many things operators hold.
pub const STATE_ROWS: Metric =
    gauge("clawdstrike_state_rows", "Entries of live state on all workers, by operator.", &["operator"]);

/// How long sinks take.
pub const SINK_SECONDS: Metric = Metric {
    name: "clawdstrike_sink_write_seconds",
    kind: Kind::Histogram,
    help: "How long a write to a sink takes, by sink (store_versions, store_events, soc_webhook, agent_control_api).",
    labels: &["sink"],
};
/// Attempts for actions.
pub const ACTIONS: Metric = counter(
    "clawdstrike_action_attempts_total",
    "Attempts to carry out an action, by receiver and outcome (done, retried, failed).",
    &["receiver", "outcome"],
);
/// Loads of rules.
pub const RULE_LOADS: Metric =
    counter("clawdstrike_rule_loads_total", "Loads of rule sets, by result (loaded, refused, failed).", &["result"]);
/// When the last checkpoint became durable.
pub const CHECKPOINT_TIME: Metric = gauge(
    "clawdstrike_checkpoint_timestamp_seconds",
    "When the last checkpoint of this run became durable, in seconds since 1970; 0 before there is one.",
    &[],
);
/// How large it is.
pub const CHECKPOINT_BYTES: Metric =
    gauge("clawdstrike_checkpoint_size_bytes", "Bytes of all segments of the last checkpoint.", &[]);
/// How long it took.
pub const CHECKPOINT_SECONDS: Metric = gauge(
    "clawdstrike_checkpoint_duration_seconds",
    "From process 0's own part of the last checkpoint until all of it was durable.",
    &[],
);

/// How long answers take inside the engine.
pub const PEEK_SECONDS: Metric = Metric {
    name: "clawdstrike_peek_seconds",
    kind: Kind::Histogram,
    help: "How long the workers take to answer, by question (alert, alerts, agents, sessions, sessions_by_id, state).",
    labels: &["question"],
};

/// Ranges of a sink's time, in seconds: from a local insert to a receiver's timeout.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// Ranges of an answer's time, in seconds.
const ANSWER_SECONDS: [f64; 11] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0];

/// What is counted where it happens.
pub struct Live {
    /// All of them.
    pub registry: Registry,
    /// [`SINK_SECONDS`].
    pub sink_seconds: HistogramVec,
    /// [`ACTIONS`].
    pub actions: IntCounterVec,
    /// [`RULE_LOADS`].
    pub rule_loads: IntCounterVec,
    /// [`CHECKPOINT_TIME`].
    pub checkpoint_time: Gauge,
    /// [`CHECKPOINT_BYTES`].
    pub checkpoint_bytes: Gauge,
    /// [`CHECKPOINT_SECONDS`].
    pub checkpoint_seconds: Gauge,
    /// [`PEEK_SECONDS`].
    pub peek_seconds: HistogramVec,
}

/// The instruments of this process.
pub static LIVE: LazyLock<Live> = LazyLock::new(|| Live::new().expect("the names above are metrics' names, each once"));

impl Live {
    fn new() -> prometheus::Result<Live> {
        let registry = Registry::new();
        let opts = |metric: Metric| Opts::new(metric.name, metric.help);
        let histogram = |metric: Metric, ranges: &[f64]| {
            let opts = HistogramOpts::new(metric.name, metric.help).buckets(ranges.to_vec());
            HistogramVec::new(opts, metric.labels)
        };
        let live = Live {
            sink_seconds: histogram(SINK_SECONDS, &SECONDS)?,
            peek_seconds: histogram(PEEK_SECONDS, &ANSWER_SECONDS)?,
            actions: IntCounterVec::new(opts(ACTIONS), ACTIONS.labels)?,
            rule_loads: IntCounterVec::new(opts(RULE_LOADS), RULE_LOADS.labels)?,
            checkpoint_time: Gauge::with_opts(opts(CHECKPOINT_TIME))?,
            checkpoint_bytes: Gauge::with_opts(opts(CHECKPOINT_BYTES))?,
            checkpoint_seconds: Gauge::with_opts(opts(CHECKPOINT_SECONDS))?,
            registry,
        };
        for histogram in [&live.sink_seconds, &live.peek_seconds] {
            live.registry.register(Box::new(histogram.clone()))?;
        }
        live.registry.register(Box::new(live.actions.clone()))?;
        live.registry.register(Box::new(live.rule_loads.clone()))?;
        for gauge in [&live.checkpoint_time, &live.checkpoint_bytes, &live.checkpoint_seconds] {
            live.registry.register(Box::new(gauge.clone()))?;
        }
        Ok(live)
    }
}
