//! What a version of an alert changes in the ledger: rows for its actions, each once; where it is retracted, an end to what
//! is still to be done, and a word to the SOC if it was told of the alert.

use clawdstrike_rules::plan::Action;
use rusqlite::{OptionalExtension, params};

use super::entry::State;
use super::fleet::Quarantined;
use super::policy::{HOUR, Lately, Policy, Verdict, is_capped};
use super::table::{Table, is_retraction, state};
use crate::alert::{Alert, Status};
use crate::hex;
use crate::response::request::{Destination, RETRACTION, idempotency_key, quarantine_micros};

/// An alert that goes on is noted so often, so that its rows aren't taken for old: a share of the time that they are kept.
const TOUCH_SHARE: i64 = 10;

const RETRACTED: &str = "the alert was retracted before";

/// What was decided of an alert's action, or of its retraction (`None`).
#[derive(Clone, Debug)]
pub(in crate::response) struct Decided {
    pub(in crate::response) action: Option<Action>,
    pub(in crate::response) verdict: Verdict,
}

/// What a new row says besides the alert.
struct New<'a> {
    key: String,
    action: &'a str,
    params: String,
    verdict: &'a Verdict,
    counted: bool,
    /// How long, if it is a quarantine; microseconds.
    quarantine_for: Option<i64>,
}

/// Where an action stands, what became of its alert, and when it was last asked for.
struct Known {
    state: State,
    retracted: bool,
    superseded: bool,
    touched: i64,
}

/// What the table knows of an alert's agent.
struct Of<'a> {
    table: &'a Table,
    alert: &'a Alert,
    now: i64,
}

impl Lately for Of<'_> {
    type Error = rusqlite::Error;

    fn passed(&self) -> rusqlite::Result<(u64, u64)> {
        self.table.counted(self.now - HOUR, &self.alert.agent_id)
    }

    fn quarantined(&self) -> rusqlite::Result<Quarantined> {
        self.table.quarantined(&self.alert.tenant_id, &self.alert.agent_id, self.now)
    }
}

impl Table {
    /// Takes a version of an alert. May be repeated.
    pub(super) fn record(&mut self, alert: &Alert, policy: &Policy, now: i64) -> rusqlite::Result<Vec<Decided>> {
        match alert.status {
            Status::Retracted => self.retract(alert, policy, now),
            // An alert that is acknowledged before its actions were carried out still wants them; one that is closed doesn't.
            Status::Open | Status::Updated | Status::Acknowledged if alert.run_actions => {
                self.open_up(alert, policy, now)
            }
            Status::Open | Status::Updated | Status::Acknowledged | Status::Closed => Ok(Vec::new()),
        }
    }

    fn open_up(&mut self, alert: &Alert, policy: &Policy, now: i64) -> rusqlite::Result<Vec<Decided>> {
        let mut decided = Vec::new();
        let mut holds_again = false;
        for action in &alert.actions {
            // A map of JSON values always serialises.
            let params = serde_json::to_string(&action.params).unwrap_or_default();
            let key = hex::encode(idempotency_key(&alert.alert_id, action.kind.name(), params.as_bytes()));
            match self.known(&key)? {
                // It was called off, and is wanted after all.
                Some(Known { state: State::Cancelled, retracted: true, .. }) | None => {}
                Some(Known { retracted, superseded, touched, .. }) => {
                    let gone = retracted || superseded;
                    holds_again |= gone;
                    if gone || touched < now.saturating_sub(policy.keep / TOUCH_SHARE) {
                        let sql = "UPDATE actions SET alert_retracted = 0, superseded_by = NULL, touched_at = ?2 WHERE key = ?1";
                        self.db.prepare_cached(sql)?.execute(params![key, now])?;
                    }
                    continue;
                }
            }
            let verdict = policy.decide(action, now, &Of { table: self, alert, now })?;
            let counted = is_capped(action.kind) && matches!(verdict, Verdict::Send(_));
            let quarantine_for = quarantine_micros(action);
            let new = New { key, action: action.kind.name(), params, verdict: &verdict, counted, quarantine_for };
            self.insert(alert, &new, policy, now)?;
            decided.push(Decided { action: Some(action.clone()), verdict });
        }
        if holds_again {
            let sql = "UPDATE actions SET state = 'cancelled', reason = 'the alert holds again', updated_at = ?2 \
                       WHERE alert_id = ?1 AND action = 'retraction' AND state = 'pending'";
            self.db.prepare_cached(sql)?.execute(params![alert.alert_id, now])?;
        }
        Ok(decided)
    }

