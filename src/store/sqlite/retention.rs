//! Retention in SQLite: small transactions, with as long a pause after each, so that the writer gets the file in between.
//!
//! Freed pages go back to the file system in files that were made with `auto_vacuum = INCREMENTAL`, as new ones are. In
//! older ones they are used again by later rows; a whole `VACUUM` would hold the file, and need as much disk again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, TransactionBehavior, params};

use super::{BUSY_TIMEOUT, Sqlite, classify, format};
use crate::config::Retention;
use crate::store::StoreError;
use crate::store::retention::{Due, Removed};

/// Rows of a transaction.
const ROWS: u32 = 1_000;
/// Pages given back after each: at least as many as so many rows and their index entries fill.
const PAGES: u32 = 2_000;
/// The least pause after a transaction.
const PAUSE: Duration = Duration::from_millis(5);
/// Down to this share of its bound a file is emptied, so that it isn't at its bound again at once.
const EMPTIED: (usize, usize) = (9, 10);

/// The oldest events, no more than so many. Bound on the left: `?1` is a time as text, or NULL for any.
const OLDEST: &str =
    "INSERT INTO temp.due SELECT rowid FROM agent_events WHERE ?1 IS NULL OR time < ?1 ORDER BY time LIMIT ?2";

const ROLL_UP: &str = "INSERT INTO agent_events_rollup (bucket, agent_id, event_type, event_count, violation_count, risk_sum, risk_count) \
    SELECT substr(time, 1, 13) || ':00:00.000000Z', agent_id, event_type, COUNT(*), COUNT(*) FILTER (WHERE NOT allowed), \
    TOTAL(risk_score), COUNT(risk_score) FROM agent_events WHERE rowid IN (SELECT id FROM temp.due) GROUP BY 1, 2, 3 \
    ON CONFLICT (bucket, agent_id, event_type) DO UPDATE SET event_count = event_count + excluded.event_count, \
    violation_count = violation_count + excluded.violation_count, risk_sum = risk_sum + excluded.risk_sum, \
    risk_count = risk_count + excluded.risk_count";

const ALERTS: &str =
    "DELETE FROM alerts WHERE rowid IN (SELECT rowid FROM alerts WHERE last_seen < ?1 ORDER BY last_seen LIMIT ?2)";
const SESSIONS: &str =
    "DELETE FROM sessions WHERE rowid IN (SELECT rowid FROM sessions WHERE last_seen < ?1 ORDER BY last_seen LIMIT ?2)";
const ACTIONS: &str =
    "DELETE FROM actions WHERE rowid IN (SELECT rowid FROM actions WHERE updated_at < ?1 ORDER BY updated_at LIMIT ?2)";
const HOURS: &str = "DELETE FROM agent_events_rollup WHERE (bucket, agent_id, event_type) IN \
    (SELECT bucket, agent_id, event_type FROM agent_events_rollup WHERE bucket < ?1 ORDER BY bucket LIMIT ?2)";

/// One transaction; how many rows it has removed.
type Step = Box<dyn FnOnce(&mut Connection) -> rusqlite::Result<u64> + Send>;

impl Sqlite {
    /// See [`crate::store::Store::sweep`].
    pub(in crate::store) async fn sweep(&mut self, now: i64) -> Result<Removed, String> {
        let sweep = Sweep { path: self.path.clone(), connection: None };
        remove(sweep, self.retention, Due::at(now, &self.retention)).await.map_err(|e| e.to_string())
    }
}

