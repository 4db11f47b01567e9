//! Rows of a span of time, in order, from a store that may be in use: nothing is changed, no schema made, and no more than a
//! page of rows is in memory.

use super::Store;
use super::row::clamp;

/// What can be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    /// `agent_events`, by their time.
    Events,
    /// `alerts`, the latest version of each, by the time of its first match.
    Alerts,
    /// `sessions`, the latest view of each life, by the time of its first event.
    Sessions,
}

/// How a value is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// RFC 3339 in UTC, with microseconds.
    Time,
    /// A whole number of 64 bits.
    Integer,
    /// A double as JSON writes it; where others wrote the row it may be `NaN` or infinite.
    Double,
    /// `true` or `false`.
    Truth,
    /// JSON text.
    Json,
}

/// A column of an export.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// The column's name, in the store too.
    pub name: &'static str,
    /// How its values are to be read.
    pub kind: Kind,
}

const fn column(name: &'static str, kind: Kind) -> Column {
    Column { name, kind }
}

const EVENTS: &[Column] = &[
    column("time", Kind::Time),
    column("event_key", Kind::Text),
    column("tenant_id", Kind::Text),
    column("agent_id", Kind::Text),
    column("session_id", Kind::Text),
    column("event_type", Kind::Text),
    column("target", Kind::Text),
    column("allowed", Kind::Truth),
    column("guard", Kind::Text),
    column("severity", Kind::Text),
    column("risk_score", Kind::Double),
    column("metadata", Kind::Json),
    column("sample_share", Kind::Double),
    column("source_position", Kind::Text),
];

const ALERTS: &[Column] = &[
    column("first_seen", Kind::Time),
    column("last_seen", Kind::Time),
    column("alert_id", Kind::Text),
    column("revision", Kind::Integer),
    column("rule_id", Kind::Text),
    column("rule_name", Kind::Text),
    column("rule_version", Kind::Text),
    column("severity", Kind::Text),
    column("status", Kind::Text),
    column("superseded_by", Kind::Text),
    column("tenant_id", Kind::Text),
    column("agent_id", Kind::Text),
    column("session_id", Kind::Text),
    column("match_count", Kind::Integer),
    column("risk_score", Kind::Double),
    column("shadow", Kind::Truth),
    column("run_actions", Kind::Truth),
    column("actions", Kind::Json),
    column("trigger_event", Kind::Text),
    column("document", Kind::Json),
];

const SESSIONS: &[Column] = &[
    column("first_seen", Kind::Time),
    column("last_seen", Kind::Time),
    column("tenant_id", Kind::Text),
    column("agent_id", Kind::Text),
    column("session_id", Kind::Text),
    column("epoch", Kind::Integer),
    column("status", Kind::Text),
    column("resumed", Kind::Truth),
    column("events", Kind::Integer),
    column("violations", Kind::Integer),
    column("unique_targets", Kind::Integer),
    column("risk_score", Kind::Double),
    column("open_alerts", Kind::Integer),
    column("document", Kind::Json),
];

impl Kept {
    /// All of them.
    pub const ALL: [Kept; 3] = [Kept::Events, Kept::Alerts, Kept::Sessions];

    /// The name on the command line, of files and in manifests.
    pub const fn name(self) -> &'static str {
        match self {
            Kept::Events => "events",
            Kept::Alerts => "alerts",
            Kept::Sessions => "sessions",
        }
    }

    /// Its columns; the first is the time that a span is of.
    pub const fn columns(self) -> &'static [Column] {
        match self {
            Kept::Events => EVENTS,
            Kept::Alerts => ALERTS,
            Kept::Sessions => SESSIONS,
        }
    }

    const fn table(self) -> &'static str {
        match self {
            Kept::Events => "agent_events",
            Kept::Alerts => "alerts",
            Kept::Sessions => "sessions",
        }
    }

    const fn order(self) -> &'static str {
        match self {
            Kept::Events => "time, event_key",
            Kept::Alerts => "first_seen, alert_id",
            Kept::Sessions => "first_seen, tenant_id, agent_id, session_id",
        }
    }

    /// The query, with each column's expression; `$1` and `$2` (as SQLite also reads them) as `bound` writes them.
    pub(super) fn select(self, expression: impl Fn(&Column) -> String, bound: impl Fn(u8) -> String) -> String {
        let columns: Vec<String> = self.columns().iter().map(expression).collect();
        let time = self.columns()[0].name;
        format!(
            "SELECT {} FROM {} WHERE {time} >= {} AND {time} < {} ORDER BY {}",
            columns.join(", "),
            self.table(),
            bound(1),
            bound(2),
            self.order()
        )
    }
}

/// A row's values as text, in the order of [`Kept::columns`]; `None`: there is none.
pub type ExportedRow = Vec<Option<String>>;

impl Store {
    /// Gives the rows of `[from, to)` (microseconds since 1970) to `each`, in order of time, until it says `false`.
    ///
    /// # Errors
    /// The store doesn't answer, or hasn't the table; the text names it and says why.
    pub async fn export(
        &mut self,
        kept: Kept,
        from: i64,
        to: i64,
        mut each: impl FnMut(ExportedRow) -> bool,
    ) -> Result<(), String> {
        // Databases write no other times.
        let (from, to) = (clamp(from), clamp(to));
        match self {
            Store::Sqlite(store) => store.export(kept, from, to, &mut each).await,
            Store::Postgres(store) => store.export(kept, from, to, &mut each).await,
        }
    }
}
