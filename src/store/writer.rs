//! The driver of a store: one task that owns its one connection, and tries until what it was given is durable.
//!
//! - Alerts and sessions wait in [`super::pending`], one version each, and go before events; an alert waits for one
//!   event batch at most. Sessions are written once a beat, and less often where that takes more than half of the time.
//! - Event batches come through a short queue whose sender waits, so an archive that is behind holds its reader, and
//!   nobody else.
//! - An unavailable store is tried again with growing, jittered pauses, for ever; [`Status`] says so. Events that can't
//!   be written hold no alert.
//! - Beside it, [`super::retention`] removes what is due.
//! - Rows that the store refuses are found by halving, logged, counted and left out; the rest is written.
//!
//! Knows no tables and no SQL.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::Instrument as _;

use super::pending::{Pending, VersionSender};
use super::retention::Sweeper;
use super::{ActionRow, AuditRow, Batch, EventRow, Store, StoreError};
use crate::metrics::LIVE;

mod lane;
mod work;

use lane::Lane;
use work::Work;

/// Event batches that may wait. Their size is the sender's business.
const ARCHIVE_QUEUE: usize = 2;
/// Sessions change with each event; the store sees each of them at most so often.
const SESSION_BEAT: Duration = Duration::from_secs(1);
/// Refused rows that are logged one by one; the others are only counted.
const REFUSED_LOGGED: u64 = 20;
/// After these, one in so many is logged.
const REFUSED_SAMPLED: u64 = 1_000;

/// How the store is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Why nothing can be written at the moment; `None` if all is well.
    pub degraded: Option<String>,
    /// Attempts in a row that have failed.
    pub failures: u32,
    /// Rows left out since the start, because the store refused them.
    pub refused: u64,
}

/// The task that writes, and the ways to it. Dropping it ends the task as it stands; [`StoreWriter::stop`] flushes first.
pub struct StoreWriter {
    pending: Arc<Pending>,
    jobs: mpsc::Sender<Job>,
    status: watch::Receiver<Status>,
    hurry: Arc<Hurry>,
    task: JoinHandle<()>,
    sweeper: Sweeper,
}

/// The archive's way in. Clones share its queue.
#[derive(Clone)]
pub struct ArchiveSender {
    jobs: mpsc::Sender<Job>,
}

/// Becomes the outcome once the batch is durable. An error means that the writer has ended before that.
pub type Receipt = oneshot::Receiver<Written>;

/// A durable event batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Rows of it that the store refused, and that were left out.
    pub refused: u64,
}

/// The writer has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store's writer has ended: nothing more is written until the engine starts again")]
pub struct Closed;

type Positions = Result<Vec<(String, u32, u64)>, StoreError>;

enum Job {
    Events { work: Work, receipt: oneshot::Sender<Written> },
    Positions(oneshot::Sender<Positions>),
    Flush(oneshot::Sender<()>),
}

/// Ends pauses early.
#[derive(Default)]
struct Hurry {
    asked: AtomicBool,
    notify: Notify,
}

impl StoreWriter {
    /// Starts the task. Must be called within a tokio runtime; [`VersionSender::send`] needs none.
    pub fn start(store: Store) -> StoreWriter {
        let pending = Arc::new(Pending::default());
        let hurry = Arc::new(Hurry::default());
        let (jobs, queue) = mpsc::channel(ARCHIVE_QUEUE);
        let (status_sender, status) = watch::channel(Status::default());
        let sweeper = Sweeper::start(&store);
        let writer = Writer {
            store,
            pending: pending.clone(),
            queue,
            status: status_sender,
            hurry: hurry.clone(),
            next_beat: Instant::now(),
            versions: Lane::new("alerts and sessions"),
            archive: Lane::new("events, actions and audit rows"),
        };
        StoreWriter { pending, jobs, status, hurry, task: tokio::spawn(writer.run()), sweeper }
    }

    /// A producer of alert and session versions; each dataflow worker has its own.
    pub fn versions(&self) -> VersionSender {
        self.pending.sender()
    }

    /// The archive's way in.
    pub fn archive(&self) -> ArchiveSender {
        ArchiveSender { jobs: self.jobs.clone() }
    }

    /// How the store is doing, now and later.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Why what is due isn't removed at present, now and later.
    pub fn retention_trouble(&self) -> watch::Receiver<Option<String>> {
        self.sweeper.trouble()
    }

    /// Alerts and lives of sessions whose latest version isn't in the store.
    pub fn waiting(&self) -> (usize, usize) {
        self.pending.len()
    }

