//! What may be done without asking anybody: dry runs, approvals, maintenance, and caps that keep a bad rule from stopping a whole
//! fleet.
//! Knows no database.

use std::collections::BTreeSet;
use std::time::Duration;

use clawdstrike_rules::plan::{Action, ActionKind};

use super::entry::State;
use super::fleet::Quarantined;
use crate::config;
use crate::response::request::Destination;
use crate::time_window::Times;

/// The caps count what was let pass within so long, in microseconds.
pub(super) const HOUR: i64 = 3_600_000_000;

/// The configuration as the ledger needs it; times in microseconds.
#[derive(Clone, Debug)]
pub(in crate::response) struct Policy {
    dry_run: bool,
    receivers: BTreeSet<Destination>,
    approval: BTreeSet<ActionKind>,
    per_hour: u64,
    per_agent_per_hour: u64,
    quarantined_percent: u64,
    maintenance: Vec<(String, Times)>,
    pub(super) four_eyes: bool,
    pub(super) approval_expires: i64,
    pub(super) keep: i64,
    pub(super) give_up_after: i64,
}

/// What is to become of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::response) enum Verdict {
    /// It is sent.
    Send(Destination),
    /// It is a line in the log.
    Log,
    /// It waits for an approval, for this reason.
    Wait(Destination, String),
    /// It would be sent.
    DryRun(Destination),
    /// Nobody is there to carry it out.
    Unconfigured(Destination),
}

impl Verdict {
    pub(super) fn state(&self) -> State {
        match self {
            Verdict::Send(_) => State::Pending,
            Verdict::Log => State::Acknowledged,
            Verdict::Wait(..) => State::Waiting,
            Verdict::DryRun(_) | Verdict::Unconfigured(_) => State::Cancelled,
        }
    }

    pub(super) fn reason(&self) -> Option<String> {
        match self {
            Verdict::Send(_) | Verdict::Log => None,
            Verdict::Wait(_, reason) => Some(reason.clone()),
            Verdict::DryRun(_) => Some("dry run".to_owned()),
            Verdict::Unconfigured(to) => Some(format!("[response] has no \"{}\"", to.name())),
        }
    }

    pub(super) fn receiver(&self) -> Option<Destination> {
        match self {
            Verdict::Log => None,
            Verdict::Send(to) | Verdict::Wait(to, _) | Verdict::DryRun(to) | Verdict::Unconfigured(to) => Some(*to),
        }
    }
}

/// Whether an action keeps an agent from working as it would. Only these are capped.
pub(super) fn is_capped(kind: ActionKind) -> bool {
    match kind {
        ActionKind::TerminateSession
        | ActionKind::QuarantineAgent
        | ActionKind::RateLimit
        | ActionKind::UpdatePolicy => true,
        ActionKind::AlertSoc | ActionKind::Alert | ActionKind::IncreaseLogging | ActionKind::SnapshotSession => false,
    }
}

/// What the ledger can tell of what was done lately, to whom it is to be done next. Asked only where it matters.
pub(super) trait Lately {
    type Error;
    /// How many actions the caps have let pass within the last hour, of all agents and of this one.
    fn passed(&self) -> Result<(u64, u64), Self::Error>;
    /// How much of the fleet is in quarantine.
    fn quarantined(&self) -> Result<Quarantined, Self::Error>;
}

impl Policy {
    /// # Errors
    /// A maintenance window that is none.
    pub(in crate::response) fn new(
        config: &config::Response,
        receivers: impl IntoIterator<Item = Destination>,
        give_up_after: Duration,
    ) -> Result<Policy, String> {
        let maintenance = config.maintenance.iter().map(|window| Ok((window.name.clone(), window.times()?)));
        Ok(Policy {
            dry_run: config.dry_run,
            receivers: receivers.into_iter().collect(),
            approval: config.requires_approval.iter().copied().collect(),
            per_hour: config.max_actions_per_hour.into(),
            per_agent_per_hour: config.max_actions_per_agent_per_hour.into(),
            quarantined_percent: config.max_quarantined_percent.into(),
            maintenance: maintenance.collect::<Result<_, String>>()?,
            four_eyes: config.four_eyes,
            approval_expires: config.approval_expires.0,
            keep: config.keep_actions.0,
            give_up_after: i64::try_from(give_up_after.as_micros()).unwrap_or(i64::MAX),
        })
    }

    /// Whether anybody is there to hear it, in earnest.
    pub(super) fn reaches(&self, to: Destination) -> bool {
        !self.dry_run && self.receivers.contains(&to)
    }

    /// What is to become of an action at this time, in microseconds since 1970.
    pub(super) fn decide<L: Lately>(&self, action: &Action, now: i64, lately: &L) -> Result<Verdict, L::Error> {
        let Some(to) = Destination::of(action.kind) else { return Ok(Verdict::Log) };
        if self.dry_run {
            return Ok(Verdict::DryRun(to));
        }
        if !self.receivers.contains(&to) {
            return Ok(Verdict::Unconfigured(to));
        }
        if action.params.get("requires_approval") == Some(&serde_json::Value::Bool(true)) {
            return Ok(Verdict::Wait(to, "the rule requires an approval".into()));
        }
        if self.approval.contains(&action.kind) {
            return Ok(Verdict::Wait(to, "[response] requires_approval names it".into()));
        }
        if !is_capped(action.kind) {
            return Ok(Verdict::Send(to));
        }
        if let Some((name, _)) = self.maintenance.iter().find(|(_, times)| times.contain(now)) {
            return Ok(Verdict::Wait(to, format!("maintenance \"{name}\"")));
        }
        let (all, of_agent) = lately.passed()?;
        let cap = match (all >= self.per_hour, of_agent >= self.per_agent_per_hour) {
            (false, false) => None,
            (_, true) => Some((self.per_agent_per_hour, "max_actions_per_agent_per_hour")),
            (true, false) => Some((self.per_hour, "max_actions_per_hour")),
        };
        if let Some((cap, key)) = cap {
            return Ok(Verdict::Wait(to, format!("the cap of [response] {key} ({cap}) is reached")));
        }
        if action.kind == ActionKind::QuarantineAgent
            && let Some(reason) = self.too_many(lately)?
        {
            return Ok(Verdict::Wait(to, reason));
        }
        Ok(Verdict::Send(to))
    }

    /// Why one more agent may not be put into quarantine.
    fn too_many<L: Lately>(&self, lately: &L) -> Result<Option<String>, L::Error> {
        let percent = self.quarantined_percent;
        if percent >= 100 {
            return Ok(None);
        }
        let Quarantined { fleet, others, already } = lately.quarantined()?;
        // Of a small fleet one agent is more than the share.
        let most = if percent == 0 { 0 } else { (fleet * percent / 100).max(1) };
        Ok((!already && others >= most || percent == 0).then(|| {
            format!(
                "[response] max_quarantined_percent ({percent}) is reached: of {fleet} agents {others} others may be in quarantine now"
            )
        }))
    }
}
