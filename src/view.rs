//! Questions to the live views and their answers. A question travels through the dataflow as a command; every worker
//! answers for its share as of the same closed epoch, and the shares are merged (SPEC §12: "a peek at one frontier").

mod page;

use clawdstrike_rules::plan::Severity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::alert::{Alert, Status};
use crate::session::SessionView;
use crate::timestamp::Timestamp;
pub use page::{Ids, Place, Ranked, Top, largest_first};

/// Most rows that one answer may have.
pub const MAX_LIMIT: usize = 10_000;

/// A question. Lists give at most `limit` rows, those after the place `after` in the order of `sort`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields of lists are told above")]
pub enum Query {
    /// Sessions that pass the filter.
    Sessions { filter: SessionFilter, sort: SessionSort, limit: usize, after: Option<Place> },
    /// Every live life of these sessions, as (tenant_id, agent_id, session_id).
    SessionsById(Vec<(String, String, String)>),
    /// Alerts that pass the filter.
    Alerts { filter: AlertFilter, sort: AlertSort, limit: usize, after: Option<Place> },
    /// One alert.
    Alert(String),
    /// What operators hold.
    State,
    /// Agents that pass the filter.
    Agents { filter: AgentFilter, sort: AgentSort, limit: usize, after: Option<Place> },
}

impl Query {
    /// What is asked for.
    pub fn name(&self) -> &'static str {
        match self {
            Query::Sessions { .. } => "sessions",
            Query::SessionsById(_) => "sessions_by_id",
            Query::Alerts { .. } => "alerts",
            Query::Alert(_) => "alert",
            Query::State => "state",
            Query::Agents { .. } => "agents",
        }
    }
}

/// Which sessions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SessionFilter {
    /// Of this tenant.
    pub tenant_id: Option<String>,
    /// Of this agent.
    pub agent_id: Option<String>,
    /// With this id.
    pub session_id: Option<String>,
    /// With at least this risk_score.
    pub min_risk: Option<f64>,
    /// Idle (true) or active (false) ones.
    pub idle: Option<bool>,
    /// With an event at or after this time.
    pub since: Option<Timestamp>,
}

impl SessionFilter {
    /// Whether a session with these ids may pass.
    pub fn may_accept(&self, (tenant, agent, session): (&str, &str, &str)) -> bool {
        self.tenant_id.as_ref().is_none_or(|t| *t == tenant)
            && self.agent_id.as_ref().is_none_or(|a| *a == agent)
            && self.session_id.as_ref().is_none_or(|s| *s == session)
    }

    /// Whether the view passes.
    pub fn accepts(&self, s: &SessionView) -> bool {
        self.may_accept((&s.tenant_id, &s.agent_id, &s.session_id))
            && self.min_risk.is_none_or(|r| s.risk_score >= r)
            && self.idle.is_none_or(|i| s.idle == i)
            && self.since.is_none_or(|t| s.last_seen >= t.0)
    }
}

/// The order of sessions; ties by tenant, agent, session and first_seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionSort {
    /// Riskiest first.
    #[default]
    Risk,
    /// Latest event first.
    LastSeen,
    /// Most events first.
    Events,
    /// Oldest first.
    FirstSeen,
}

impl Ranked for SessionView {
    type Sort = SessionSort;
    fn rank(&self, sort: SessionSort) -> i64 {
        match sort {
            SessionSort::Risk => largest_first(self.risk_score),
            SessionSort::LastSeen => !self.last_seen,
            SessionSort::Events => !i64::try_from(self.events).unwrap_or(i64::MAX),
            SessionSort::FirstSeen => self.first_seen,
        }
    }
    fn ids(&self) -> Ids<'_> {
        ([&self.tenant_id, &self.agent_id, &self.session_id], self.first_seen)
    }
}

/// Which alerts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AlertFilter {
    /// Of this tenant.
    pub tenant_id: Option<String>,
    /// Of this rule.
    pub rule_id: Option<String>,
    /// Of this agent.
    pub agent_id: Option<String>,
    /// Of this session.
    pub session_id: Option<String>,
    /// Of at least this severity.
    pub min_severity: Option<Severity>,
    /// With this status. Without it lists leave retracted alerts out, and watches show all.
    pub status: Option<Status>,
    /// With a match at or after this time.
    pub since: Option<Timestamp>,
}

impl AlertFilter {
    /// Whether the alert passes.
    pub fn accepts(&self, a: &Alert) -> bool {
        self.accepts_but_for_status(a) && self.status.map_or(a.status != Status::Retracted, |status| a.status == status)
    }

    /// Whether a version of the alert passes for those who watch: they must see corrections, so that without `status`
    /// retracted ones pass too.
    pub fn accepts_version(&self, a: &Alert) -> bool {
        self.accepts_but_for_status(a) && self.status.is_none_or(|status| a.status == status)
    }

    fn accepts_but_for_status(&self, a: &Alert) -> bool {
        self.tenant_id.as_ref().is_none_or(|t| *t == a.tenant_id)
            && self.rule_id.as_ref().is_none_or(|r| *r == a.rule_id)
            && self.agent_id.as_ref().is_none_or(|i| *i == a.agent_id)
            && self.session_id.as_ref().is_none_or(|i| *i == a.session_id)
            && self.min_severity.is_none_or(|s| a.severity >= s)
            && self.since.is_none_or(|t| a.last_seen >= t.0)
    }
}

