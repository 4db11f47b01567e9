//! Events into the stores, as the archive writes them, against the plainest way to get the same rows into a table with the same
//! indexes: `COPY` for PostgreSQL, one statement executed for each row in one transaction for SQLite. A new database for each run.
//!
//! The run with the highest rate counts: CPU time would be this process's, without PostgreSQL's server.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clawdstrike_edr::runtime::archive::ROWS;
use clawdstrike_edr::store::{Batch, EventRow, Postgres, Sqlite, Store};
use clawdstrike_telemetry::{decode, time};
use futures_util::SinkExt;
use tokio::runtime::Runtime;
use tokio_postgres::NoTls;

use crate::measure::{Measured, Row, measure};

/// Rows measured at most: they are all in memory.
const MOST: usize = 200_000;
/// Bytes handed to `COPY` at a time.
const CHUNK: usize = 1 << 20;

const COLUMNS: &str = "event_key, time, tenant_id, agent_id, session_id, event_type, target, allowed, guard, severity, risk_score, metadata";

/// Starts a PostgreSQL, measures `runs` of each way, and prints rows a second and their share of the plainest way's.
pub fn print(files: &[PathBuf], folder: &Path, runs: usize) -> anyhow::Result<()> {
    let rows = rows(files)?;
    let server = clawdstrike_test_services::postgres().map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let number = Cell::new(0);
    let fresh = || {
        number.set(number.get() + 1);
        number.get()
    };
    let file = || folder.join(format!("store-{}.db", fresh()));
    let database = || server.create_database(&format!("bench_{}", fresh())).map_err(anyhow::Error::msg);
    let ways = vec![
        Row::new("events into PostgreSQL, COPY", || runtime.block_on(copy(&database()?, &rows))),
        Row::new("events into PostgreSQL, the store", || {
            let store = Postgres::new(&database()?).map_err(anyhow::Error::msg)?;
            write(&runtime, Store::Postgres(store), &rows)
        }),
        Row::new("events into SQLite, one transaction", || insert(&file(), &rows)),
        Row::new("events into SQLite, the store", || write(&runtime, Store::Sqlite(Sqlite::new(file())), &rows)),
    ];
    let measured = measure(runs, ways, |m| m.wall)?;
    println!("{:40} {:>12} {:>14}", "", "rows/s", "of the plainest");
    for pair in measured.chunks(2) {
        let rate = |m: &Measured| rows.len() as f64 / m.wall.as_secs_f64();
        for (name, m) in pair {
            println!("{name:40} {:>12.0} {:>13.0}%", rate(m), 100.0 * rate(m) / rate(&pair[0].1));
        }
    }
    Ok(())
}

fn rows(files: &[PathBuf]) -> anyhow::Result<Vec<EventRow>> {
    let mut rows = Vec::new();
    // Near the present, as archived events are: days that retention keeps.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_micros() as i64;
    for (n, path) in files.iter().enumerate() {
        let text = std::fs::read(path)?;
        let mut offset = 0;
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let event = decode(line.trim_ascii_end()).map_err(|e| anyhow!("{}", e.detail))?;
            rows.push(EventRow::of(&event, now + rows.len() as i64, format!("bench/{n}/{offset}")));
            offset += line.len();
            if rows.len() == MOST {
                return Ok(rows);
            }
        }
    }
    Ok(rows)
}

fn write(runtime: &Runtime, mut store: Store, rows: &[EventRow]) -> anyhow::Result<()> {
    runtime.block_on(async {
        for events in rows.chunks(ROWS) {
            store.write(&Batch { events: events.to_vec(), ..Batch::default() }).await?;
        }
        Ok(())
    })
}

/// The schema is the store's own; the rows aren't.
async fn copy(url: &str, rows: &[EventRow]) -> anyhow::Result<()> {
    let store = Postgres::new(url).map_err(anyhow::Error::msg)?;
    Store::Postgres(store).connect().await?;
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let driver = tokio::spawn(connection);
    // One table with the same columns and indexes.
    client.batch_execute("CREATE TABLE copied (LIKE agent_events INCLUDING ALL)").await?;
    let sink = client.copy_in::<_, Cursor<Vec<u8>>>(&format!("COPY copied ({COLUMNS}) FROM STDIN")).await?;
    let mut sink = std::pin::pin!(sink);
    let mut text = String::new();
    for row in rows {
        copy_line(row, &mut text)?;
        if text.len() >= CHUNK {
            sink.send(Cursor::new(std::mem::take(&mut text).into_bytes())).await?;
        }
    }
    sink.send(Cursor::new(text.into_bytes())).await?;
    let copied = sink.finish().await?;
    anyhow::ensure!(copied == rows.len() as u64, "{copied} of {} rows copied", rows.len());
    drop(client);
    driver.await?.context("the connection")
}

/// A line of COPY's text format.
fn copy_line(row: &EventRow, to: &mut String) -> std::fmt::Result {
    let texts = [row.key.as_str(), &time::format(row.time), &row.tenant_id, &row.agent_id, &row.session_id];
    for text in texts {
        escape(text, to);
        to.push('\t');
    }
    write!(to, "{}\t", row.event_type.name())?;
    match &row.target {
        Some(target) => escape(target, to),
        None => to.push_str("\\N"),
    }
    write!(to, "\t{}\t", row.allowed)?;
    for text in [&row.guard, &row.severity] {
        escape(text, to);
        to.push('\t');
    }
    match row.risk_score {
        Some(score) => write!(to, "{score}\t")?,
        None => to.push_str("\\N\t"),
    }
    escape(&row.metadata, to);
    to.push('\n');
    Ok(())
}

fn escape(text: &str, to: &mut String) {
    for c in text.chars() {
        match c {
            '\\' => to.push_str("\\\\"),
            '\t' => to.push_str("\\t"),
            '\n' => to.push_str("\\n"),
            '\r' => to.push_str("\\r"),
            c => to.push(c),
        }
    }
}

fn insert(path: &Path, rows: &[EventRow]) -> anyhow::Result<()> {
    let mut connection = rusqlite::Connection::open(path)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    for schema in
        [include_str!("../../sql/sqlite/001_agent_events.sql"), include_str!("../../sql/sqlite/005_events_by_time.sql")]
    {
        connection.execute_batch(schema)?;
    }
    let transaction = connection.transaction()?;
    {
        let sql =
            format!("INSERT INTO agent_events ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)");
        let mut statement = transaction.prepare(&sql)?;
        for row in rows {
            statement.execute(rusqlite::params![
                row.key,
                time::format(row.time),
                row.tenant_id,
                row.agent_id,
                row.session_id,
                row.event_type.name(),
                row.target,
                row.allowed,
                row.guard,
                row.severity,
                row.risk_score,
                row.metadata,
            ])?;
        }
    }
    Ok(transaction.commit()?)
}
