//! Reading rows back: on a blocking thread, which is a page ahead of whoever takes them.

use std::path::Path;

use clawdstrike_telemetry::time::{format, parse};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row, params};
use tokio::sync::mpsc;

use super::{BUSY_TIMEOUT, Sqlite};
use crate::store::PastEvent;
use crate::store::export::{Column, ExportedRow, Kept, Kind};

/// Most rows of a page.
const PAGE_ROWS: usize = 1_000;
/// Most bytes of a page (unless its last row has more): a record may have a MiB. Up to three pages are in memory.
const PAGE_BYTES: usize = 4 << 20;

impl Sqlite {
    /// See [`crate::store::Store::past_events`].
    pub(in crate::store) async fn past_events(
        &self,
        from: i64,
        to: i64,
        each: &mut dyn FnMut(PastEvent) -> bool,
    ) -> Result<(), String> {
        let sql = "SELECT time, event_key, metadata, sample_share < 1, source_position FROM agent_events \
                   WHERE time >= ?1 AND time <= ?2 ORDER BY time";
        let event = |row: &Row<'_>| {
            let text = |n| row.get::<_, Option<String>>(n).map(Option::unwrap_or_default).map_err(|e| told(&e));
            let (time, key, record) = (text(0)?, text(1)?, text(2)?);
            let time = parse(&time).ok_or_else(|| format!("the time \"{time}\" of an event isn't RFC 3339"))?;
            let sampled = row.get(3).map_err(|e| told(&e))?;
            let source_position = row.get(4).map_err(|e| told(&e))?;
            let bytes = key.len() + record.len();
            Ok((PastEvent { time, key, record, sampled, source_position }, bytes))
        };
        self.pages(sql.to_owned(), (from, to), event, each).await
    }

    /// See [`crate::store::Store::archived_until`].
    pub(in crate::store) async fn archived_until(&self) -> Result<Vec<(String, i64, i64)>, String> {
        let path = self.path.clone();
        let read = move || {
            let connection = open_to_read(&path)?;
            let mut statement =
                connection.prepare(r#"SELECT source, "partition", next_offset FROM archive_positions"#)?;
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect::<rusqlite::Result<_>>()
        };
        let read = tokio::task::spawn_blocking(read).await;
        let rows =
            read.map_err(|e| format!("the reading thread ended: {e}")).and_then(|rows| rows.map_err(|e| told(&e)));
        rows.map_err(|e| format!("database {:?}: {e}", self.path))
    }

    /// See [`crate::store::Store::export`].
    pub(in crate::store) async fn export(
        &self,
        kept: Kept,
        from: i64,
        to: i64,
        each: &mut dyn FnMut(ExportedRow) -> bool,
    ) -> Result<(), String> {
        let sql = kept.select(|column| column.name.to_owned(), |n| format!("?{n}"));
        let values = move |row: &Row<'_>| {
            let value = |(n, column): (usize, &Column)| Ok(text_of(row.get_ref(n)?, column));
            let values: rusqlite::Result<ExportedRow> = kept.columns().iter().enumerate().map(value).collect();
            let values = values.map_err(|e| told(&e))?;
            let bytes = values.iter().flatten().map(String::len).sum();
            Ok((values, bytes))
        };
        self.pages(sql, (from, to), values, each).await
    }

    /// Gives what `read` makes of the query's rows (with its size in bytes) to `each`, until it says `false`.
    async fn pages<T: Send + 'static>(
        &self,
        sql: String,
        (from, to): (i64, i64),
        read: impl Fn(&Row<'_>) -> Result<(T, usize), String> + Send + 'static,
        each: &mut dyn FnMut(T) -> bool,
    ) -> Result<(), String> {
        let (sender, mut pages) = mpsc::channel(1);
        let path = self.path.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let connection = open_to_read(&path).map_err(|e| told(&e))?;
            let mut statement = connection.prepare(&sql).map_err(|e| told(&e))?;
            let mut rows = statement.query(params![format(from), format(to)]).map_err(|e| told(&e))?;
            let (mut page, mut size) = (Vec::new(), 0);
            while let Some(row) = rows.next().map_err(|e| told(&e))? {
                let (value, bytes) = read(row)?;
                page.push(value);
                size += bytes;
                if page.len() >= PAGE_ROWS || size >= PAGE_BYTES {
                    size = 0;
                    if sender.blocking_send(std::mem::take(&mut page)).is_err() {
                        return Ok(());
                    }
                }
            }
            // Whoever wants no more has gone.
            let _gone = sender.blocking_send(page);
            Ok(())
        });
        while let Some(page) = pages.recv().await {
            if !page.into_iter().all(&mut *each) {
                break;
            }
        }
        drop(pages);
        let read = reading.await.unwrap_or_else(|e| Err(format!("the reading thread ended: {e}")));
        read.map_err(|e: String| format!("database {:?}: {e}", self.path))
    }
}

/// For looking only: makes no file, and waits for no writer.
pub(super) fn open_to_read(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

fn told(error: &rusqlite::Error) -> String {
    let text = error.to_string();
    match text.contains("no such column") || text.contains("no such table") {
        true => format!("{text}; `clawdstrike-edr migrate` brings the schema up to date"),
        false => text,
    }
}

fn text_of(value: ValueRef<'_>, column: &Column) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(n) if column.kind == Kind::Truth => Some((n != 0).to_string()),
        ValueRef::Integer(n) => Some(n.to_string()),
        // As JSON writes doubles: the shortest text that is read as the same.
        ValueRef::Real(x) => Some(serde_json::json!(x).to_string()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
    }
}
