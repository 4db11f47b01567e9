//! Session and agent views as the rest of the engine sees them (SPEC §5).
//!
//! Knows nothing of how they are kept current.

use clawdstrike_telemetry::EventType;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::timestamp::Timestamp;

/// One life of a session, as of one epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionView {
    /// Empty if none.
    pub tenant_id: String,
    /// Whose session.
    pub agent_id: String,
    /// Which.
    pub session_id: String,
    /// An earlier life of the same id ended by retention.
    pub resumed: bool,
    /// No event for `session_idle` of event time.
    pub idle: bool,
    /// Events, copies not counted.
    pub events: u64,
    /// Events that a guard didn't allow.
    pub violations: u64,
    /// Events by type, in the order of [`EventType::ALL`].
    pub by_type: [u64; 7],
    /// Distinct normalised targets.
    pub unique_targets: u64,
    /// False: `unique_targets` is an estimate.
    pub unique_targets_exact: bool,
    /// Event time of the first event, microseconds since 1970.
    pub first_seen: i64,
    /// Event time of the last event.
    pub last_seen: i64,
    /// 0 to 100 (SPEC §5).
    pub risk_score: f64,
    /// Alerts that are open for this session.
    pub open_alerts: u64,
    /// The latest events, in order.
    pub last_events: Vec<RecentEvent>,
    /// `clock_skew`, `id_conflict`.
    pub flags: Vec<String>,
}

/// An event as a session's view shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecentEvent {
    /// Event time, microseconds since 1970.
    pub time: i64,
    /// What the agent did.
    pub event_type: EventType,
    /// To what; at most [`RecentEvent::TARGET_BYTES`] of it.
    pub target: String,
    /// The guard's verdict.
    pub allowed: bool,
}

impl RecentEvent {
    /// How much of a target a view keeps.
    pub const TARGET_BYTES: usize = 85;
}

impl SessionView {
    /// The JSON form of SPEC §5.
    pub fn to_json(&self) -> Value {
        // Texts, numbers and lists of them: nothing that JSON has no words for.
        serde_json::to_value(self.shown()).unwrap_or_default()
    }

    /// The same, before it is JSON.
    pub fn shown(&self) -> Shown<'_> {
        let by_type = EventType::ALL.iter().zip(self.by_type).filter(|(_, n)| *n > 0);
        Shown {
            tenant_id: &self.tenant_id,
            agent_id: &self.agent_id,
            session_id: &self.session_id,
            status: if self.idle { Status::Idle } else { Status::Active },
            resumed: self.resumed,
            events: self.events,
            violations: self.violations,
            by_type: by_type.map(|(kind, n)| (kind.name().to_owned(), n.into())).collect(),
            unique_targets: self.unique_targets,
            unique_targets_exact: self.unique_targets_exact,
            first_seen: Timestamp(self.first_seen),
            last_seen: Timestamp(self.last_seen),
            risk_score: self.risk_score,
            open_alerts: self.open_alerts,
            last_events: self.last_events.iter().map(RecentEvent::shown).collect(),
            flags: &self.flags,
        }
    }
}

/// One life of a session as people see it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Session")]
pub struct Shown<'a> {
    /// Empty if none.
    tenant_id: &'a str,
    /// Whose session.
    agent_id: &'a str,
    /// Which.
    session_id: &'a str,
    /// Whether it goes on.
    status: Status,
    /// An earlier life of the same id ended by retention.
    resumed: bool,
    /// Events, copies not counted.
    events: u64,
    /// Events that a guard didn't allow.
    violations: u64,
    /// Events by type; types without any are left out.
    #[schemars(with = "std::collections::BTreeMap<String, u64>")]
    by_type: Map<String, Value>,
    /// Distinct normalised targets.
    unique_targets: u64,
    /// False: `unique_targets` is an estimate.
    unique_targets_exact: bool,
    /// Event time of the first event; UTC, microseconds.
    first_seen: Timestamp,
    /// Event time of the last event; UTC, microseconds.
    last_seen: Timestamp,
    /// 0 to 100.
    risk_score: f64,
    /// Alerts that are open for it.
    open_alerts: u64,
    /// The latest events, in order.
    last_events: Vec<ShownEvent<'a>>,
    /// `clock_skew`, `id_conflict`.
    flags: &'a [String],
}

/// Whether a session goes on.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "SessionStatus")]
enum Status {
    /// It has had an event of late.
    Active,
    /// No event for `session_idle` of event time.
    Idle,
}

/// An event of a session.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "RecentEvent")]
struct ShownEvent<'a> {
    /// Event time; UTC, microseconds.
    time: Timestamp,
    /// What the agent did.
    #[schemars(schema_with = "event_type_schema")]
    event_type: EventType,
    /// To what; the beginning of it.
    target: &'a str,
    /// The guard's verdict.
    allowed: bool,
}

impl RecentEvent {
    fn shown(&self) -> ShownEvent<'_> {
        ShownEvent {
            time: Timestamp(self.time),
            event_type: self.event_type,
            target: &self.target,
            allowed: self.allowed,
        }
    }
}

/// What JSON has for an [`EventType`], whose crate, which agents use too, knows no schemas.
pub(crate) fn event_type_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": EventType::ALL.map(EventType::name)})
}

/// The brief's risk score: 10 a violation, +20 if more than 0.8 distinct targets an event, +15 if it has lasted over
/// 120 whole minutes, at most 100 (BRIEF "Stream Processing Layer").
pub fn risk_score(
    weights: &RiskWeights,
    events: u64,
    violations: u64,
    unique_targets: u64,
    first: i64,
    last: i64,
) -> f64 {
    let mut score = violations as f64 * weights.violation;
    if unique_targets as f64 / events.max(1) as f64 > weights.target_rate {
        score += weights.target_switching;
    }
    if (last - first) / 60_000_000 > weights.long_minutes {
        score += weights.long_session;
    }
    score.min(100.0)
}

/// The weights of [`risk_score`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RiskWeights {
    /// Points a violation.
    pub violation: f64,
    /// Distinct targets an event from which switching counts.
    pub target_rate: f64,
    /// Points for switching targets.
    pub target_switching: f64,
    /// Whole minutes after which a session is long.
    pub long_minutes: i64,
    /// Points for a long session.
    pub long_session: f64,
}

impl Default for RiskWeights {
    fn default() -> Self {
        RiskWeights { violation: 10.0, target_rate: 0.8, target_switching: 20.0, long_minutes: 120, long_session: 15.0 }
    }
}

/// The name of one life of a session.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionKey {
    /// Empty if none.
    pub tenant_id: String,
    /// Whose session.
    pub agent_id: String,
    /// Which.
    pub session_id: String,
    /// Event time of the life's first event, microseconds since 1970.
    pub first_seen: i64,
}

impl SessionKey {
    /// The life that a view shows.
    pub fn of(view: &SessionView) -> SessionKey {
        SessionKey {
            tenant_id: view.tenant_id.clone(),
            agent_id: view.agent_id.clone(),
            session_id: view.session_id.clone(),
            first_seen: view.first_seen,
        }
    }
}