    /// Waits until everything that was handed over before is durable. Err: not within the deadline, and why.
    pub async fn flush(&self, deadline: Duration) -> Result<(), String> {
        let (done, wait) = oneshot::channel();
        let flushed = async {
            self.jobs.send(Job::Flush(done)).await.map_err(|_| Closed)?;
            wait.await.map_err(|_| Closed)
        };
        self.hurry.ask();
        match timeout(deadline, flushed).await {
            Ok(outcome) => outcome.map_err(|e| e.to_string()),
            Err(_) => {
                let (alerts, sessions) = self.waiting();
                let why = self.status.borrow().degraded.clone().unwrap_or_else(|| "it is still writing".into());
                Err(format!(
                    "not all is stored within {deadline:?}: {alerts} alerts and {sessions} sessions wait, because: {why}"
                ))
            }
        }
    }

    /// Flushes, and ends the task either way.
    pub async fn stop(self, deadline: Duration) -> Result<(), String> {
        self.flush(deadline).await
    }
}

impl Drop for StoreWriter {
    /// A transaction that is under way is rolled back by the store.
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ArchiveSender {
    /// Hands over events with the positions that follow them; both become durable in one transaction. Waits for room in
    /// the queue, not for the store.
    pub async fn send(&self, events: Vec<EventRow>, positions: Vec<(String, u32, u64)>) -> Result<Receipt, Closed> {
        self.send_batch(Batch { events, positions, ..Batch::default() }).await
    }

    /// Hands over versions of actions, behind the events that wait. As [`ArchiveSender::send`].
    pub async fn send_actions(&self, actions: Vec<ActionRow>) -> Result<Receipt, Closed> {
        self.send_batch(Batch { actions, ..Batch::default() }).await
    }

    /// Hands over rows of the audit trail, behind the events that wait. As [`ArchiveSender::send`].
    pub async fn send_audit(&self, audit: Vec<AuditRow>) -> Result<Receipt, Closed> {
        self.send_batch(Batch { audit, ..Batch::default() }).await
    }

    async fn send_batch(&self, batch: Batch) -> Result<Receipt, Closed> {
        let (receipt, wait) = oneshot::channel();
        self.jobs.send(Job::Events { work: Work::new(batch), receipt }).await.map_err(|_| Closed)?;
        Ok(wait)
    }

    /// How far the archive has come, by source name and partition. Waits for a store that is away.
    pub async fn positions(&self) -> Result<Vec<(String, u32, u64)>, StoreError> {
        let closed = || StoreError::Unavailable(Closed.to_string());
        let (reply, wait) = oneshot::channel();
        self.jobs.send(Job::Positions(reply)).await.map_err(|_| closed())?;
        wait.await.map_err(|_| closed())?
    }
}

impl Hurry {
    fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
        self.notify.notify_one();
    }
}

/// The task's own side.
struct Writer {
    store: Store,
    pending: Arc<Pending>,
    queue: mpsc::Receiver<Job>,
    status: watch::Sender<Status>,
    hurry: Arc<Hurry>,
    next_beat: Instant,
    versions: Lane,
    archive: Lane,
}

enum Wake {
    Job(Job),
    Again,
    Closed,
}

impl Writer {
    /// Ends when the task is aborted, or when every sender is gone.
    async fn run(mut self) {
        let mut job = None;
        loop {
            let flushing = matches!(job, Some(Job::Flush(_)));
            let written = self.write_versions(flushing).await;
            job = match job.take() {
                Some(Job::Flush(done)) if written => {
                    self.hurry.asked.store(false, Ordering::Relaxed);
                    // Nobody has to wait for it.
                    let _unheard = done.send(());
                    None
                }
                Some(current) if self.archive.ready() => self.advance(current).await,
                other => other,
            };
            job = match self.wait(job.as_ref()).await {
                Wake::Job(next) => Some(next),
                // Versions may come without a break; events have their turn between them.
                Wake::Again => job.or_else(|| self.queue.try_recv().ok()),
                Wake::Closed => return,
            };
        }
    }

    /// Returns when there is something to do: versions to write, a job to take, or a pause that is over.
    async fn wait(&mut self, job: Option<&Job>) -> Wake {
        let (_, sessions) = self.pending.len();
        let versions_well = self.versions.well();
        let versions_at = match self.versions.retry_at() {
            None => (sessions > 0).then_some(self.next_beat),
            retry => retry,
        };
        let job_at = job.and(self.archive.retry_at());
        tokio::select! {
            biased;
            () = self.hurry.notify.notified() => {
                self.versions.retry_now();
                self.archive.retry_now();
                Wake::Again
            }
            () = self.pending.changed(), if versions_well => Wake::Again,
            () = until(versions_at), if versions_at.is_some() => Wake::Again,
            () = until(job_at), if job_at.is_some() => Wake::Again,
            next = self.queue.recv(), if job.is_none() => next.map_or(Wake::Closed, Wake::Job),
        }
    }

