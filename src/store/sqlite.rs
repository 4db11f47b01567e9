//! The embedded store: one SQLite database file, no server.
//!
//! The connection lives on tokio's blocking threads, one call at a time. After an error it is dropped, and the next
//! call opens the file again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clawdstrike_telemetry::time::format;
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, params};

use super::inspect::Condition;
use super::migrate::{self, Applied};
use super::row::{ActionColumns, AlertColumns, RemovedColumns, Rows, SessionColumns, count};
use super::{AuditRow, EventRow, StoreError};
use crate::config::Retention;

mod read;
mod retention;

/// How long a write waits for another process's write.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Prepared statements kept; there are fewer.
const STATEMENTS: usize = 16;

/// Of the file kept in memory by the connection that writes, KiB: a batch's index entries land all over it.
const CACHE_KIB: i64 = 16 << 10;
/// Pages of the WAL (16 MiB) after which it is copied into the file: that ends with a flush to disk, so not after each batch.
const WAL_PAGES: i64 = 4_000;

/// A database file and its connection.
pub struct Sqlite {
    path: PathBuf,
    retention: Retention,
    connection: Option<Connection>,
}

impl Sqlite {
    /// A store in this file, which the first use makes if it isn't there.
    pub fn new(path: PathBuf) -> Sqlite {
        Sqlite { path, retention: Retention::default(), connection: None }
    }

    /// What [`super::Store::sweep`] removes.
    pub fn set_retention(&mut self, retention: Retention) {
        self.retention = retention;
    }

    pub(super) fn apart(&self) -> Sqlite {
        Sqlite { path: self.path.clone(), retention: self.retention, connection: None }
    }

    /// Opens the file if it isn't open, and brings its schema up to date.
    pub(super) async fn connect(&mut self) -> Result<(), StoreError> {
        self.run(|_| Ok(())).await
    }

    pub(super) async fn write(&mut self, rows: Rows) -> Result<(), StoreError> {
        self.run(move |connection| {
            // Immediate: a transaction that begins by reading can't be made to wait for its turn to write.
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            write_rows(&transaction, &rows)?;
            transaction.commit()
        })
        .await
    }

    pub(super) async fn archive_positions(&mut self) -> Result<Vec<(String, i64, i64)>, StoreError> {
        self.run(|connection| {
            let sql = r#"SELECT source, "partition", next_offset FROM archive_positions ORDER BY 1, 2"#;
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            rows.collect()
        })
        .await
    }

    /// Looks at the file without changing it.
    pub(super) fn inspect(&self) -> Result<Condition, String> {
        let place = format!("database {:?}", self.path);
        let failed = |e: rusqlite::Error| format!("{place}: {e}");
        let applied = match self.path.exists() {
            true => {
                let connection = read::open_to_read(&self.path).map_err(failed)?;
                let exists = connection.table_exists(None, "schema_migrations").map_err(failed)?;
                if exists { read_applied(&connection).map_err(failed)? } else { Vec::new() }
            }
            false => Vec::new(),
        };
        Ok(Condition {
            place,
            product: format!("SQLite {}", rusqlite::version()),
            schema: migrate::compare(migrate::SQLITE, &applied),
            outstanding: migrate::names(migrate::SQLITE, &applied),
            clock_ahead: None,
            lacks: Vec::new(),
        })
    }

    /// Runs `work` on a blocking thread, with the connection, opened if need be.
    async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (path, connection) = (self.path.clone(), self.connection.take());
        let task = tokio::task::spawn_blocking(move || {
            let mut connection = match connection {
                Some(connection) => connection,
                None => open(&path)?,
            };
            let out = work(&mut connection).map_err(|e| classify(&path, &e))?;
            Ok((connection, out))
        });
        let (connection, out) = task.await.map_err(|e| {
            StoreError::Unavailable(format!("database {:?}: the writing thread ended: {e}", self.path))
        })??;
        self.connection = Some(connection);
        Ok(out)
    }
}

fn open(path: &Path) -> Result<Connection, StoreError> {
    create_private(path).map_err(|e| {
        StoreError::Unavailable(format!("database {path:?}: {e}; expected a file in a folder that this user may write"))
    })?;
    let mut connection = Connection::open(path).map_err(|e| classify(path, &e))?;
    configure(&connection).map_err(|e| classify(path, &e))?;
    apply_migrations(&mut connection).map_err(|e| match e {
        MigrateError::Database(e) => classify(path, &e),
        MigrateError::Schema(text) => StoreError::Unavailable(format!("database {path:?}: {text}")),
    })?;
    Ok(connection)
}

