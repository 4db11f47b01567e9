//! Stores: where events, alerts and sessions are kept for later (SPEC §11). SQLite in one file, or PostgreSQL with or
//! without TimescaleDB; both hold the same tables (`sql/`), and a [`Batch`] is one transaction in either.
//!
//! Every write may be repeated: alerts and sessions keep the highest revision or epoch, events are known by their key.
//! So "at least once" by the caller ends exact in the store.
//!
//! A store knows rows. It knows nothing of sources, rules, dataflow, HTTP or the command line.

mod export;
mod inspect;
mod migrate;
mod past;
mod pending;
mod postgres;
mod retention;
mod row;
mod sqlite;
mod writer;

use clawdstrike_telemetry::{Event, EventType};

use crate::alert::Alert;
use crate::config;
pub use crate::session::SessionKey;
use crate::session::SessionView;

pub use export::{Column, ExportedRow, Kept, Kind};
pub use inspect::{Condition, Lack, Schema, Weight};
pub use past::PastEvent;
pub use pending::{VersionSender, Waiting};
pub use postgres::Postgres;
pub use retention::Removed;
pub use sqlite::Sqlite;
pub use writer::{ArchiveSender, Closed, Receipt, Status, StoreWriter, Written};

/// A store and its one connection.
pub enum Store {
    /// One database file, no server.
    Sqlite(Sqlite),
    /// A PostgreSQL server, with or without TimescaleDB.
    Postgres(Postgres),
}

/// Why a write didn't happen. Both texts are for people: what was refused, why, and the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The same write may succeed later: connection lost, busy, disk full, tables missing.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// A row is wrong, and the same write will never succeed.
    #[error("store refused: {0}")]
    Refused(String),
}

/// What is written together, in one transaction.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Versions of alerts; the highest revision of an id wins, here and in the store.
    pub alerts: Vec<Alert>,
    /// Views of sessions; the highest epoch of a life wins, here and in the store.
    pub sessions: Vec<SessionRow>,
    /// Lives that never were (a late event moved their beginning). Not those that retention takes from the live view:
    /// the store keeps these.
    pub removed_sessions: Vec<RemovedSession>,
    /// Actions as the ledger has them; the highest change of a key wins in the store.
    pub actions: Vec<ActionRow>,
    /// Rows of the audit trail.
    pub audit: Vec<AuditRow>,
    /// Events for the archive.
    pub events: Vec<EventRow>,
    /// What to read next, by source name and partition, once `events` are kept. A position never goes back.
    pub positions: Vec<(String, u32, u64)>,
}

/// The view of one life of a session, as of an epoch.
#[derive(Clone, Debug)]
pub struct SessionRow {
    /// The view.
    pub view: SessionView,
    /// Its version. Must not go back after a restart.
    pub epoch: u64,
}

/// A life that was withdrawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedSession {
    /// Which.
    pub key: SessionKey,
    /// As of when: later views of the same life stay. In a batch that also has the view of this epoch, the view stays.
    pub epoch: u64,
}

/// An action of an alert, as the ledger has it.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "as in sql/, which says it")]
pub struct ActionRow {
    pub key: String,
    /// The row's version. Must not go back after a restart.
    pub change: u64,
    pub alert_id: String,
    pub revision: u64,
    pub rule_id: String,
    pub severity: String,
    pub tenant_id: String,
    pub agent_id: String,
    pub session_id: String,
    pub action: String,
    /// JSON text.
    pub params: String,
    pub receiver: Option<String>,
    pub state: &'static str,
    pub reason: Option<String>,
    pub decided_by: Option<String>,
    pub attempts: u32,
    pub alert_retracted: bool,
    pub superseded_by: Option<String>,
    /// Microseconds since 1970, as the next.
    pub created_at: i64,
    pub updated_at: i64,
}

/// A row of the audit trail.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "as in sql/, which says it")]
pub struct AuditRow {
    pub hash: String,
    pub seq: u64,
    /// Microseconds since 1970.
    pub time: i64,
    pub actor: String,
    pub actor_kind: String,
    pub address: Option<String>,
    pub action: String,
    pub outcome: &'static str,
    /// JSON text.
    pub detail: String,
    pub line: String,
}

