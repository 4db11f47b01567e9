//! Days as partitions of `agent_events`, in UTC, where there is no TimescaleDB: made before rows need them.
//!
//! A day that can't be one (rows of it lie in another partition already, somebody reads for long) is left to
//! `agent_events_default`, whose rows go one by one.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use clawdstrike_telemetry::time::format;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

use super::super::EventRow;

/// Microseconds.
const DAY: i64 = 86_400_000_000;
/// Days after today that are made ahead.
const AHEAD: i64 = 2;
/// Days that are remembered as made; beyond, they are looked at again.
const REMEMBERED: usize = 4_096;
/// The advisory lock of whoever makes a day: processes and connections may want the same.
const LOCK: i64 = 0x6564_725f_6461_7973;

/// Attaching waits for readers of `agent_events_default`, and whoever comes later waits behind it.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '2s'";

/// What one connection knows of the days.
#[derive(Default)]
pub(super) struct Days {
    made: BTreeSet<i64>,
}

/// The days that get a partition: from the first that retention leaves whole or in part.
fn wanted(now: i64, due: i64) -> RangeInclusive<i64> {
    due.div_euclid(DAY)..=now.div_euclid(DAY) + AHEAD
}

impl Days {
    /// Makes the partitions that these rows need. Rows of other days have `agent_events_default`.
    pub(super) async fn make_for(
        &mut self,
        client: &mut Client,
        rows: &[EventRow],
        now: i64,
        due: i64,
    ) -> Result<(), Error> {
        let wanted = wanted(now, due);
        let days: BTreeSet<i64> = rows.iter().map(|r| r.time.div_euclid(DAY)).filter(|d| wanted.contains(d)).collect();
        self.make(client, days).await
    }

    /// Makes today's, and those of the next days.
    pub(super) async fn make_ahead(&mut self, client: &mut Client, now: i64) -> Result<(), Error> {
        let today = now.div_euclid(DAY);
        self.make(client, today..=today + AHEAD).await
    }

    async fn make(&mut self, client: &mut Client, days: impl IntoIterator<Item = i64>) -> Result<(), Error> {
        for day in days {
            if self.made.contains(&day) {
                continue;
            }
            match make(client, day).await {
                Ok(()) => {}
                Err(error) if is_elsewhere(&error) => {
                    tracing::debug!(
                        day = name(day),
                        error = super::describe(&error),
                        "a day gets no partition of its own"
                    );
                }
                Err(error) => return Err(error),
            }
            if self.made.len() >= REMEMBERED {
                self.made.clear();
            }
            self.made.insert(day);
        }
        Ok(())
    }
}

/// Its rows have another partition, this user may make none, or somebody reads the table for long.
fn is_elsewhere(error: &Error) -> bool {
    let states = [
        SqlState::INVALID_OBJECT_DEFINITION,
        SqlState::CHECK_VIOLATION,
        SqlState::INSUFFICIENT_PRIVILEGE,
        SqlState::LOCK_NOT_AVAILABLE,
    ];
    error.code().is_some_and(|code| states.contains(code))
}

fn name(day: i64) -> String {
    format!("agent_events_{}", format(day * DAY)[..10].replace('-', ""))
}

async fn make(client: &mut Client, day: i64) -> Result<(), Error> {
    let name = name(day);
    let transaction = client.transaction().await?;
    transaction.query("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    transaction.batch_execute(LOCK_TIMEOUT).await?;
    let there: bool = transaction.query_one("SELECT to_regclass($1) IS NOT NULL", &[&name]).await?.get(0);
    if !there {
        // Attached, and not made in place: that would wait for whoever reads the table, and hold up whoever comes later.
        let sql = format!(
            "CREATE TABLE {name} (LIKE agent_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS); \
             ALTER TABLE agent_events ATTACH PARTITION {name} FOR VALUES FROM ('{}') TO ('{}')",
            format(day * DAY),
            format((day + 1) * DAY)
        );
        transaction.batch_execute(&sql).await?;
    }
    transaction.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_named_by_its_date() {
        assert_eq!(name(0), "agent_events_19700101");
        assert_eq!(name(20_458), "agent_events_20260105");
    }

    #[test]
    fn days_that_are_due_or_far_ahead_get_no_partition() {
        let days = wanted(100 * DAY + 7, 10 * DAY + 7);
        assert_eq!((*days.start(), *days.end()), (10, 102));
    }
}
