//! Alerts as the rest of the engine sees them: versions, their evidence, and their JSON form (SPEC §6).
//!
//! Knows nothing of how matches are found, stored or sent.

use clawdstrike_rules::plan::{Action, ActionKind, OnRemoval, Severity};
use clawdstrike_telemetry::EventType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::timestamp::Timestamp;

/// Where an alert stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// One match so far.
    Open,
    /// More than one match.
    Updated,
    /// A late event showed that it doesn't hold, or that it is part of another alert.
    Retracted,
    /// An analyst has seen it.
    Acknowledged,
    /// An analyst has closed it.
    Closed,
}

impl Status {
    /// The name in JSON and in stores.
    pub fn name(self) -> &'static str {
        match self {
            Status::Open => "open",
            Status::Updated => "updated",
            Status::Retracted => "retracted",
            Status::Acknowledged => "acknowledged",
            Status::Closed => "closed",
        }
    }
}

/// Why an alert is retracted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// An event that came late shows that it doesn't hold, or that it is part of another alert.
    LateEvent,
    /// The allowlist takes out what proves it.
    Allowlisted,
    /// Its rule is gone, and wanted that.
    RuleRemoved,
    /// A run that was killed had told of it, and events that had been read then can't be read again.
    NotFoundAgain,
}

/// One event that proves an alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The event_id, else `source/partition/offset`.
    pub id: String,
    /// The step, matcher or condition part that it fills, from 1.
    pub step: u32,
    /// Event time, microseconds since 1970.
    pub time: i64,
    /// What the agent did.
    pub event_type: EventType,
    /// To what, as the agent wrote it.
    pub target: String,
    /// The guard's verdict.
    pub allowed: bool,
}

/// One version of an alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// A UUID, a pure function of rule id, group and first match (see [`alert_id`]).
    pub alert_id: String,
    /// Grows with each version of this alert.
    pub revision: u64,
    /// The rule's id.
    pub rule_id: String,
    /// The rule's name.
    pub rule_name: String,
    /// The rule's content hash.
    pub rule_version: String,
    /// The rule's severity.
    pub severity: Severity,
    /// Where it stands.
    pub status: Status,
    /// For a retracted alert: the one that it became part of.
    pub superseded_by: Option<String>,
    /// Empty if none.
    pub tenant_id: String,
    /// The `by` fields in their order, with the group's values.
    pub group: Vec<(String, Value)>,
    /// Of the first match's ending event.
    pub agent_id: String,
    /// Of the first match's ending event.
    pub session_id: String,
    /// Time of the first match, microseconds since 1970.
    pub first_seen: i64,
    /// Time of the last match.
    pub last_seen: i64,
    /// Matches in the chain.
    pub match_count: u64,
    /// The session's risk score when this version was made.
    pub risk_score: f64,
    /// The first match's events, in order.
    pub evidence: Vec<Evidence>,
    /// MITRE ids of the rule.
    pub attack: Vec<String>,
    /// What the rule asks for.
    pub actions: Vec<Action>,
    /// Whether the actions may run: false for shadow rules, for an alert that took the place of another whose actions ran, and
    /// for one that so far has only matches that were found by back-fill, unless its rule says otherwise.
    pub run_actions: bool,
    /// The rule is a shadow.
    pub shadow: bool,
    /// Its first match was found by back-fill: the rule was loaded after it.
    #[serde(default)]
    pub backfilled: bool,
    /// Its rule is not in force any more: nothing changes it but analysts.
    #[serde(default)]
    pub rule_removed: bool,
    /// What becomes of it when its rule goes.
    #[serde(default)]
    pub on_removal: OnRemoval,
    /// Why it is retracted, if it is.
    #[serde(default)]
    pub retracted_because: Option<Reason>,
    /// The first match's ending event as it was received.
    pub trigger_event: String,
    /// What analysts have done with it.
    #[serde(default)]
    pub handling: Handling,
}

/// What analysts have done with an alert: notes in the order of their times, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handling(Vec<Note>);

