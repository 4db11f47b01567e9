//! Retention in PostgreSQL. Alone: days are dropped as wholes, rows of other partitions are deleted a little at a time, and
//! both are added up by the hour in the transaction that removes them. With TimescaleDB: its policies, as the configuration says.

use std::time::Duration;

use clawdstrike_telemetry::time::format;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, GenericClient};

use super::days::Days;
use super::{Flavour, Postgres, describe, flavour, read_applied};
use crate::config::Retention;
use crate::store::retention::{Due, Removed};

/// Rows of a transaction.
const ROWS: i64 = 5_000;
/// The pause after it: the server has others to serve.
const PAUSE: Duration = Duration::from_millis(20);
/// Who waits for a lock on the table makes everybody else wait behind it.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '2s'; SET statement_timeout = '10min'; SET TIME ZONE 'UTC'";
/// What the refresh of the hourly counts stays away from the retention of events, or dropped events would empty their hours.
const REFRESH_MARGIN_SECONDS: i64 = 2 * 86_400;
/// How far back the hourly counts are refreshed at most, as the migration says.
const REFRESH_SECONDS: i64 = 88 * 86_400;

/// Adds up the rows of a query by hour, agent and type.
fn roll_up(rows: &str) -> String {
    format!(
        "INSERT INTO agent_events_rollup AS kept (bucket, agent_id, event_type, event_count, violation_count, risk_sum, risk_count) \
         SELECT date_trunc('hour', time, 'UTC'), agent_id, event_type, COUNT(*), COUNT(*) FILTER (WHERE NOT allowed), \
         COALESCE(SUM(risk_score), 0), COUNT(risk_score) FROM {rows} GROUP BY 1, 2, 3 \
         ON CONFLICT (bucket, agent_id, event_type) DO UPDATE SET event_count = kept.event_count + excluded.event_count, \
         violation_count = kept.violation_count + excluded.violation_count, risk_sum = kept.risk_sum + excluded.risk_sum, \
         risk_count = kept.risk_count + excluded.risk_count"
    )
}

/// A partition, and whether all of it is due.
struct Partition {
    name: String,
    all_due: bool,
    is_day: bool,
}

impl Postgres {
    /// See [`crate::store::Store::sweep`].
    pub(in crate::store) async fn sweep(&mut self, now: i64) -> Result<Removed, String> {
        let (mut client, driver) = self.open().await.map_err(|e| e.to_string())?;
        let swept = self.sweep_with(&mut client, now).await;
        driver.abort();
        swept.map_err(|e| format!("{}: {}", self.place(), describe(&e)))
    }

    async fn sweep_with(&self, client: &mut Client, now: i64) -> Result<Removed, Error> {
        client.batch_execute(LOCK_TIMEOUT).await?;
        let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        let now = now.min(client.query_one(sql, &[]).await?.get(0));
        let due = Due::at(now, &self.retention);
        let applied = read_applied(&*client).await?;
        let mut removed = Removed::default();
        let plain = flavour(&applied) == Some(Flavour::Plain);
        if plain {
            Days::default().make_ahead(client, now).await?;
            removed.events = remove_events(client, &format(due.events)).await?;
        }
        if let Some(history) = due.history {
            let before = format(history);
            removed.alerts = remove_from(client, "alerts", "last_seen", &before).await?;
            removed.sessions = remove_from(client, "sessions", "last_seen", &before).await?;
            removed.actions = remove_from(client, "actions", "updated_at", &before).await?;
        }
        if let Some(hours) = due.hours.filter(|_| plain) {
            removed.hours = remove_from(client, "agent_events_rollup", "bucket", &format(hours)).await?;
        }
        Ok(removed)
    }
}

async fn remove_events(client: &mut Client, before: &str) -> Result<u64, Error> {
    let sql = "SELECT c.oid::regclass::text, c.relname ~ '^agent_events_[0-9]{8}$', coalesce(substring( \
                 pg_get_expr(c.relpartbound, c.oid) FROM $$TO \\('([^']+)'\\)$$)::timestamptz <= $1::text::timestamptz, false) \
               FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
               WHERE i.inhparent = 'agent_events'::regclass ORDER BY 1";
    let rows = client.query(sql, &[&before]).await?;
    let partitions = rows.iter().map(|r| Partition { name: r.get(0), is_day: r.get(1), all_due: r.get(2) });
    let mut removed = 0;
    for partition in partitions {
        if partition.all_due {
            match drop_whole(client, &partition.name).await {
                Ok(events) => removed += events,
                // Somebody reads the table for long; it goes with the next sweep.
                Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                    tracing::info!(partition = partition.name, "is due, but in use; trying again in a minute");
                }
                Err(error) => return Err(error),
            }
        } else if !partition.is_day {
            removed += delete_some(client, &partition.name, before).await?;
        }
    }
    Ok(removed)
}

