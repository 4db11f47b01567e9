//! What the ledger says of one action. Knows no database.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use clawdstrike_telemetry::time;

/// Where an action stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// To be sent.
    Pending,
    /// On its way: sent at least once, and not known to have been taken.
    Sent,
    /// Its receiver took it.
    Acknowledged,
    /// Refused by its receiver, or given up. Can be tried again by hand.
    Failed,
    /// Somebody decided against it.
    Rejected,
    /// Waits for an approval.
    Waiting,
    /// Waited too long for an approval.
    Expired,
    /// Not carried out, and not to be: its alert was retracted before, or nobody is there to do it.
    Cancelled,
}

impl State {
    /// All of them.
    pub const ALL: [State; 8] = [
        State::Pending,
        State::Sent,
        State::Acknowledged,
        State::Failed,
        State::Rejected,
        State::Waiting,
        State::Expired,
        State::Cancelled,
    ];

    /// The name in JSON and in the ledger.
    pub const fn name(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Sent => "sent",
            State::Acknowledged => "acknowledged",
            State::Failed => "failed",
            State::Rejected => "rejected",
            State::Waiting => "waiting",
            State::Expired => "expired",
            State::Cancelled => "cancelled",
        }
    }

    pub(super) fn named(name: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "as in sql/ledger, which says it")]
pub struct Entry {
    pub key: String,
    pub alert_id: String,
    pub rule_id: String,
    pub severity: String,
    pub tenant_id: String,
    pub agent_id: String,
    pub session_id: String,
    pub action: String,
    pub params: Value,
    pub receiver: Option<String>,
    pub state: State,
    pub reason: Option<String>,
    pub approved_by: Option<String>,
    pub decided_by: Option<String>,
    pub attempts: u32,
    pub alert_retracted: bool,
    pub superseded_by: Option<String>,
    pub created_at: i64,
    pub updated_at: i64,
}

/// The latest change of a row, for the store's copy.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Orders changes of all rows; grows with the clock.
    pub number: u64,
    /// Of the alert's version that asked for the action.
    pub revision: u64,
    /// The row.
    pub entry: Entry,
}

impl Entry {
    /// What the API shows.
    pub fn to_json(&self) -> Value {
        let mut out = json!({
            "id": self.key,
            "state": self.state,
            "action": self.action,
            "params": self.params,
            "alert_id": self.alert_id,
            "rule_id": self.rule_id,
            "severity": self.severity,
            "tenant_id": self.tenant_id,
            "agent_id": self.agent_id,
            "session_id": self.session_id,
            "attempts": self.attempts,
            "alert_retracted": self.alert_retracted,
            "created_at": time::format(self.created_at),
            "updated_at": time::format(self.updated_at),
        });
        let more = [
            ("receiver", &self.receiver),
            ("reason", &self.reason),
            ("approved_by", &self.approved_by),
            ("decided_by", &self.decided_by),
            ("superseded_by", &self.superseded_by),
        ];
        for (name, value) in more {
            if let Some(value) = value {
                out[name] = json!(value);
            }
        }
        out
    }
}

/// Which rows.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// In this state.
    pub state: Option<State>,
    /// Of this alert.
    pub alert_id: Option<String>,
    /// Of this agent.
    pub agent_id: Option<String>,
    /// Of this rule.
    pub rule_id: Option<String>,
}

/// What somebody may decide of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Carry it out. Of what waits. Where two must approve, the first doesn't release it yet.
    Approve,
    /// Don't. Of what waits, or is still to be sent for the first time.
    Reject,
    /// Try again. Of what failed.
    Retry,
}

/// Why something can't be decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Objection {
    /// There is no such action.
    Unknown,
    /// It is in this state.
    State(State),
    /// Its alert was retracted meanwhile.
    Retracted,
    /// Two must approve it, and this one has already.
    SecondNeeded,
}