/// One thing that an analyst did with an alert.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Note {
    /// When, microseconds since 1970 by the wall clock.
    pub at: i64,
    /// Who: a token's name, an issuer's subject, or `anonymous`.
    pub by: String,
    /// What.
    pub deed: Deed,
    /// In their words; empty if they said nothing.
    pub comment: String,
    /// Matches that the alert had then.
    pub matches: u64,
}

/// What analysts may do with an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// Has seen it, and takes care of it.
    Acknowledge,
    /// Is done with it. A further match opens it again.
    Close,
    /// Says something.
    Comment,
}

impl Handling {
    /// Notes that one alert keeps; of more, the first go.
    pub const NOTES: usize = 100;
    /// Bytes of a comment.
    pub const COMMENT_BYTES: usize = 4_096;

    /// One note.
    pub fn of(note: Note) -> Handling {
        Handling(vec![note])
    }

    /// The notes, the oldest first.
    pub fn notes(&self) -> &[Note] {
        &self.0
    }

    /// The alert has so many matches now.
    pub fn made_at(&mut self, matches: u64) {
        self.0.iter_mut().for_each(|note| note.matches = matches);
    }

    /// Takes over what another version of the alert knows.
    pub fn join(&mut self, other: Handling) {
        self.0.extend(other.0);
        self.0.sort();
        self.0.dedup();
        let surplus = self.0.len().saturating_sub(Handling::NOTES);
        self.0.drain(..surplus);
    }

    /// Where an alert stands that detection found to be like this.
    pub fn status(&self, found: Status, matches: u64) -> Status {
        let latest = self.0.iter().rev().find(|note| note.deed != Deed::Comment);
        match (found, latest.map(|note| note.deed)) {
            (Status::Open | Status::Updated, Some(Deed::Acknowledge)) => Status::Acknowledged,
            (Status::Open | Status::Updated, Some(Deed::Close)) if latest.is_some_and(|n| n.matches >= matches) => {
                Status::Closed
            }
            _ => found,
        }
    }
}

#[cfg(test)]
impl Alert {
    /// An alert for tests.
    pub(crate) fn sample() -> Alert {
        Alert {
            alert_id: "a1".into(),
            revision: 1,
            rule_id: "R".into(),
            rule_name: "R".into(),
            rule_version: "v".into(),
            severity: Severity::High,
            status: Status::Open,
            superseded_by: None,
            tenant_id: String::new(),
            group: Vec::new(),
            agent_id: "agent".into(),
            session_id: "s".into(),
            first_seen: 0,
            last_seen: 0,
            match_count: 1,
            risk_score: 0.0,
            evidence: Vec::new(),
            attack: Vec::new(),
            actions: Vec::new(),
            run_actions: true,
            shadow: false,
            backfilled: false,
            rule_removed: false,
            on_removal: OnRemoval::Keep,
            retracted_because: None,
            trigger_event: "{}".into(),
            handling: Handling::default(),
        }
    }
}

impl Alert {
    /// It holds, and no analyst is done with it.
    pub fn is_open(&self) -> bool {
        matches!(self.status, Status::Open | Status::Updated | Status::Acknowledged)
    }

    /// It doesn't hold any more.
    pub fn retract(&mut self, because: Reason, revision: u64) {
        self.status = Status::Retracted;
        self.retracted_because = Some(because);
        self.run_actions = false;
        self.revision = revision;
    }

    /// The JSON form of SPEC §6, without the revision: what `alerts`, `replay`, receivers and the stores show.
    pub fn to_json(&self) -> Value {
        // Texts, numbers and lists of them: nothing that JSON has no words for.
        serde_json::to_value(self.shown()).unwrap_or_default()
    }

