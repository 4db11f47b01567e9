//! The driver of a store: one task that owns its one connection, and tries until what it was given is durable.
//!
//! - Alerts and sessions wait in [`super::pending`], one version each, and go before events; an alert waits for one
//!   event batch at most. Sessions are written once a beat.
//! - Event batches come through a short queue whose sender waits, so an archive that is behind holds its reader, and
//!   nobody else.
//! - An unavailable store is tried again with growing, jittered pauses, for ever; [`Status`] says so.
//! - Rows that the store refuses are found by halving, logged, counted and left out; the rest is written.
//!
//! Knows no tables and no SQL.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::Rng;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::pending::{Pending, VersionSender};
use super::{Batch, EventRow, Store, StoreError};

/// Event batches that may wait. Their size is the sender's business.
const ARCHIVE_QUEUE: usize = 2;
/// Sessions change with each event; the store sees each of them at most so often.
const SESSION_BEAT: Duration = Duration::from_secs(1);
/// Most rows of alerts and sessions in one transaction, so that an acknowledged part isn't written again and again.
const VERSIONS_PER_WRITE: usize = 2_000;
/// The first pause after an error, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Refused rows that are logged one by one; the others are only counted.
const REFUSED_LOGGED: u64 = 20;

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
    Events {
        work: Work,
        receipt: oneshot::Sender<Written>,
    },
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
        let writer = Writer {
            store,
            pending: pending.clone(),
            queue,
            status: status_sender,
            hurry: hurry.clone(),
            next_beat: Instant::now(),
        };
        StoreWriter {
            pending,
            jobs,
            status,
            hurry,
            task: tokio::spawn(writer.run()),
        }
    }

    /// A producer of alert and session versions; each dataflow worker has its own.
    pub fn versions(&self) -> VersionSender {
        self.pending.sender()
    }

    /// The archive's way in.
    pub fn archive(&self) -> ArchiveSender {
        ArchiveSender {
            jobs: self.jobs.clone(),
        }
    }

    /// How the store is doing, now and later.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
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
                let why = self
                    .status
                    .borrow()
                    .degraded
                    .clone()
                    .unwrap_or_else(|| "it is still writing".into());
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
    pub async fn send(
        &self,
        events: Vec<EventRow>,
        positions: Vec<(String, u32, u64)>,
    ) -> Result<Receipt, Closed> {
        let (receipt, wait) = oneshot::channel();
        let work = Work::new(Batch {
            events,
            positions,
            ..Batch::default()
        });
        self.jobs
            .send(Job::Events { work, receipt })
            .await
            .map_err(|_| Closed)?;
        Ok(wait)
    }

    /// How far the archive has come, by source name and partition. Waits for a store that is away.
    pub async fn positions(&self) -> Result<Vec<(String, u32, u64)>, StoreError> {
        let closed = || StoreError::Unavailable(Closed.to_string());
        let (reply, wait) = oneshot::channel();
        self.jobs
            .send(Job::Positions(reply))
            .await
            .map_err(|_| closed())?;
        wait.await.map_err(|_| closed())?
    }
}

impl Hurry {
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
}

impl Writer {
    /// Ends when the task is aborted, or when every sender is gone.
    async fn run(mut self) {
        let mut job = None;
        loop {
            let flushing = matches!(job, Some(Job::Flush(_)));
            let step = match self.write_versions(flushing).await {
                Ok(()) => match job.take() {
                    Some(current) => self.advance(current, &mut job).await,
                    None => Ok(()),
                },
                Err(reason) => Err(reason),
            };
            match step {
                Err(reason) => self.pause(reason).await,
                Ok(()) if job.is_none() => match self.wait().await {
                    Wake::Job(next) => job = Some(next),
                    // Versions may come without a break; events have their turn between them.
                    Wake::Versions => job = self.queue.try_recv().ok(),
                    Wake::Closed => return,
                },
                Ok(()) => {}
            }
        }
    }

    /// What to do next, once there is nothing to do.
    async fn wait(&mut self) -> Wake {
        let (_, sessions) = self.pending.len();
        tokio::select! {
            biased;
            () = self.pending.changed() => Wake::Versions,
            () = sleep_until(self.next_beat), if sessions > 0 => Wake::Versions,
            job = self.queue.recv() => job.map_or(Wake::Closed, Wake::Job),
        }
    }

    /// Writes what waits in `pending`; what can't be written waits again.
    async fn write_versions(&mut self, flushing: bool) -> Result<(), String> {
        let beat = flushing || Instant::now() >= self.next_beat;
        let Some(generation) = self.pending.take(beat) else {
            return Ok(());
        };
        if beat {
            self.next_beat = Instant::now() + SESSION_BEAT;
        }
        let (batch, marks) = generation.split();
        let mut work = Work::of_versions(batch);
        let outcome = self.work_off(&mut work).await;
        match outcome {
            Ok(()) => self.pending.written(marks),
            Err(_) => {
                self.next_beat = Instant::now();
                work.parts
                    .into_iter()
                    .for_each(|part| self.pending.put_back(part));
            }
        }
        outcome
    }

