//! Reading rows back: on a connection of its own, a page at a time, since the client would buffer all that the server sends.

use clawdstrike_telemetry::time::format;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, Row};

use super::{Postgres, describe};
use crate::store::PastEvent;
use crate::store::export::{Column, ExportedRow, Kept, Kind};

/// Rows of a page: each may have a record of a MiB, and the server doesn't count bytes.
const PAGE: i32 = 64;

impl Postgres {
    /// See [`crate::store::Store::past_events`].
    pub(in crate::store) async fn past_events(
        &self,
        from: i64,
        to: i64,
        each: &mut dyn FnMut(PastEvent) -> bool,
    ) -> Result<(), String> {
        let sql = "SELECT (extract(epoch FROM time) * 1000000)::bigint, coalesce(event_key, ''), coalesce(metadata::text, ''), \
                   sample_share < 1, source_position FROM agent_events \
                   WHERE time >= $1::text::timestamptz AND time <= $2::text::timestamptz ORDER BY time";
        let mut event = |row: &Row| {
            let (time, key, record, sampled) = (row.get(0), row.get(1), row.get(2), row.get(3));
            each(PastEvent { time, key, record, sampled, source_position: row.get(4) })
        };
        self.pages(sql, (from, to), &mut event).await
    }

    /// See [`crate::store::Store::archived_until`].
    pub(in crate::store) async fn archived_until(&self) -> Result<Vec<(String, i64, i64)>, String> {
        let (client, driver) = self.open().await.map_err(|e| e.to_string())?;
        let rows = client.query("SELECT source, partition, next_offset FROM archive_positions", &[]).await;
        driver.abort();
        let rows = rows.map_err(|error| self.unread(&error))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
    }

    /// See [`crate::store::Store::export`].
    pub(in crate::store) async fn export(
        &self,
        kept: Kept,
        from: i64,
        to: i64,
        each: &mut dyn FnMut(ExportedRow) -> bool,
    ) -> Result<(), String> {
        let as_text = |column: &Column| match column.kind {
            Kind::Time => format!(r#"to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"#, column.name),
            _ => format!("{}::text", column.name),
        };
        let sql = kept.select(as_text, |n| format!("${n}::text::timestamptz"));
        let mut values = |row: &Row| each((0..row.len()).map(|n| row.get(n)).collect());
        self.pages(&sql, (from, to), &mut values).await
    }

    /// Gives the query's rows to `each`, until it says `false`.
    async fn pages(&self, sql: &str, span: (i64, i64), each: &mut dyn FnMut(&Row) -> bool) -> Result<(), String> {
        let (mut client, driver) = self.open().await.map_err(|e| e.to_string())?;
        let read = read(&mut client, sql, span, each).await;
        driver.abort();
        read.map_err(|error| self.unread(&error))
    }

    /// Why rows weren't read.
    fn unread(&self, error: &Error) -> String {
        let older = [Some(&SqlState::UNDEFINED_COLUMN), Some(&SqlState::UNDEFINED_TABLE)].contains(&error.code());
        let way_out = if older { "; `clawdstrike-edr migrate` brings the schema up to date" } else { "" };
        format!("{}: {}{way_out}", self.place(), describe(error))
    }
}

async fn read(
    client: &mut Client,
    sql: &str,
    (from, to): (i64, i64),
    each: &mut dyn FnMut(&Row) -> bool,
) -> Result<(), Error> {
    let transaction = client.transaction().await?;
    let portal = transaction.bind(sql, &[&format(from), &format(to)]).await?;
    loop {
        let rows = transaction.query_portal(&portal, PAGE).await?;
        if rows.is_empty() || !rows.iter().all(&mut *each) {
            return Ok(());
        }
    }
}