/// Telemetry is nobody else's business: the file is made readable by its owner only, before SQLite makes it (its side
/// files take over these permissions).
fn create_private(path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Before anything is written: retention gives pages back to the file system.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    // Readers don't block the writer, nor it them.
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
    // What was acknowledged survives a power cut.
    connection.pragma_update(None, "synchronous", "FULL")
}

enum MigrateError {
    Database(rusqlite::Error),
    Schema(String),
}

impl From<rusqlite::Error> for MigrateError {
    fn from(error: rusqlite::Error) -> Self {
        MigrateError::Database(error)
    }
}

fn apply_migrations(connection: &mut Connection) -> Result<(), MigrateError> {
    // Immediate: of two processes that start together, one waits and finds the work done.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL, \
         checksum TEXT NOT NULL, applied_at TEXT NOT NULL) STRICT",
    )?;
    let applied = read_applied(&transaction)?;
    for migration in migrate::outstanding(migrate::SQLITE, &applied).map_err(MigrateError::Schema)? {
        transaction.execute_batch(migration.sql)?;
        transaction.execute(
            "INSERT INTO schema_migrations VALUES (?1, ?2, ?3, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))",
            params![migration.version, migration.name, migration.checksum()],
        )?;
    }
    transaction.commit()?;
    Ok(())
}

fn read_applied(connection: &Connection) -> rusqlite::Result<Vec<Applied>> {
    connection
        .prepare("SELECT version, name, checksum FROM schema_migrations ORDER BY version")?
        .query_map([], |row| Ok(Applied { version: row.get(0)?, name: row.get(1)?, checksum: row.get(2)? }))?
        .collect()
}

fn write_rows(transaction: &Transaction<'_>, rows: &Rows) -> rusqlite::Result<()> {
    rows.alerts.iter().try_for_each(|row| write_alert(transaction, row))?;
    rows.removed.iter().try_for_each(|row| remove_session(transaction, row))?;
    rows.sessions.iter().try_for_each(|row| write_session(transaction, row))?;
    rows.actions.iter().try_for_each(|row| write_action(transaction, row))?;
    rows.audit.iter().try_for_each(|row| write_audit(transaction, row))?;
    rows.events.iter().try_for_each(|row| write_event(transaction, row))?;
    rows.positions.iter().try_for_each(|row| write_position(transaction, row))
}

fn write_alert(transaction: &Transaction<'_>, row: &AlertColumns) -> rusqlite::Result<()> {
    let sql = "INSERT INTO alerts (alert_id, revision, rule_id, rule_name, rule_version, severity, status, superseded_by, tenant_id, \
               agent_id, session_id, first_seen, last_seen, match_count, risk_score, shadow, run_actions, actions, trigger_event, \
               document) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20) \
               ON CONFLICT (alert_id) DO UPDATE SET revision = excluded.revision, rule_id = excluded.rule_id, \
               rule_name = excluded.rule_name, rule_version = excluded.rule_version, severity = excluded.severity, \
               status = excluded.status, superseded_by = excluded.superseded_by, tenant_id = excluded.tenant_id, \
               agent_id = excluded.agent_id, session_id = excluded.session_id, first_seen = excluded.first_seen, \
               last_seen = excluded.last_seen, match_count = excluded.match_count, risk_score = excluded.risk_score, \
               shadow = excluded.shadow, run_actions = excluded.run_actions, actions = excluded.actions, \
               trigger_event = excluded.trigger_event, document = excluded.document \
               WHERE excluded.revision > alerts.revision";
    transaction.prepare_cached(sql)?.execute(params![
        row.alert_id,
        row.revision,
        row.rule_id,
        row.rule_name,
        row.rule_version,
        row.severity,
        row.status,
        row.superseded_by,
        row.tenant_id,
        row.agent_id,
        row.session_id,
        format(row.first_seen),
        format(row.last_seen),
        row.match_count,
        row.risk_score,
        row.shadow,
        row.run_actions,
        row.actions,
        row.trigger_event,
        row.document,
    ])?;
    Ok(())
}

fn write_session(transaction: &Transaction<'_>, row: &SessionColumns) -> rusqlite::Result<()> {
    let sql = "INSERT INTO sessions (tenant_id, agent_id, session_id, first_seen, epoch, last_seen, status, resumed, events, \
               violations, unique_targets, risk_score, open_alerts, document) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) \
               ON CONFLICT (tenant_id, agent_id, session_id, first_seen) DO UPDATE SET epoch = excluded.epoch, \
               last_seen = excluded.last_seen, status = excluded.status, resumed = excluded.resumed, events = excluded.events, \
               violations = excluded.violations, unique_targets = excluded.unique_targets, risk_score = excluded.risk_score, \
               open_alerts = excluded.open_alerts, document = excluded.document WHERE excluded.epoch > sessions.epoch";
    transaction.prepare_cached(sql)?.execute(params![
        row.key.tenant_id,
        row.key.agent_id,
        row.key.session_id,
        format(row.key.first_seen),
        row.epoch,
        format(row.last_seen),
        row.status,
        row.resumed,
        row.events,
        row.violations,
        row.unique_targets,
        row.risk_score,
        row.open_alerts,
        row.document,
    ])?;
    Ok(())
}