/// The order of alerts; ties by id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlertSort {
    /// Latest match first.
    #[default]
    LastSeen,
    /// Latest opened first.
    FirstSeen,
    /// Severest first.
    Severity,
    /// Riskiest session first.
    Risk,
}

impl Ranked for Alert {
    type Sort = AlertSort;
    fn rank(&self, sort: AlertSort) -> i64 {
        match sort {
            AlertSort::LastSeen => !self.last_seen,
            AlertSort::FirstSeen => !self.first_seen,
            AlertSort::Severity => !(self.severity as i64),
            AlertSort::Risk => largest_first(self.risk_score),
        }
    }
    fn ids(&self) -> Ids<'_> {
        ([&self.alert_id, "", ""], 0)
    }
}

/// Which agents.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AgentFilter {
    /// Of this tenant.
    pub tenant_id: Option<String>,
    /// With this id.
    pub agent_id: Option<String>,
    /// With a session of at least this risk_score.
    pub min_risk: Option<f64>,
}

impl AgentFilter {
    /// Whether the agent passes.
    pub fn accepts(&self, a: &AgentView) -> bool {
        self.tenant_id.as_ref().is_none_or(|t| *t == a.tenant_id)
            && self.agent_id.as_ref().is_none_or(|i| *i == a.agent_id)
            && self.min_risk.is_none_or(|r| a.max_risk >= r)
    }
}

/// The order of agents; ties by tenant and id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgentSort {
    /// Riskiest first.
    #[default]
    Risk,
    /// Latest event first.
    LastSeen,
    /// Most events first.
    Events,
    /// Most open alerts first.
    OpenAlerts,
}

impl Ranked for AgentView {
    type Sort = AgentSort;
    fn rank(&self, sort: AgentSort) -> i64 {
        let count = |n: u64| !i64::try_from(n).unwrap_or(i64::MAX);
        match sort {
            AgentSort::Risk => largest_first(self.max_risk),
            AgentSort::LastSeen => !self.last_seen.0,
            AgentSort::Events => count(self.events),
            AgentSort::OpenAlerts => count(self.open_alerts),
        }
    }
    fn ids(&self) -> Ids<'_> {
        ([&self.tenant_id, &self.agent_id, ""], 0)
    }
}

/// An agent: its sessions rolled up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Agent")]
pub struct AgentView {
    /// Empty if none.
    pub tenant_id: String,
    /// Which.
    pub agent_id: String,
    /// Live sessions.
    pub sessions: u64,
    /// Their events.
    pub events: u64,
    /// Their violations.
    pub violations: u64,
    /// Alerts open for them.
    pub open_alerts: u64,
    /// The riskiest session's score.
    pub max_risk: f64,
    /// The latest event time; UTC, microseconds.
    pub last_seen: Timestamp,
}

/// What a part of the dataflow holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Entries.
    pub rows: u64,
    /// Their bytes, as estimated.
    pub bytes: u64,
}

impl Held {
    /// So many entries of a size, in bytes.
    pub fn of(rows: usize, size: usize) -> Held {
        Held { rows: rows as u64, bytes: (rows * size) as u64 }
    }
}

impl std::ops::AddAssign for Held {
    fn add_assign(&mut self, other: Held) {
        self.rows += other.rows;
        self.bytes += other.bytes;
    }
}

/// What the dataflow holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateView {
    /// Hits since the start.
    pub hits: u64,
    /// Targets and agents that the classifier knows.
    pub classifier: Held,
    /// Groups: of sessions, and of rules.
    pub groups: Held,
    /// Sessions that have ended, by their keys.
    pub ended: Held,
    /// Alerts of the live view.
    pub alerts: Held,
    /// Pieces that are put aside for the next checkpoint.
    pub spool: Held,
}

impl StateView {
    /// By operator.
    pub fn by_operator(&self) -> [(&'static str, Held); 5] {
        [
            ("classifier", self.classifier),
            ("groups", self.groups),
            ("ended_sessions", self.ended),
            ("alerts", self.alerts),
            ("spool", self.spool),
        ]
    }
}

impl std::ops::AddAssign for StateView {
    fn add_assign(&mut self, other: StateView) {
        self.hits += other.hits;
        self.classifier += other.classifier;
        self.groups += other.groups;
        self.ended += other.ended;
        self.alerts += other.alerts;
        self.spool += other.spool;
    }
}

/// The rows of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Rows {
    /// To `Sessions` and `SessionsById`.
    Sessions(Vec<SessionView>),
    /// To `Alerts` and `Alert`.
    Alerts(Vec<Alert>),
    /// To `Agents`.
    Agents(Vec<AgentView>),
    /// To `State`.
    State(StateView),
}

/// An answer, merged over all workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The epoch that it holds for: all of it and of those before, nothing after.
    pub epoch: u64,
    /// How many rows pass the filter, on all pages.
    pub total: u64,
    /// The rows.
    pub rows: Rows,
}