    fn known(&self, key: &str) -> rusqlite::Result<Option<Known>> {
        let sql = "SELECT state, alert_retracted, superseded_by IS NOT NULL, touched_at FROM actions WHERE key = ?1";
        let mut statement = self.db.prepare_cached(sql)?;
        let known = |row: &rusqlite::Row<'_>| {
            let (retracted, superseded, touched) = (row.get(1)?, row.get(2)?, row.get(3)?);
            Ok(Known { state: state(row, 0)?, retracted, superseded, touched })
        };
        statement.query_row([key], known).optional()
    }

    fn retract(&mut self, alert: &Alert, policy: &Policy, now: i64) -> rusqlite::Result<Vec<Decided>> {
        let sql = "SELECT key, action, state FROM actions WHERE alert_id = ?1 ORDER BY turn";
        let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, state(row, 2)?));
        let rows: Vec<_> =
            self.db.prepare_cached(sql)?.query_map([&alert.alert_id], row)?.collect::<rusqlite::Result<_>>()?;
        // The alert that took its place asks for nothing by itself: what was begun for this one is still wanted.
        let heir = alert.superseded_by.as_deref();
        let mut told = None;
        let mut retraction = None;
        for (key, action, state) in &rows {
            if is_retraction(action) {
                retraction = Some(*state);
                continue;
            }
            let called_off = heir.is_none() && matches!(state, State::Pending | State::Waiting);
            if called_off {
                self.end(key, State::Cancelled, Some(RETRACTED), now)?;
            } else if action == "alert_soc" && matches!(state, State::Pending | State::Sent | State::Acknowledged) {
                told = Some(());
            }
            // What was called off before stays so until the alert holds again.
            let sql = "UPDATE actions SET alert_retracted = ?2 OR (alert_retracted AND state = 'cancelled'), superseded_by = ?3, \
                       counted_at = iif(?4, NULL, counted_at) WHERE key = ?1";
            self.db.prepare_cached(sql)?.execute(params![key, heir.is_none(), heir, called_off])?;
        }
        let anew = matches!(retraction, None | Some(State::Cancelled));
        if told.is_none() || !anew || !policy.reaches(Destination::SocWebhook) {
            return Ok(Vec::new());
        }
        let verdict = Verdict::Send(Destination::SocWebhook);
        let key = hex::encode(idempotency_key(&alert.alert_id, RETRACTION, b""));
        let new = New {
            key,
            action: RETRACTION,
            params: "{}".into(),
            verdict: &verdict,
            counted: false,
            quarantine_for: None,
        };
        self.insert(alert, &new, policy, now)?;
        Ok(vec![Decided { action: None, verdict }])
    }

    /// A row, or one that was cancelled anew.
    fn insert(&mut self, alert: &Alert, new: &New<'_>, policy: &Policy, now: i64) -> rusqlite::Result<()> {
        let receiver = new.verdict.receiver();
        let state = new.verdict.state();
        let to_soc = receiver == Some(Destination::SocWebhook) && matches!(state, State::Pending | State::Waiting);
        let document = to_soc.then(|| serde_json::to_string(alert).unwrap_or_default());
        let turn = self.next_turn();
        let sql = "INSERT INTO actions (key, alert_id, revision, rule_id, severity, tenant_id, agent_id, session_id, action, params, \
                   receiver, state, reason, turn, counted_at, created_at, updated_at, touched_at, give_up_at, document, \
                   quarantine_for, quarantined_until) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?16, ?16, ?17, ?18, ?19, ?20) \
                   ON CONFLICT (key) DO UPDATE SET revision = excluded.revision, receiver = excluded.receiver, state = excluded.state, \
                   reason = excluded.reason, turn = excluded.turn, counted_at = excluded.counted_at, alert_retracted = 0, \
                   superseded_by = NULL, approved_by = NULL, quarantined_until = coalesce(excluded.quarantined_until, quarantined_until), updated_at = excluded.updated_at, touched_at = excluded.touched_at, \
                   give_up_at = excluded.give_up_at, document = excluded.document";
        self.db.prepare_cached(sql)?.execute(params![
            new.key,
            alert.alert_id,
            i64::try_from(alert.revision).unwrap_or(i64::MAX),
            alert.rule_id,
            format!("{:?}", alert.severity).to_lowercase(),
            alert.tenant_id,
            alert.agent_id,
            alert.session_id,
            new.action,
            new.params,
            receiver.map(Destination::name),
            state.name(),
            new.verdict.reason(),
            turn,
            new.counted.then_some(now),
            now,
            now.saturating_add(policy.give_up_after),
            document,
            new.quarantine_for,
            new.quarantine_for.filter(|_| state == State::Pending).map(|_| i64::MAX),
        ])?;
        Ok(())
    }
}