fn remove_session(transaction: &Transaction<'_>, row: &RemovedColumns) -> rusqlite::Result<()> {
    let sql = "DELETE FROM sessions WHERE tenant_id = ?1 AND agent_id = ?2 AND session_id = ?3 AND first_seen = ?4 AND epoch <= ?5";
    transaction.prepare_cached(sql)?.execute(params![
        row.key.tenant_id,
        row.key.agent_id,
        row.key.session_id,
        format(row.key.first_seen),
        row.epoch
    ])?;
    Ok(())
}

fn write_action(
    transaction: &Transaction<'_>,
    ActionColumns { change, revision, row }: &ActionColumns,
) -> rusqlite::Result<()> {
    let sql = "INSERT INTO actions (key, change, alert_id, revision, rule_id, severity, tenant_id, agent_id, session_id, action, \
               params, receiver, state, reason, decided_by, attempts, alert_retracted, superseded_by, created_at, updated_at) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20) \
               ON CONFLICT (key) DO UPDATE SET change = excluded.change, revision = excluded.revision, \
               receiver = excluded.receiver, state = excluded.state, reason = excluded.reason, \
               decided_by = excluded.decided_by, attempts = excluded.attempts, alert_retracted = excluded.alert_retracted, \
               superseded_by = excluded.superseded_by, created_at = excluded.created_at, updated_at = excluded.updated_at \
               WHERE excluded.change > actions.change";
    transaction.prepare_cached(sql)?.execute(params![
        row.key,
        change,
        row.alert_id,
        revision,
        row.rule_id,
        row.severity,
        row.tenant_id,
        row.agent_id,
        row.session_id,
        row.action,
        row.params,
        row.receiver,
        row.state,
        row.reason,
        row.decided_by,
        row.attempts,
        row.alert_retracted,
        row.superseded_by,
        format(row.created_at),
        format(row.updated_at),
    ])?;
    Ok(())
}

fn write_audit(transaction: &Transaction<'_>, row: &AuditRow) -> rusqlite::Result<()> {
    let sql = "INSERT INTO audit (hash, seq, time, actor, actor_kind, address, action, outcome, detail, line) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (hash) DO NOTHING";
    transaction.prepare_cached(sql)?.execute(params![
        row.hash,
        count(row.seq),
        format(row.time),
        row.actor,
        row.actor_kind,
        row.address,
        row.action,
        row.outcome,
        row.detail,
        row.line,
    ])?;
    Ok(())
}

fn write_event(transaction: &Transaction<'_>, row: &EventRow) -> rusqlite::Result<()> {
    let sql = "INSERT INTO agent_events (event_key, time, tenant_id, agent_id, session_id, event_type, target, allowed, guard, \
               severity, risk_score, metadata, sample_share, source_position) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) \
               ON CONFLICT (event_key, time) DO NOTHING";
    transaction.prepare_cached(sql)?.execute(params![
        row.key,
        format(row.time),
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
        row.sample_share,
        row.source_position,
    ])?;
    Ok(())
}

fn write_position(
    transaction: &Transaction<'_>,
    (source, partition, next): &(String, i64, i64),
) -> rusqlite::Result<()> {
    let sql = r#"INSERT INTO archive_positions (source, "partition", next_offset) VALUES (?1, ?2, ?3)
                 ON CONFLICT (source, "partition") DO UPDATE SET next_offset = excluded.next_offset
                 WHERE excluded.next_offset > archive_positions.next_offset"#;
    transaction.prepare_cached(sql)?.execute(params![source, partition, next])?;
    Ok(())
}

/// Only what a row's values can cause is refused; anything else may pass (a full disk, a lock, a missing table).
fn classify(path: &Path, error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch) => {
            StoreError::Refused(format!("database {path:?}: {error}"))
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            StoreError::Unavailable(format!("database {path:?}: {error}: another process holds it; end that process"))
        }
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => StoreError::Unavailable(format!(
            "database {path:?}: {error}; expected a SQLite database: restore it, or configure another path"
        )),
        _ => StoreError::Unavailable(format!("database {path:?}: {error}")),
    }
}
