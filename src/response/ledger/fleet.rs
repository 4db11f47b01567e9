//! The fleet, and how much of it is in quarantine: the ledger's tables once more. Knows no policy.
//!
//! An agent is of the fleet while a session of its changed within this hour or the 24 before it, by this machine's clock. A
//! quarantine counts from the moment at which its request may be sent: a lost answer is no proof that it doesn't hold. It
//! ends with its duration after it was taken (or last tried, if nobody knows), and at once where its receiver refused it.

use rusqlite::params;

use super::policy::HOUR;
use super::table::Table;

/// Hours that an agent is of the fleet after the one in which it was last seen.
const LIVE_HOURS: i64 = 24;
/// Most agents that are counted, so that made-up ids don't fill the disk. Of a larger fleet the share is one of so many.
pub(in crate::response) const MOST_AGENTS: usize = 100_000;

/// What a quarantine would add to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quarantined {
    /// Agents of the fleet.
    pub(super) fleet: u64,
    /// Other agents that may be in quarantine.
    pub(super) others: u64,
    /// This one may be already.
    pub(super) already: bool,
}

/// The hour since 1970 of a time in microseconds.
pub(in crate::response) fn hour_of(now: i64) -> i64 {
    now.div_euclid(HOUR)
}

impl Table {
    /// Sessions of these agents, as (tenant_id, agent_id), have changed.
    pub(super) fn saw(&self, agents: &[(String, String)], now: i64) -> rusqlite::Result<()> {
        let hour = hour_of(now);
        let mut known =
            self.db.prepare_cached("UPDATE fleet SET hour = max(hour, ?3) WHERE tenant_id = ?1 AND agent_id = ?2")?;
        let mut new = self.db.prepare_cached("INSERT INTO fleet (tenant_id, agent_id, hour) VALUES (?1, ?2, ?3)")?;
        let mut room = None;
        for (tenant, agent) in agents {
            if known.execute(params![tenant, agent, hour])? > 0 {
                continue;
            }
            let left = match room {
                Some(left) => left,
                None => (MOST_AGENTS as u64).saturating_sub(self.count("SELECT count(*) FROM fleet", [])?),
            };
            room = Some(left.saturating_sub(1));
            if left > 0 {
                new.execute(params![tenant, agent, hour])?;
            }
        }
        Ok(())
    }

    /// How much of the fleet is in quarantine now, as far as it concerns this agent.
    pub(super) fn quarantined(&self, tenant: &str, agent: &str, now: i64) -> rusqlite::Result<Quarantined> {
        let fleet = self.count("SELECT count(*) FROM fleet WHERE hour >= ?1", [hour_of(now) - LIVE_HOURS])?;
        let sql = "SELECT count(*), coalesce(sum(tenant_id = ?2 AND agent_id = ?3), 0) FROM \
                   (SELECT DISTINCT tenant_id, agent_id FROM actions WHERE quarantined_until > ?1)";
        let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
        let (all, this) = self.db.prepare_cached(sql)?.query_row(params![now, tenant, agent], row)?;
        Ok(Quarantined { fleet, others: (all - this).unsigned_abs(), already: this > 0 })
    }

    /// Lets go of agents that are no longer of the fleet.
    pub(super) fn tidy_fleet(&self, now: i64) -> rusqlite::Result<()> {
        let sql = "DELETE FROM fleet WHERE hour < ?1";
        self.db.prepare_cached(sql)?.execute([hour_of(now) - LIVE_HOURS]).map(drop)
    }

    fn count(&self, sql: &str, values: impl rusqlite::Params) -> rusqlite::Result<u64> {
        self.db.prepare_cached(sql)?.query_row(values, |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
    }
}