    /// Does a job, or puts it back into `slot` for the next attempt.
    async fn advance(&mut self, current: Job, slot: &mut Option<Job>) -> Result<(), String> {
        match current {
            Job::Events { mut work, receipt } => match self.work_off(&mut work).await {
                Ok(()) => {
                    // Nobody has to wait for it.
                    let _unheard = receipt.send(Written {
                        refused: work.refused,
                    });
                    Ok(())
                }
                Err(reason) => {
                    *slot = Some(Job::Events { work, receipt });
                    Err(reason)
                }
            },
            Job::Positions(reply) => match self.store.archive_positions().await {
                Err(StoreError::Unavailable(reason)) => {
                    *slot = Some(Job::Positions(reply));
                    Err(reason)
                }
                answer => {
                    self.recovered();
                    let _unheard = reply.send(answer);
                    Ok(())
                }
            },
            // Versions were written just before, sessions too.
            Job::Flush(done) => {
                self.hurry.asked.store(false, Ordering::Relaxed);
                let _unheard = done.send(());
                Ok(())
            }
        }
    }

    /// Writes all parts, and leaves those that aren't written in `work`.
    async fn work_off(&mut self, work: &mut Work) -> Result<(), String> {
        while let Some(part) = work.parts.pop() {
            if part.is_empty() {
                continue;
            }
            match self.store.write(&part).await {
                Ok(()) => self.recovered(),
                Err(StoreError::Unavailable(reason)) => {
                    work.parts.push(part);
                    return Err(reason);
                }
                Err(StoreError::Refused(reason)) => {
                    self.recovered();
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
        if count <= REFUSED_LOGGED {
            tracing::error!(
                row,
                reason,
                count,
                "the store refused a row; it is left out"
            );
        }
    }

    fn recovered(&mut self) {
        let was = self.status.borrow().failures;
        if was > 0 {
            self.status
                .send_modify(|status| (status.degraded, status.failures) = (None, 0));
            tracing::info!(failures = was, "the store is back");
        }
    }

    /// Notes the failure and lets some time pass: longer each time, and never quite the same, so that processes don't
    /// come back all at once.
    async fn pause(&mut self, reason: String) {
        let failures = self.status.borrow().failures;
        if failures == 0 {
            let (alerts, sessions) = self.pending.len();
            tracing::warn!(
                reason,
                alerts,
                sessions,
                "the store is unavailable; trying again until it is back"
            );
        }
        self.status.send_modify(|status| {
            status.degraded = Some(reason);
            status.failures = failures.saturating_add(1);
        });
        let full = PAUSES.0.saturating_mul(1 << failures.min(16)).min(PAUSES.1);
        let pause = full.mul_f64(rand::rng().random_range(0.5..=1.0));
        // Somebody waits for a flush: don't sleep through the store's return.
        let pause = if self.hurry.asked.load(Ordering::Relaxed) {
            pause.min(PAUSES.0)
        } else {
            pause
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = self.hurry.notify.notified() => {}
        }
    }
}

enum Wake {
    Job(Job),
    Versions,
    Closed,
}

/// A batch on its way into the store: the parts that aren't there yet, last first.
struct Work {
    parts: Vec<Batch>,
    refused: u64,
}

impl Work {
    fn new(batch: Batch) -> Work {
        Work {
            parts: vec![batch],
            refused: 0,
        }
    }

    /// Versions needn't be written at once.
    fn of_versions(mut batch: Batch) -> Work {
        let mut work = Work {
            parts: Vec::new(),
            refused: 0,
        };
        while batch.rows() > VERSIONS_PER_WRITE {
            work.parts.push(split_off(&mut batch, VERSIONS_PER_WRITE));
        }
        work.parts.push(batch);
        work.parts.reverse();
        work
    }

    /// After a refusal: halves the part; or drops its only row, and gives that back. Positions stay with what is written
    /// last, so that they never run ahead of their events.
    fn narrow(&mut self, mut part: Batch) -> Option<String> {
        match part.rows() {
            0 => {
                self.refused += 1;
                Some(format!("positions {:?}", part.positions))
            }
            1 => {
                self.refused += 1;
                let positions = std::mem::take(&mut part.positions);
                self.parts.push(Batch {
                    positions,
                    ..Batch::default()
                });
                Some(name_of(&part))
            }
            n => {
                let first = split_off(&mut part, n / 2);
                self.parts.push(part);
                self.parts.push(first);
                None
            }
        }
    }
}

/// Takes `count` rows, never positions, out of a batch.
fn split_off(batch: &mut Batch, mut count: usize) -> Batch {
    fn take<T>(rows: &mut Vec<T>, count: &mut usize) -> Vec<T> {
        let rest = rows.split_off((*count).min(rows.len()));
        *count -= rows.len();
        std::mem::replace(rows, rest)
    }
    Batch {
        alerts: take(&mut batch.alerts, &mut count),
        removed_sessions: take(&mut batch.removed_sessions, &mut count),
        sessions: take(&mut batch.sessions, &mut count),
        events: take(&mut batch.events, &mut count),
        positions: Vec::new(),
    }
}

/// A batch's first row, for a log; quoted, since agents choose most names.
fn name_of(batch: &Batch) -> String {
    let short = |text: &str| text.chars().take(200).collect::<String>();
    if let Some(alert) = batch.alerts.first() {
        return format!("alert {:?}", short(&alert.alert_id));
    }
    if let Some(event) = batch.events.first() {
        return format!(
            "event {:?} of agent {:?}",
            short(&event.key),
            short(&event.agent_id)
        );
    }
    let session = batch
        .sessions
        .first()
        .map(|s| (&s.view.agent_id, &s.view.session_id));
    let removed = batch
        .removed_sessions
        .first()
        .map(|r| (&r.key.agent_id, &r.key.session_id));
    let (agent, id) = session
        .or(removed)
        .map_or(Default::default(), |(a, s)| (short(a), short(s)));
    format!("session {id:?} of agent {agent:?}")
}