/// One event for the archive.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRow {
    /// The event's identity, unique together with `time`. Any length.
    pub key: String,
    /// Event time, microseconds since 1970.
    pub time: i64,
    /// Empty if none.
    pub tenant_id: String,
    /// Whose event.
    pub agent_id: String,
    /// In which session.
    pub session_id: String,
    /// What the agent did.
    pub event_type: EventType,
    /// To what, as the agent wrote it.
    pub target: Option<String>,
    /// The guard's verdict.
    pub allowed: bool,
    /// The guard's name.
    pub guard: String,
    /// The guard's severity, lower case.
    pub severity: String,
    /// The session's score at the time of writing, 0 to 100.
    pub risk_score: Option<f64>,
    /// The whole record, JSON text.
    pub metadata: String,
    /// The share of events like this one that are kept, above 0; 1: all of them.
    pub sample_share: f64,
    /// Where an event with an event_id was read, `source/partition/offset`; the key of any other says it already.
    pub source_position: Option<String>,
}

impl EventRow {
    /// The row of an event, with this event time and key.
    pub fn of(event: &Event<'_>, time: i64, key: String) -> EventRow {
        EventRow {
            key,
            time,
            tenant_id: event.tenant_id.to_string(),
            agent_id: event.agent_id.to_string(),
            session_id: event.session_id.to_string(),
            event_type: event.event_type,
            target: Some(event.target.to_string()),
            allowed: event.allowed,
            guard: event.guard.to_string(),
            severity: event.severity.to_string(),
            risk_score: None,
            metadata: String::from_utf8_lossy(event.raw).into_owned(),
            sample_share: 1.0,
            source_position: None,
        }
    }
}

impl Batch {
    /// Rows other than positions.
    pub fn rows(&self) -> usize {
        self.alerts.len()
            + self.sessions.len()
            + self.removed_sessions.len()
            + self.actions.len()
            + self.audit.len()
            + self.events.len()
    }

    /// Nothing to write.
    pub fn is_empty(&self) -> bool {
        self.rows() == 0 && self.positions.is_empty()
    }
}

impl Store {
    /// Connects and brings the schema up to date. `None` if the configuration asks for no store.
    ///
    /// Errors name the store, the cause and the way out, and never a password.
    pub async fn open(config: &config::Store) -> Result<Option<Store>, String> {
        let mut store = Store::prepare(config)?;
        if let Some(store) = &mut store {
            store.connect().await.map_err(|e| e.to_string())?;
        }
        Ok(store)
    }

    /// Checks the configuration only: the first use connects and brings the schema up to date. For an engine that must
    /// start while its database is down.
    pub fn prepare(config: &config::Store) -> Result<Option<Store>, String> {
        Ok(match config {
            config::Store::None => None,
            config::Store::Sqlite { path, retention, .. } => {
                let mut store = Sqlite::new(path.clone());
                store.set_retention(*retention);
                Some(Store::Sqlite(store))
            }
            config::Store::Postgres { url_env, sslmode, sslrootcert, retention, .. } => {
                let url = std::env::var(url_env).map_err(|_| {
                    format!(
                        "store: environment variable \"{url_env}\" is not set: it must hold the connection URL, such as \
                         postgres://user:password@127.0.0.1:5432/clawdstrike"
                    )
                })?;
                let store = Postgres::with_tls(&url, *sslmode, sslrootcert.as_deref());
                let mut store = store.map_err(|e| format!("store: \"{url_env}\": {e}"))?;
                store.set_retention(*retention);
                Some(Store::Postgres(store))
            }
        })
    }

    /// Connects and brings the schema up to date, where that hasn't been done. Every other call does it too.
    pub async fn connect(&mut self) -> Result<(), StoreError> {
        match self {
            Store::Sqlite(store) => store.connect().await,
            Store::Postgres(store) => store.connect().await,
        }
    }

    /// Writes all of the batch or nothing, and is safe to repeat. After an error the next call connects again if it
    /// must, so the caller only has to wait a little.
    ///
    /// A row that this store can't hold as it is, but can hold visibly changed (see `row.rs`), is changed.
    pub async fn write(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let rows = row::Rows::of(batch)?;
        match self {
            Store::Sqlite(store) => store.write(rows).await,
            Store::Postgres(store) => store.write(&rows).await,
        }
    }

    /// How far the archive has come: source name, partition, next offset; in that order.
    pub async fn archive_positions(&mut self) -> Result<Vec<(String, u32, u64)>, StoreError> {
        let rows = match self {
            Store::Sqlite(store) => store.archive_positions().await?,
            Store::Postgres(store) => store.archive_positions().await?,
        };
        rows.into_iter().map(row::position).collect()
    }
}