async fn remove(mut sweep: Sweep, retention: Retention, due: Due) -> Result<Removed, StoreError> {
    let mut removed = Removed::default();
    let cutoff = format(due.events);
    removed.events = sweep.all(|| remove_events(Some(cutoff.clone()))).await?;
    if let Some(history) = due.history {
        let cutoff = format(history);
        removed.alerts = sweep.all(|| remove_from(ALERTS, cutoff.clone())).await?;
        removed.sessions = sweep.all(|| remove_from(SESSIONS, cutoff.clone())).await?;
        removed.actions = sweep.all(|| remove_from(ACTIONS, cutoff.clone())).await?;
    }
    if let Some(hours) = due.hours {
        let cutoff = format(hours);
        removed.hours = sweep.all(|| remove_from(HOURS, cutoff.clone())).await?;
    }
    if let Some(bound) = retention.max_size
        && sweep.step(Box::new(used)).await? > bound.0 as u64
    {
        let enough = (bound.0 / EMPTIED.1 * EMPTIED.0) as u64;
        while sweep.step(Box::new(used)).await? > enough {
            let gone = sweep.step(remove_events(None)).await?;
            if gone == 0 {
                removed.still_too_large = sweep.step(Box::new(used)).await? > bound.0 as u64;
                break;
            }
            removed.before_their_time += gone;
            tokio::time::sleep(PAUSE).await;
        }
        removed.events += removed.before_their_time;
    }
    Ok(removed)
}

/// A connection of its own.
struct Sweep {
    path: PathBuf,
    connection: Option<Connection>,
}

impl Sweep {
    /// Removes so many rows at a time until there are none.
    async fn all(&mut self, mut step: impl FnMut() -> Step) -> Result<u64, StoreError> {
        let mut total = 0;
        loop {
            let began = Instant::now();
            let gone = self.step(step()).await?;
            total += gone;
            if gone < u64::from(ROWS) {
                return Ok(total);
            }
            tokio::time::sleep(began.elapsed().max(PAUSE)).await;
        }
    }

    /// On a blocking thread.
    async fn step(&mut self, step: Step) -> Result<u64, StoreError> {
        let (path, connection) = (self.path.clone(), self.connection.take());
        let task = tokio::task::spawn_blocking(move || {
            let mut connection = match connection {
                Some(connection) => connection,
                None => open(&path).map_err(|e| classify(&path, &e))?,
            };
            let out = step(&mut connection).map_err(|e| classify(&path, &e))?;
            Ok((connection, out))
        });
        let ended = |e| StoreError::Unavailable(format!("database {:?}: the sweeping thread ended: {e}", self.path));
        let (connection, out) = task.await.map_err(ended)??;
        self.connection = Some(connection);
        Ok(out)
    }
}

/// Makes no file.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.execute_batch("CREATE TABLE temp.due (id INTEGER PRIMARY KEY) STRICT")?;
    Ok(connection)
}

fn remove_events(before: Option<String>) -> Step {
    Box::new(move |connection| {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute("DELETE FROM temp.due", [])?;
        transaction.prepare_cached(OLDEST)?.execute(params![before, ROWS])?;
        transaction.prepare_cached(ROLL_UP)?.execute([])?;
        let sql = "DELETE FROM agent_events WHERE rowid IN (SELECT id FROM temp.due)";
        let gone = transaction.prepare_cached(sql)?.execute([])?;
        transaction.commit()?;
        give_back(connection)?;
        Ok(gone as u64)
    })
}

fn remove_from(sql: &'static str, before: String) -> Step {
    Box::new(move |connection| {
        let gone = connection.prepare_cached(sql)?.execute(params![before, ROWS])?;
        give_back(connection)?;
        Ok(gone as u64)
    })
}

/// Nothing happens in a file without `auto_vacuum`.
fn give_back(connection: &Connection) -> rusqlite::Result<()> {
    // A page a row of the answer.
    connection.pragma(None, "incremental_vacuum", PAGES, |_| Ok(()))
}

/// Bytes in use; pages that wait to be used again don't count.
fn used(connection: &mut Connection) -> rusqlite::Result<u64> {
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let pages = pragma("page_count")? - pragma("freelist_count")?;
    Ok(pages.unsigned_abs() * pragma("page_size")?.unsigned_abs())
}
