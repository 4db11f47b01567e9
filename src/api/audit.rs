//! What the API writes into the audit trail, and `/v1/audit`, which shows it.
//!
//! A write has a row before it takes effect and one that says how it ended, both durable before its answer. Without the first
//! it isn't tried.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::App;
use super::access::Caller;
use super::answer::AsOf;
use super::cursor::{Next, Page, Paging};
use super::error::ApiError;
use super::params::Query;
use super::rates::{Counted, Rates};
use crate::audit::{self, Audit, Entry, Outcome, Who};

/// Rows a second, four at once, for refused writes of callers that nobody knows, or that ask too often: each is an fsync, and
/// rows are never deleted. The next row says how many were left out.
const UNKNOWN_A_SECOND: u32 = 1;

/// The trail, as the API writes it.
pub(super) struct Recorder {
    audit: Audit,
    unknown: Rates,
    left_out: AtomicU64,
}

impl Recorder {
    pub(super) fn new(audit: Audit) -> Recorder {
        Recorder { audit, unknown: Rates::new(UNKNOWN_A_SECOND), left_out: AtomicU64::new(0) }
    }

    /// A write that wasn't even tried. It stays refused, whether or not this can be written.
    pub(super) async fn refused(&self, write: &Write, status: StatusCode, code: &str) {
        let bounded = write.caller.is_none() || status == StatusCode::TOO_MANY_REQUESTS;
        if bounded && self.unknown.take(Counted::Holder(String::new()), Instant::now()).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let detail = [("status", json!(status.as_u16())), ("code", json!(code))];
        if let Err(error) = self.append(write.entry(Outcome::Refused), detail).await {
            tracing::error!("a refused {} is not in the audit trail: {error}", write.action);
        }
    }

    async fn append<const N: usize>(&self, mut entry: Entry, detail: [(&str, Value); N]) -> Result<u64, String> {
        for (name, value) in detail {
            entry = entry.with(name, value);
        }
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            entry = entry.with("refused_left_out", left_out);
        }
        let appended = self.audit.record(entry).await;
        if appended.is_err() {
            self.left_out.fetch_add(left_out, Ordering::Relaxed);
        }
        appended
    }
}

/// A request that wants to change something; the gate adds it to the request.
#[derive(Clone)]
pub(super) struct Write {
    pub(super) recorder: Arc<Recorder>,
    pub(super) action: &'static str,
    pub(super) caller: Option<Caller>,
    pub(super) from: SocketAddr,
    /// A row says what became of it.
    recorded: Arc<AtomicBool>,
}

impl Write {
    pub(super) fn new(recorder: Arc<Recorder>, action: &'static str, from: SocketAddr) -> Write {
        Write { recorder, action, caller: None, from, recorded: Arc::default() }
    }

    pub(super) fn is_recorded(&self) -> bool {
        self.recorded.load(Ordering::Relaxed)
    }

    /// Who wants it.
    pub(super) fn who(&self) -> Who {
        self.caller.as_ref().map_or(Who::kind("nobody"), Caller::who)
    }

    fn entry(&self, outcome: Outcome) -> Entry {
        Entry { from: Some(self.from.to_string()), ..Entry::new(self.who(), self.action, outcome) }
    }

    /// Does it between two rows, which `detail` and what the deed gives with its result tell more of. In a task of its own: a
    /// client that hangs up must not leave it half recorded.
    pub(super) async fn carry_out<T: Send + 'static, const N: usize>(
        self,
        detail: [(&'static str, Value); N],
        deed: impl Future<Output = Result<(T, Value), ApiError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        let action = self.action;
        let task = tokio::spawn(async move {
            let begun = self.begin(detail).await?;
            let done = deed.await;
            let (outcome, detail) = match &done {
                Ok((_, detail)) => (Outcome::Done, detail.clone()),
                Err(error) => (Outcome::Failed, json!({"why": error.message()})),
            };
            begun.end(outcome, detail.as_object().cloned().unwrap_or_default()).await;
            done.map(|(done, _)| done)
        });
        task.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a write ({action}) ended without an answer");
            Err(ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                format!("the write ({action}) ended without an answer"),
                "ask for what it would have changed; the engine's log says more",
            ))
        })
    }

    /// It is about to be done; refuses it where that can't be written down.
    async fn begin<const N: usize>(self, detail: [(&str, Value); N]) -> Result<Begun, ApiError> {
        let begun = self.recorder.append(self.entry(Outcome::Begun), detail).await;
        match begun {
            Ok(seq) => {
                self.recorded.store(true, Ordering::Relaxed);
                Ok(Begun { write: self, seq })
            }
            Err(error) => {
                tracing::error!("{error}; until then the API refuses every write");
                Err(ApiError::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "audit_unwritable",
                    "the audit trail can't be written, so nothing is changed",
                    "the engine's log says why",
                ))
            }
        }
    }
}

/// A write under way.
struct Begun {
    write: Write,
    seq: u64,
}

impl Begun {
    /// Says how it ended. It has taken effect, or not, by now: a failure is only told in the log.
    async fn end(self, outcome: Outcome, detail: Map<String, Value>) {
        let mut entry = self.write.entry(outcome).with("of", self.seq);
        for (name, value) in detail {
            entry = entry.with(&name, value);
        }
        if let Err(error) = self.write.recorder.append(entry, []).await {
            tracing::error!(of = self.seq, "how a write ended is not in the audit trail: {error}");
        }
    }
}

/// A page of the audit trail.
#[derive(Serialize, JsonSchema)]
pub(super) struct Trail {
    as_of: AsOf,
    /// As they stand in the file, so that their hashes can be computed again.
    #[schemars(with = "Vec<audit::Shown>")]
    rows: Vec<Value>,
    next: Next,
    /// Lines among them that are no whole rows.
    unreadable: u64,
}

/// `GET /v1/audit`, the latest first.
pub(super) async fn list(State(app): State<App>, Query((paging,)): Query<(Paging,)>) -> Result<Json<Trail>, ApiError> {
    let page = Page::<u64>::of(paging, &"audit")?;
    let as_of = AsOf(app.handle.stats().epoch);
    let (limit, before) = (page.rows(), page.after);
    let audit = app.recorder.audit.clone();
    let found = tokio::task::spawn_blocking(move || audit.page(before, limit)).await;
    let mut found = found.unwrap_or_else(|e| Err(e.to_string())).map_err(|error| {
        tracing::error!("the audit trail: {error}");
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "audit_unreadable",
            "the audit trail can't be read",
            "the engine's log says why",
        )
    })?;
    let next = page.cut(&mut found.rows, |row| row["seq"].as_u64().unwrap_or_default());
    Ok(Json(Trail { as_of, rows: found.rows, next, unreadable: found.unreadable }))
}