    /// Writes what waits in `pending`; what can't be written waits again. Returns whether nothing was left.
    async fn write_versions(&mut self, flushing: bool) -> bool {
        if !self.versions.ready() {
            return false;
        }
        let beat = flushing || Instant::now() >= self.next_beat;
        let Some(generation) = self.pending.take(beat) else {
            return true;
        };
        let began = Instant::now();
        let (batch, marks) = generation.split();
        let span = tracing::info_span!("store", what = "versions", rows = batch.rows());
        let mut work = Work::of_versions(batch);
        let outcome = self.work_off(&mut work).instrument(span).await;
        observe("store_versions", began);
        if beat {
            self.next_beat = began + next_beat(began.elapsed());
        }
        let written = outcome.is_ok();
        if written {
            self.pending.written(marks);
        } else {
            self.next_beat = Instant::now();
            work.into_parts().for_each(|part| self.pending.put_back(part));
        }
        self.versions.note(outcome, self.hurry.asked());
        self.publish();
        written
    }

    /// Does a job of the archive, or gives it back for the next attempt.
    async fn advance(&mut self, current: Job) -> Option<Job> {
        let (outcome, left) = match current {
            Job::Events { mut work, receipt } => match self.write_events(&mut work).await {
                Ok(()) => {
                    let refused = work.refused();
                    let _unheard = receipt.send(Written { refused });
                    (Ok(()), None)
                }
                Err(reason) => (Err(reason), Some(Job::Events { work, receipt })),
            },
            Job::Positions(reply) => match self.store.archive_positions().await {
                Err(StoreError::Unavailable(reason)) => (Err(reason), Some(Job::Positions(reply))),
                answer => {
                    let _unheard = reply.send(answer);
                    (Ok(()), None)
                }
            },
            // Waits for the versions, not for the archive.
            Job::Flush(done) => return Some(Job::Flush(done)),
        };
        self.archive.note(outcome, self.hurry.asked());
        self.publish();
        left
    }

    async fn write_events(&mut self, work: &mut Work) -> Result<(), String> {
        let began = Instant::now();
        let span = tracing::info_span!("store", what = "events", rows = work.rows());
        let outcome = self.work_off(work).instrument(span).await;
        observe("store_events", began);
        outcome
    }

    /// Writes all parts, and leaves those that aren't written in `work`.
    async fn work_off(&mut self, work: &mut Work) -> Result<(), String> {
        while let Some(part) = work.next() {
            match self.store.write(&part).await {
                Ok(()) => {}
                Err(StoreError::Unavailable(reason)) => {
                    work.put_back(part);
                    return Err(reason);
                }
                Err(StoreError::Refused(reason)) => {
                    if let Some(row) = work.narrow(part) {
                        self.refuse(&row, &reason);
                    }
                }
            }
        }
        Ok(())
    }

    fn refuse(&mut self, row: &str, reason: &str) {
        self.status.send_modify(|status| status.refused += 1);
        let count = self.status.borrow().refused;
        if count <= REFUSED_LOGGED || count.is_multiple_of(REFUSED_SAMPLED) {
            tracing::error!(row, reason, count, "the store refused a row; it is left out");
        }
    }

    /// Tells how it stands, if that has changed.
    fn publish(&mut self) {
        let degraded = self.versions.reason().or(self.archive.reason());
        let failures = self.versions.failures().max(self.archive.failures());
        self.status.send_if_modified(|status| {
            let news = status.degraded.as_deref() != degraded || status.failures != failures;
            if news {
                (status.degraded, status.failures) = (degraded.map(str::to_owned), failures);
            }
            news
        });
    }
}

/// From the beginning of one write of sessions to that of the next. One that takes long leaves as much time to events, which
/// would else get a batch between two of them.
fn next_beat(took: Duration) -> Duration {
    SESSION_BEAT.max(took * 2)
}

/// Also of what didn't succeed: a store that is away shows as one that is slow.
fn observe(sink: &str, began: Instant) {
    LIVE.sink_seconds.with_label_values(&[sink]).observe(began.elapsed().as_secs_f64());
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