async fn drop_whole(client: &mut Client, name: &str) -> Result<u64, Error> {
    let transaction = client.transaction().await?;
    // Nothing is added between the count and the end.
    transaction.batch_execute(&format!("LOCK TABLE ONLY {name} IN SHARE MODE")).await?;
    let events: i64 = transaction.query_one(&format!("SELECT count(*) FROM {name}"), &[]).await?.get(0);
    transaction.execute(&roll_up(name), &[]).await?;
    transaction.batch_execute(&format!("DROP TABLE {name}")).await?;
    transaction.commit().await?;
    Ok(events.unsigned_abs())
}

async fn delete_some(client: &Client, name: &str, before: &str) -> Result<u64, Error> {
    let sql = format!(
        "WITH gone AS (DELETE FROM {name} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {name} WHERE time < $1::text::timestamptz \
         ORDER BY time LIMIT {ROWS})) RETURNING time, agent_id, event_type, allowed, risk_score), \
         added AS ({}) SELECT count(*) FROM gone",
        roll_up("gone")
    );
    let statement = client.prepare(&sql).await?;
    let mut removed = 0;
    loop {
        let gone: i64 = client.query_one(&statement, &[&before]).await?.get(0);
        removed += gone.unsigned_abs();
        if gone < ROWS {
            return Ok(removed);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn remove_from(client: &Client, table: &str, column: &str, before: &str) -> Result<u64, Error> {
    let sql = format!(
        "DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} WHERE {column} < $1::text::timestamptz \
         ORDER BY {column} LIMIT {ROWS}))"
    );
    let statement = client.prepare(&sql).await?;
    let mut removed = 0;
    loop {
        let gone = client.execute(&statement, &[&before]).await?;
        removed += gone;
        if gone < ROWS as u64 {
            return Ok(removed);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Makes TimescaleDB's policies what the configuration says; those that are so stay as they are.
pub(super) async fn keep_policies(client: &impl GenericClient, retention: &Retention) -> Result<(), Error> {
    let events = retention.events.0 / 1_000_000;
    let start = REFRESH_SECONDS.min(events - REFRESH_MARGIN_SECONDS);
    let sql = "SELECT coalesce(bool_or((j.config ->> 'start_offset')::interval = make_interval(secs => $1::bigint)), false) \
               FROM timescaledb_information.jobs j JOIN timescaledb_information.continuous_aggregates a \
               ON j.hypertable_name IN (a.materialization_hypertable_name, a.view_name) \
               WHERE a.view_name = 'agent_events_hourly' AND j.proc_name = 'policy_refresh_continuous_aggregate'";
    let as_wanted: bool = client.query_one(sql, &[&start]).await?.get(0);
    if !as_wanted {
        client
            .batch_execute(&format!(
                "SELECT remove_continuous_aggregate_policy('agent_events_hourly', if_exists => true); \
                 SELECT add_continuous_aggregate_policy('agent_events_hourly', start_offset => INTERVAL '{}', \
                 end_offset => INTERVAL '1 hour', schedule_interval => INTERVAL '30 minutes')",
                interval(start)
            ))
            .await?;
    }
    keep_policy(client, "agent_events", Some(events)).await?;
    keep_policy(client, "agent_events_hourly", retention.history.map(|kept| kept.0 / 1_000_000)).await
}

fn interval(seconds: i64) -> String {
    match seconds % 86_400 {
        0 => format!("{} days", seconds / 86_400),
        _ => format!("{seconds} seconds"),
    }
}

/// The retention policy of a hypertable or continuous aggregate; `None`: none.
async fn keep_policy(client: &impl GenericClient, table: &str, seconds: Option<i64>) -> Result<(), Error> {
    let sql = "SELECT extract(epoch FROM (j.config ->> 'drop_after')::interval)::bigint FROM timescaledb_information.jobs j \
               LEFT JOIN timescaledb_information.continuous_aggregates a ON j.hypertable_name = a.materialization_hypertable_name \
               WHERE j.proc_name = 'policy_retention' AND $1 IN (j.hypertable_name::text, a.view_name::text)";
    let has: Option<i64> = client.query_opt(sql, &[&table]).await?.and_then(|row| row.get(0));
    if has == seconds {
        return Ok(());
    }
    let add =
        seconds.map_or(String::new(), |s| format!("SELECT add_retention_policy('{table}', INTERVAL '{s} seconds')"));
    client.batch_execute(&format!("SELECT remove_retention_policy('{table}', if_exists => true); {add}")).await
}
