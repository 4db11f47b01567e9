//! The ledger's table: what is done to its rows, within a transaction that the caller begins and ends.
//! Knows no thread, no clock and no HTTP: the time is given.

use std::path::Path;
use std::time::Duration;

use clawdstrike_rules::plan::{Action, ActionKind};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::entry::{Change, Decision, Entry, Filter, Objection, State};
use super::policy::Policy;
use crate::alert::Alert;
use crate::response::request::{Destination, RETRACTION};
use crate::timestamp::Timestamp;

/// The steps of the schema, in order; `user_version` says how many a file has. Shipped ones are never edited.
const SCHEMA: [&str; 3] = [
    include_str!("../../../sql/ledger/001_actions.sql"),
    include_str!("../../../sql/ledger/002_mirror.sql"),
    include_str!("../../../sql/ledger/003_safety.sql"),
];
/// How long an opening waits for a process that is about to end.
const BUSY: Duration = Duration::from_secs(10);
/// Prepared statements kept; there are fewer.
const STATEMENTS: usize = 32;
/// Rows that are deleted at a time.
const PRUNED: u32 = 10_000;

pub(super) const COLUMNS: &str = "key, alert_id, rule_id, severity, tenant_id, agent_id, session_id, action, params, receiver, \
     state, reason, decided_by, attempts, alert_retracted, superseded_by, created_at, updated_at, \
     approved_by";

/// What is to be sent.
#[derive(Clone, Debug)]
pub(in crate::response) struct Work {
    pub(in crate::response) alert_id: String,
    pub(in crate::response) agent_id: String,
    pub(in crate::response) session_id: String,
    /// `None`: the SOC is told that the alert doesn't hold.
    pub(in crate::response) action: Option<Action>,
    /// For the SOC.
    pub(in crate::response) alert: Option<Box<Alert>>,
    /// Microseconds since 1970.
    pub(in crate::response) give_up_at: i64,
}

/// Whether an action may be sent now.
#[derive(Clone, Debug)]
pub(in crate::response) enum Go {
    /// It is noted as sent.
    Send(Box<Work>),
    /// Not before the alert's opening was taken.
    Hold,
    /// Not any more.
    No,
}

/// What came of an attempt.
#[derive(Clone, Debug)]
pub(in crate::response) enum Outcome {
    Taken,
    Later(String),
    /// The receiver will not carry it out.
    Refused(String),
    /// It may have been carried out, for all that is known.
    GivenUp(String),
}

/// A place in a receiver's queue.
#[derive(Clone, Debug)]
pub(in crate::response) struct Item {
    pub(in crate::response) key: String,
    pub(in crate::response) alert_id: String,
    pub(in crate::response) turn: i64,
}

/// The table, open. No other process can open it meanwhile.
pub(in crate::response) struct Table {
    pub(super) db: Connection,
    turn: i64,
}

