//! Questions to the live views and their answers. A question travels through the dataflow as a command; every worker
//! answers for its share as of the same closed epoch, and the shares are merged (SPEC §12: "a peek at one frontier").

use clawdstrike_rules::plan::Severity;
use serde::{Deserialize, Serialize};

use crate::alert::{Alert, Status};
use crate::session::SessionView;

/// Most rows that one answer may have.
pub const MAX_LIMIT: usize = 10_000;

/// A question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Query {
    /// Sessions that pass the filter, in the order of `sort`.
    Sessions {
        /// Which.
        filter: SessionFilter,
        /// In what order.
        sort: SessionSort,
        /// How many at most.
        limit: usize,
        /// How many to leave out first.
        offset: usize,
    },
    /// Every live life of these sessions, as (tenant_id, agent_id, session_id).
    SessionsById(Vec<(String, String, String)>),
    /// Alerts that pass the filter, latest `last_seen` first.
    Alerts {
        /// Which.
        filter: AlertFilter,
        /// How many at most.
        limit: usize,
        /// How many to leave out first.
        offset: usize,
    },
    /// One alert.
    Alert(String),
    /// Agents, riskiest first.
    Agents {
        /// How many at most.
        limit: usize,
        /// How many to leave out first.
        offset: usize,
    },
}

/// Which sessions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionFilter {
    /// Of this tenant.
    pub tenant_id: Option<String>,
    /// Of this agent.
    pub agent_id: Option<String>,
    /// With this id.
    pub session_id: Option<String>,
    /// With at least this risk.
    pub min_risk: Option<f64>,
    /// Idle (true) or active (false) ones.
    pub idle: Option<bool>,
}

impl SessionFilter {
    /// Whether the view passes.
    pub fn accepts(&self, s: &SessionView) -> bool {
        self.tenant_id.as_ref().is_none_or(|t| *t == s.tenant_id)
            && self.agent_id.as_ref().is_none_or(|a| *a == s.agent_id)
            && self.session_id.as_ref().is_none_or(|i| *i == s.session_id)
            && self.min_risk.is_none_or(|r| s.risk_score >= r)
            && self.idle.is_none_or(|i| s.idle == i)
    }
}

/// The order of sessions; ties by tenant, agent, session and first_seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

impl SessionSort {
    /// Compares two sessions by this order.
    pub fn compare(self, a: &SessionView, b: &SessionView) -> std::cmp::Ordering {
        let id = |s: &SessionView| (s.tenant_id.clone(), s.agent_id.clone(), s.session_id.clone(), s.first_seen);
        match self {
            SessionSort::Risk => b.risk_score.total_cmp(&a.risk_score),
            SessionSort::LastSeen => b.last_seen.cmp(&a.last_seen),
            SessionSort::Events => b.events.cmp(&a.events),
            SessionSort::FirstSeen => a.first_seen.cmp(&b.first_seen),
        }
        .then_with(|| id(a).cmp(&id(b)))
    }
}

/// Which alerts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// With this status; without it retracted ones are left out.
    pub status: Option<Status>,
}

impl AlertFilter {
    /// Whether the alert passes.
    pub fn accepts(&self, a: &Alert) -> bool {
        self.tenant_id.as_ref().is_none_or(|t| *t == a.tenant_id)
            && self.rule_id.as_ref().is_none_or(|r| *r == a.rule_id)
            && self.agent_id.as_ref().is_none_or(|i| *i == a.agent_id)
            && self.session_id.as_ref().is_none_or(|i| *i == a.session_id)
            && self.min_severity.is_none_or(|s| a.severity >= s)
            && self.status.map_or(a.status != Status::Retracted, |s| a.status == s)
    }
}

/// The order of alerts in answers: latest first, ties by id.
pub fn compare_alerts(a: &Alert, b: &Alert) -> std::cmp::Ordering {
    b.last_seen.cmp(&a.last_seen).then_with(|| a.alert_id.cmp(&b.alert_id))
}

/// An agent: its sessions rolled up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// The latest event time, microseconds since 1970.
    pub last_seen: i64,
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
}

/// An answer, merged over all workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The epoch that it holds for: all of it and of those before, nothing after.
    pub epoch: u64,
    /// How many rows there are in all, before limit and offset.
    pub total: u64,
    /// The rows.
    pub rows: Rows,
}
