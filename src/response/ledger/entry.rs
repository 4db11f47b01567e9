//! What the ledger says of one action. Knows no database.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::timestamp::Timestamp;

/// Where an action stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "ActionState")]
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

/// One row of the ledger; its JSON is what the API shows.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Action")]
pub struct Entry {
    /// The Idempotency-Key: SHA-256 over alert, action and parameters, in hex.
    #[serde(rename = "id")]
    pub key: String,
    /// Where it stands.
    pub state: State,
    /// As in rules; `retraction`: the SOC is told that the alert doesn't hold.
    pub action: String,
    /// The rule's parameters for it.
    #[schemars(with = "Map<String, Value>")]
    pub params: Value,
    /// The alert that asks for it.
    pub alert_id: String,
    /// Its rule.
    pub rule_id: String,
    /// Its severity.
    pub severity: String,
    /// Empty if none.
    pub tenant_id: String,
    /// Whom it concerns.
    pub agent_id: String,
    /// Which session.
    pub session_id: String,
    /// How often it was sent.
    pub attempts: u32,
    /// Its alert doesn't hold any more; what was done is not undone.
    pub alert_retracted: bool,
    /// When it was asked for; UTC, microseconds.
    pub created_at: Timestamp,
    /// When it was last changed; UTC, microseconds.
    pub updated_at: Timestamp,
    /// `soc_webhook` or `agent_control_api`; left out: a line in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receiver: Option<String>,
    /// Why it is in this state, where that isn't plain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who approved it first, where two people must.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    /// Who approved, rejected or retried it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<String>,
    /// The alert that its alert became part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<String>,
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

/// Which rows.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Filter {
    /// In this state. `failed` is the list of dead letters.
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