impl Table {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// It can't be used, and what to do.
    pub(super) fn open(path: &Path) -> Result<Table, String> {
        let told = |e: rusqlite::Error| match e.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                format!(
                    "ledger \"{}\": another process has it: end that process, or use another [cluster] state",
                    path.display()
                )
            }
            _ => format!(
                "ledger \"{}\": {e}; restore the file, or move it away: what it knows as done is then done again",
                path.display()
            ),
        };
        create_private(path).map_err(|e| {
            format!("ledger \"{}\": {e}; [cluster] state must be a folder that can be written", path.display())
        })?;
        let db = Connection::open(path).map_err(told)?;
        configure(&db).map_err(told)?;
        let has: u32 = db.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(told)?;
        let has = has as usize;
        if has > SCHEMA.len() {
            return Err(format!(
                "ledger \"{}\" was made by a later version (schema {has}, expected at most {}): use that version",
                path.display(),
                SCHEMA.len()
            ));
        }
        for (n, step) in SCHEMA.iter().enumerate().skip(has) {
            db.execute_batch(&format!("BEGIN IMMEDIATE; {step} PRAGMA user_version = {}; COMMIT;", n + 1))
                .map_err(told)?;
        }
        let turn = db.query_row("SELECT coalesce(max(turn), 0) FROM actions", [], |row| row.get(0)).map_err(told)?;
        Ok(Table { db, turn })
    }

    /// Begins a transaction. One that isn't `durable` survives the end of the process, but not of the machine, until a durable
    /// one follows.
    pub(super) fn begin_transaction(&self, durable: bool) -> rusqlite::Result<()> {
        self.db.pragma_update(None, "synchronous", if durable { "FULL" } else { "NORMAL" })?;
        self.db.execute_batch("BEGIN IMMEDIATE")
    }

    pub(super) fn commit(&self) -> rusqlite::Result<()> {
        self.db.execute_batch("COMMIT")
    }

    pub(super) fn rollback(&self) {
        if !self.db.is_autocommit()
            && let Err(error) = self.db.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "the ledger's transaction can't be taken back");
        }
    }

    pub(super) fn next_turn(&mut self) -> i64 {
        self.turn += 1;
        self.turn
    }

    /// The next places of a receiver's queue after a turn.
    pub(super) fn queue(&self, to: Destination, after: i64, limit: u32) -> rusqlite::Result<Vec<Item>> {
        let sql = "SELECT key, alert_id, turn FROM actions \
                   WHERE receiver = ?1 AND turn > ?2 AND state IN ('pending', 'sent') ORDER BY turn LIMIT ?3";
        let item = |row: &Row<'_>| Ok(Item { key: row.get(0)?, alert_id: row.get(1)?, turn: row.get(2)? });
        self.db.prepare_cached(sql)?.query_map(params![to.name(), after, limit], item)?.collect()
    }

    /// Notes that an action is sent, if it may be.
    pub(super) fn go(&self, item: &Item, now: i64) -> rusqlite::Result<Go> {
        let sql = "SELECT state, action, params, agent_id, session_id, attempts, alert_retracted, give_up_at, document \
                   FROM actions WHERE key = ?1 AND turn = ?2 AND state IN ('pending', 'sent')";
        let mut statement = self.db.prepare_cached(sql)?;
        let found = statement.query_row(params![item.key, item.turn], |row| {
            let (name, params): (String, String) = (row.get(1)?, row.get(2)?);
            // The name of none: a retraction.
            let action = match ActionKind::ALL.into_iter().find(|kind| kind.name() == name) {
                Some(kind) => Some(Action { kind, params: serde_json::from_str(&params).map_err(|e| wrong(2, e))? }),
                None => None,
            };
            let document: Option<String> = row.get(8)?;
            let alert = document.map(|text| serde_json::from_str(&text).map_err(|e| wrong(8, e))).transpose()?;
            let work = Work {
                alert_id: item.alert_id.clone(),
                agent_id: row.get(3)?,
                session_id: row.get(4)?,
                action,
                alert,
                give_up_at: row.get(7)?,
            };
            Ok((work, row.get::<_, u32>(5)?, row.get::<_, bool>(6)?))
        });
        let Some((work, attempts, retracted)) = found.optional()? else { return Ok(Go::No) };
        if work.action.is_none() {
            // The SOC hears of the alert first, or not at all.
            match self.opening(&item.alert_id)? {
                Some(State::Acknowledged) => {}
                Some(State::Pending | State::Sent) => return Ok(Go::Hold),
                _ => {
                    self.end(&item.key, State::Cancelled, Some("the receiver never heard of the alert"), now)?;
                    return Ok(Go::No);
                }
            }
        } else if retracted && work.alert.is_none() {
            let reason = format!("the alert was retracted after {attempts} attempts; it may have been carried out");
            self.end(&item.key, State::Cancelled, Some(&reason), now)?;
            return Ok(Go::No);
        }
        let sql = "UPDATE actions SET state = 'sent', attempts = attempts + 1, updated_at = ?2 WHERE key = ?1";
        self.db.prepare_cached(sql)?.execute(params![item.key, now])?;
        Ok(Go::Send(Box::new(work)))
    }

    /// Where what tells the SOC of an alert stands.
    pub(super) fn opening(&self, alert_id: &str) -> rusqlite::Result<Option<State>> {
        let sql = "SELECT state FROM actions WHERE alert_id = ?1 AND action = 'alert_soc'";
        self.db.prepare_cached(sql)?.query_row([alert_id], |row| state(row, 0)).optional()
    }

    /// Notes what came of an attempt.
    pub(super) fn attempted(&self, key: &str, outcome: &Outcome, now: i64) -> rusqlite::Result<()> {
        match outcome {
            Outcome::Taken => self.end(key, State::Acknowledged, None, now),
            Outcome::GivenUp(reason) => self.end(key, State::Failed, Some(reason), now),
            Outcome::Refused(reason) => {
                self.end(key, State::Failed, Some(reason), now)?;
                let sql = "UPDATE actions SET quarantined_until = NULL WHERE key = ?1";
                self.db.prepare_cached(sql)?.execute([key]).map(drop)
            }
            Outcome::Later(reason) => {
                let sql = "UPDATE actions SET reason = ?2, updated_at = ?3 WHERE key = ?1";
                self.db.prepare_cached(sql)?.execute(params![key, reason, now]).map(drop)
            }
        }
    }

    /// What is done needs no document; what failed may be tried again. A quarantine that was asked for may hold from now on.
    pub(super) fn end(&self, key: &str, state: State, reason: Option<&str>, now: i64) -> rusqlite::Result<()> {
        let sql = "UPDATE actions SET state = ?2, reason = ?3, updated_at = ?4, \
                   document = CASE ?2 WHEN 'acknowledged' THEN NULL ELSE document END, \
                   quarantined_until = CASE WHEN attempts > 0 THEN ?4 + min(quarantine_for, 9223372036854775807 - ?4) END WHERE key = ?1";
        self.db.prepare_cached(sql)?.execute(params![key, state.name(), reason, now]).map(drop)
    }

    /// Carries out somebody's decision.
    pub(super) fn decide(
        &mut self,
        key: &str,
        decision: Decision,
        by: &str,
        policy: &Policy,
        now: i64,
    ) -> rusqlite::Result<Result<Entry, Objection>> {
        let Some(entry) = self.find(key)? else { return Ok(Err(Objection::Unknown)) };
        let to = match (decision, entry.state) {
            (Decision::Approve, State::Waiting) | (Decision::Retry, State::Failed) => State::Pending,
            (Decision::Reject, State::Waiting | State::Pending) => State::Rejected,
            (_, state) => return Ok(Err(Objection::State(state))),
        };
        if to == State::Pending && entry.alert_retracted {
            return Ok(Err(Objection::Retracted));
        }
        if decision == Decision::Approve && policy.four_eyes {
            match &entry.approved_by {
                None => return self.approve_first(&entry, by, now).map(Ok),
                Some(first) if first == by => return Ok(Err(Objection::SecondNeeded)),
                Some(_) => {}
            }
        }
        if to == State::Rejected {
            self.end(&entry.key, to, entry.reason.as_deref(), now)?;
        }
        let turn = self.next_turn();
        let sql = "UPDATE actions SET state = ?2, decided_by = ?3, turn = ?4, give_up_at = ?5, updated_at = ?6, touched_at = ?6, \
                   quarantined_until = CASE WHEN ?2 = 'rejected' THEN quarantined_until \
                   WHEN quarantine_for IS NOT NULL THEN 9223372036854775807 END WHERE key = ?1";
        self.db.prepare_cached(sql)?.execute(params![
            entry.key,
            to.name(),
            by,
            turn,
            now.saturating_add(policy.give_up_after),
            now
        ])?;
        Ok(self.find(&entry.key)?.ok_or(Objection::Unknown))
    }

    /// Notes the first of two approvals: the action goes on waiting.
    fn approve_first(&self, entry: &Entry, by: &str, now: i64) -> rusqlite::Result<Entry> {
        let why = entry.reason.as_deref().map(|reason| format!("{reason}; ")).unwrap_or_default();
        let reason = format!("{why}\"{by}\" has approved it, and [response] four_eyes asks for a second person");
        let sql = "UPDATE actions SET approved_by = ?2, reason = ?3, updated_at = ?4, touched_at = ?4 WHERE key = ?1";
        self.db.prepare_cached(sql)?.execute(params![entry.key, by, reason, now])?;
        Ok(Entry {
            approved_by: Some(by.to_owned()),
            reason: Some(reason),
            updated_at: Timestamp(now),
            ..entry.clone()
        })
    }

    /// The row whose key begins with this, if there is exactly one.
    pub(super) fn find(&self, key: &str) -> rusqlite::Result<Option<Entry>> {
        let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_hexdigit());
        if !plain {
            return Ok(None);
        }
        let sql = format!("SELECT {COLUMNS} FROM actions WHERE key >= ?1 AND key < ?2 LIMIT 2");
        let mut statement = self.db.prepare_cached(&sql)?;
        // "g" comes after all digits.
        let mut found = statement.query_map([key, &format!("{key}g")], entry)?.collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(found.pop().filter(|_| found.is_empty()))
    }

    /// Rows that pass the filter with their turns, the latest first, and how many there are in all; of those below the turn
    /// `below` at most `limit`.
    pub(super) fn list(
        &self,
        filter: &Filter,
        limit: usize,
        below: Option<i64>,
    ) -> rusqlite::Result<(u64, Vec<(i64, Entry)>)> {
        let wanted = [
            ("state", filter.state.map(|state| state.name().to_owned())),
            ("alert_id", filter.alert_id.clone()),
            ("agent_id", filter.agent_id.clone()),
            ("rule_id", filter.rule_id.clone()),
        ];
        let wanted: Vec<(&str, String)> = wanted.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let mut terms = String::from("1");
        for (n, (name, _)) in wanted.iter().enumerate() {
            terms.push_str(&format!(" AND {name} = ?{}", n + 1));
        }
        let values: Vec<&String> = wanted.iter().map(|(_, value)| value).collect();
        let count = format!("SELECT count(*) FROM actions WHERE {terms}");
        let total: i64 =
            self.db.prepare_cached(&count)?.query_row(rusqlite::params_from_iter(&values), |row| row.get(0))?;
        let below = below.unwrap_or(i64::MAX);
        let rows = format!(
            "SELECT {COLUMNS}, turn FROM actions WHERE {terms} AND turn < {below} ORDER BY turn DESC LIMIT {limit}"
        );
        let mut statement = self.db.prepare_cached(&rows)?;
        let row = |row: &Row<'_>| Ok((row.get("turn")?, entry(row)?));
        let rows = statement.query_map(rusqlite::params_from_iter(&values), row)?.collect::<rusqlite::Result<_>>()?;
        Ok((count_of(total), rows))
    }

    /// The oldest changes that the store hasn't got, of each row its latest.
    pub(super) fn uncopied(&self, limit: usize) -> rusqlite::Result<Vec<Change>> {
        let sql = format!(
            "SELECT {COLUMNS}, change, revision FROM actions WHERE change > (SELECT copied FROM mirror) ORDER BY change LIMIT ?1"
        );
        let change = |row: &Row<'_>| {
            Ok(Change {
                entry: entry(row)?,
                number: count_of(row.get("change")?),
                revision: count_of(row.get("revision")?),
            })
        };
        self.db.prepare_cached(&sql)?.query_map([limit as i64], change)?.collect()
    }

    /// Notes that the store has all changes up to this one.
    pub(super) fn copied(&self, number: u64) -> rusqlite::Result<()> {
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        self.db.prepare_cached("UPDATE mirror SET copied = max(copied, ?1)")?.execute([number]).map(drop)
    }

    /// How many rows are in each state.
    pub(super) fn totals(&self) -> rusqlite::Result<Vec<(State, u64)>> {
        let sql = "SELECT state, count(*) FROM actions GROUP BY state";
        self.db.prepare_cached(sql)?.query_map([], |row| Ok((state(row, 0)?, count_of(row.get(1)?))))?.collect()
    }

    /// Actions that the caps have let pass since then: all, and those of this agent.
    pub(super) fn counted(&self, since: i64, agent_id: &str) -> rusqlite::Result<(u64, u64)> {
        let sql = "SELECT count(*), count(*) FILTER (WHERE agent_id = ?2) FROM actions WHERE counted_at > ?1";
        self.db
            .prepare_cached(sql)?
            .query_row(params![since, agent_id], |row| Ok((count_of(row.get(0)?), count_of(row.get(1)?))))
    }

    /// Lets go of what waited too long for an approval, and of old rows that nothing more will come of. Says how many expired.
    pub(super) fn tidy(&self, policy: &Policy, now: i64) -> rusqlite::Result<usize> {
        let expired = self.db.execute(
            "UPDATE actions SET state = 'expired', updated_at = ?2 WHERE state = 'waiting' AND updated_at <= ?1",
            params![now.saturating_sub(policy.approval_expires), now],
        )?;
        self.db.execute(
            "DELETE FROM actions WHERE rowid IN (SELECT rowid FROM actions WHERE touched_at <= ?1 \
             AND state NOT IN ('pending', 'sent', 'waiting') AND coalesce(quarantined_until, 0) <= ?3 LIMIT ?2)",
            params![now.saturating_sub(policy.keep), PRUNED, now],
        )?;
        self.tidy_fleet(now)?;
        Ok(expired)
    }
}