    /// The same, before it is JSON.
    pub fn shown(&self) -> Shown<'_> {
        Shown {
            alert_id: &self.alert_id,
            rule_id: &self.rule_id,
            rule_name: &self.rule_name,
            rule_version: &self.rule_version,
            severity: self.severity,
            status: self.status,
            tenant_id: &self.tenant_id,
            group: self.group.iter().cloned().collect(),
            agent_id: &self.agent_id,
            session_id: &self.session_id,
            first_seen: Timestamp(self.first_seen),
            last_seen: Timestamp(self.last_seen),
            match_count: self.match_count,
            risk_score: self.risk_score,
            evidence: self.evidence.iter().map(Evidence::shown).collect(),
            attack: &self.attack,
            actions: self.actions.iter().map(|action| action.kind).collect(),
            retracted_because: self.retracted_because.filter(|_| self.status == Status::Retracted),
            superseded_by: self.superseded_by.as_deref(),
            shadow: self.shadow.then_some(true),
            backfilled: self.backfilled.then_some(true),
            rule_removed: self.rule_removed.then_some(true),
            handling: self.handling.notes().iter().map(Note::shown).collect(),
            revision: None,
        }
    }

    /// With the revision, by which a reader knows the later of two versions.
    pub fn shown_version(&self) -> Shown<'_> {
        Shown { revision: Some(self.revision), ..self.shown() }
    }
}

/// An alert as people and receivers see it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Alert")]
pub struct Shown<'a> {
    /// A UUID that follows from the rule, the group and the first match.
    alert_id: &'a str,
    /// The rule's id.
    rule_id: &'a str,
    /// The rule's name.
    rule_name: &'a str,
    /// The rule's content hash.
    rule_version: &'a str,
    /// The rule's severity.
    severity: Severity,
    /// Where it stands.
    status: Status,
    /// Empty if none.
    tenant_id: &'a str,
    /// The `by` fields in their order.
    group: Map<String, Value>,
    /// Of the first match's last event.
    agent_id: &'a str,
    /// Of the first match's last event.
    session_id: &'a str,
    /// Time of the first match; UTC, microseconds.
    first_seen: Timestamp,
    /// Time of the last match; UTC, microseconds.
    last_seen: Timestamp,
    /// How many matches it has.
    match_count: u64,
    /// The session's when this version was made, 0 to 100.
    risk_score: f64,
    /// The first match's events, in order.
    evidence: Vec<ShownEvidence<'a>>,
    /// MITRE ids of the rule.
    attack: &'a [String],
    /// What the rule asks for.
    actions: Vec<ActionKind>,
    /// Why it is retracted, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    retracted_because: Option<Reason>,
    /// Of a retracted one: the alert that it became part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    superseded_by: Option<&'a str>,
    /// Its rule is a shadow: no action runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    shadow: Option<bool>,
    /// Its first match was found by back-fill: the rule was loaded after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    backfilled: Option<bool>,
    /// Its rule is not in force any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule_removed: Option<bool>,
    /// What analysts have done with it, the oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    handling: Vec<ShownNote<'a>>,
    /// Grows with each version; what a load would do has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
}

/// One event that proves an alert.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Evidence")]
struct ShownEvidence<'a> {
    /// The event_id, else `source/partition/offset`.
    id: &'a str,
    /// The step, matcher or part of a condition that it fills, from 1.
    step: u32,
    /// Event time; UTC, microseconds.
    time: Timestamp,
    /// What the agent did.
    #[schemars(schema_with = "crate::session::event_type_schema")]
    event_type: EventType,
    /// To what, as the agent wrote it.
    target: &'a str,
    /// The guard's verdict.
    allowed: bool,
}

/// What an analyst did with an alert.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Note")]
struct ShownNote<'a> {
    /// When, by the wall clock; UTC, microseconds.
    time: Timestamp,
    /// Who: a token's name, an issuer's subject, or `anonymous`.
    by: &'a str,
    /// What.
    deed: Deed,
    /// In their words; empty if they said nothing.
    comment: &'a str,
}

impl Evidence {
    fn shown(&self) -> ShownEvidence<'_> {
        ShownEvidence {
            id: &self.id,
            step: self.step,
            time: Timestamp(self.time),
            event_type: self.event_type,
            target: &self.target,
            allowed: self.allowed,
        }
    }
}

impl Note {
    fn shown(&self) -> ShownNote<'_> {
        ShownNote { time: Timestamp(self.at), by: &self.by, deed: self.deed, comment: &self.comment }
    }
}
