//! What the store ends with: four queries, of which each row comes as one JSON document, in two dialects.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clawdstrike_telemetry::time;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio_postgres::NoTls;

/// The rows of a store, as documents.
pub(crate) struct Stored {
    /// Alerts that hold.
    pub(crate) alerts: Vec<Value>,
    /// Alerts that were told once and don't hold.
    pub(crate) retracted: Vec<Value>,
    /// Lives of sessions.
    pub(crate) sessions: Vec<Value>,
    /// Events.
    pub(crate) events: Vec<Value>,
}

/// How much a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Rows of events; each has a key of its own.
    pub(crate) events: u64,
    /// Rows of sessions' lives, and the events that these have counted.
    pub(crate) sessions: u64,
    pub(crate) counted: u64,
    /// Sessions of the alerts that hold, in order.
    pub(crate) alerts: Vec<String>,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { events, sessions, counted, alerts } = self;
        write!(f, "{events} events, {sessions} sessions that counted {counted} events, {} alerts", alerts.len())
    }
}

/// A run's database.
pub(crate) enum Database {
    Sqlite(PathBuf),
    Postgres { url: String, runtime: Runtime },
}

/// How long one look may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How long counting may take.
const COUNTED: Duration = Duration::from_secs(300);
/// Where a PostgreSQL's address is told.
const URL: &str = "DATABASE_URL";

const SQLITE: [&str; 4] = [
    "SELECT document FROM alerts WHERE status <> 'retracted'",
    "SELECT document FROM alerts WHERE status = 'retracted'",
    "SELECT json_object('tenant_id', tenant_id, 'agent_id', agent_id, 'session_id', session_id, 'first_seen', first_seen,
        'last_seen', last_seen, 'resumed', json(iif(resumed, 'true', 'false')), 'events', events, 'violations', violations,
        'unique_targets', unique_targets, 'risk_score', CAST(risk_score AS INTEGER)) FROM sessions",
    "SELECT json_object('time', time, 'tenant_id', tenant_id, 'agent_id', agent_id, 'session_id', session_id,
        'event_type', event_type, 'target', target, 'allowed', json(iif(allowed, 'true', 'false')), 'guard', guard,
        'severity', severity, 'metadata', json(metadata)) FROM agent_events",
];

const POSTGRES: [&str; 4] = [
    "SELECT document::text FROM alerts WHERE status <> 'retracted'",
    "SELECT document::text FROM alerts WHERE status = 'retracted'",
    "SELECT json_build_object('tenant_id', tenant_id, 'agent_id', agent_id, 'session_id', session_id, 'first_seen', first_seen,
        'last_seen', last_seen, 'resumed', resumed, 'events', events, 'violations', violations,
        'unique_targets', unique_targets, 'risk_score', CAST(risk_score AS BIGINT))::text FROM sessions",
    "SELECT json_build_object('time', time, 'tenant_id', tenant_id, 'agent_id', agent_id, 'session_id', session_id,
        'event_type', event_type, 'target', target, 'allowed', allowed, 'guard', guard, 'severity', severity,
        'metadata', metadata)::text FROM agent_events",
];

/// In either dialect.
const COUNTS: [&str; 4] = [
    "SELECT CAST(count(*) AS TEXT) FROM agent_events",
    "SELECT CAST(count(*) AS TEXT) FROM sessions",
    "SELECT CAST(coalesce(sum(events), 0) AS TEXT) FROM sessions",
    "SELECT session_id FROM alerts WHERE status <> 'retracted' ORDER BY session_id",
];

impl Database {
    pub(crate) fn sqlite(folder: &Path) -> Database {
        Database::Sqlite(folder.join("store.db"))
    }

    pub(crate) fn postgres(url: String) -> anyhow::Result<Database> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Database::Postgres { url, runtime })
    }

    /// The section of the configuration that writes it.
    pub(crate) fn settings(&self) -> String {
        match self {
            Database::Sqlite(path) => format!("[store]\ntype = \"sqlite\"\npath = \"{}\"\n", path.display()),
            Database::Postgres { .. } => format!("[store]\ntype = \"postgres\"\nurl_env = \"{URL}\"\n"),
        }
    }

    /// What the configuration leaves to the environment.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        match self {
            Database::Sqlite(_) => Vec::new(),
            Database::Postgres { url, .. } => vec![(URL.to_owned(), url.clone())],
        }
    }

    /// What it holds now.
    ///
    /// # Errors
    /// It can't be read just now: it is down, or not set up yet.
    pub(crate) fn read(&self) -> anyhow::Result<Stored> {
        let [alerts, retracted, sessions, events] = self.select(SQLITE, POSTGRES, ANSWER)?;
        let parse = |rows: Vec<String>| -> anyhow::Result<Vec<Value>> {
            rows.iter().map(|row| Ok(serde_json::from_str(row)?)).collect()
        };
        let mut stored = Stored {
            alerts: parse(alerts)?,
            retracted: parse(retracted)?,
            sessions: parse(sessions)?,
            events: parse(events)?,
        };
        let times = ["time", "first_seen", "last_seen"];
        for row in stored.sessions.iter_mut().chain(&mut stored.events) {
            for name in times {
                if let Some(at) = row.get_mut(name)
                    && let Some(micros) = at.as_str().and_then(time::parse)
                {
                    *at = time::format(micros).into();
                }
            }
        }
        Ok(stored)
    }

    /// How much it holds now.
    ///
    /// # Errors
    /// As [`Database::read`].
    pub(crate) fn count(&self) -> anyhow::Result<Counts> {
        let [events, sessions, counted, alerts] = self.select(COUNTS, COUNTS, COUNTED)?;
        let number = |rows: &[String]| -> anyhow::Result<u64> { Ok(rows.first().context("no row")?.parse()?) };
        Ok(Counts { events: number(&events)?, sessions: number(&sessions)?, counted: number(&counted)?, alerts })
    }

    /// What each statement gives, as of one moment.
    fn select<const N: usize>(
        &self,
        sqlite: [&str; N],
        postgres: [&str; N],
        within: Duration,
    ) -> anyhow::Result<[Vec<String>; N]> {
        match self {
            Database::Sqlite(path) => read_sqlite(path, sqlite),
            Database::Postgres { url, runtime } => runtime.block_on(async {
                let read = tokio::time::timeout(within, read_postgres(url, postgres));
                read.await.context("the database doesn't answer")?
            }),
        }
    }
}

fn read_sqlite<const N: usize>(path: &Path, statements: [&str; N]) -> anyhow::Result<[Vec<String>; N]> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    db.busy_timeout(ANSWER)?;
    // One moment for all.
    db.execute_batch("BEGIN")?;
    let mut read = [const { Vec::new() }; N];
    for (rows, sql) in read.iter_mut().zip(statements) {
        *rows = db.prepare(sql)?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    }
    Ok(read)
}

async fn read_postgres<const N: usize>(url: &str, statements: [&str; N]) -> anyhow::Result<[Vec<String>; N]> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let driver = tokio::spawn(connection);
    // One moment for all.
    client.batch_execute("SET TIME ZONE 'UTC'; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let mut read = [const { Vec::new() }; N];
    for (rows, sql) in read.iter_mut().zip(statements) {
        *rows = client.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect();
    }
    driver.abort();
    Ok(read)
}