/// Only its owner reads what agents did.
fn create_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

fn configure(db: &Connection) -> rusqlite::Result<()> {
    db.busy_timeout(BUSY)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    // Two that respond from one ledger would each send what is pending.
    db.pragma_update_and_check(None, "locking_mode", "EXCLUSIVE", |_| Ok(()))?;
    db.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // The lock is taken by the first write.
    db.execute_batch("BEGIN EXCLUSIVE; COMMIT")
}

fn count_of(n: i64) -> u64 {
    n.unsigned_abs()
}

pub(super) fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let params: String = row.get(8)?;
    Ok(Entry {
        key: row.get(0)?,
        alert_id: row.get(1)?,
        rule_id: row.get(2)?,
        severity: row.get(3)?,
        tenant_id: row.get(4)?,
        agent_id: row.get(5)?,
        session_id: row.get(6)?,
        action: row.get(7)?,
        params: serde_json::from_str(&params).map_err(|e| wrong(8, e))?,
        receiver: row.get(9)?,
        state: state(row, 10)?,
        reason: row.get(11)?,
        approved_by: row.get(18)?,
        decided_by: row.get(12)?,
        attempts: row.get(13)?,
        alert_retracted: row.get(14)?,
        superseded_by: row.get(15)?,
        created_at: Timestamp(row.get(16)?),
        updated_at: Timestamp(row.get(17)?),
    })
}

pub(super) fn state(row: &Row<'_>, at: usize) -> rusqlite::Result<State> {
    let name: String = row.get(at)?;
    State::named(&name).ok_or_else(|| wrong(at, std::io::Error::other(format!("\"{name}\" is no state"))))
}

fn wrong(at: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(at, Type::Text, Box::new(error))
}

/// The name of what tells the SOC that an alert doesn't hold.
pub(super) fn is_retraction(action: &str) -> bool {
    action == RETRACTION
}
