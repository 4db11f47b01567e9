//! From the dataflow's exports to those who take them: the store, the responses, the watchers. One task, one order: the
//! store and watchers are handed an epoch at once, responses are put into their ledger; what is acknowledged is the least of both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, watch};

use super::archive::Archived;
use super::driver::Outlet;
use super::handle::{Stats, Tellers};
use crate::inbox::PartitionId;
use crate::render::detect::{SessionChange, Totals};
use crate::render::export::Exported;
use crate::response::Orchestrator;
use crate::store::{VersionSender, Waiting};
use crate::wall_clock;

/// Batches that may wait for the task before the dataflow keeps them.
const BATCHES: usize = 64;

/// What the task is told.
enum Told {
    Batch(Exported),
    Closed(u64),
}

/// The dataflow's side.
pub struct SinkOutlet {
    to: mpsc::Sender<Told>,
    acked: Arc<AtomicU64>,
    stats: watch::Sender<Stats>,
    archived: Arc<Archived>,
    degraded: Degraded,
    store: Option<Waiting>,
}

/// Tells which parts don't work as they should, and why.
pub type Degraded = Box<dyn Fn() -> BTreeMap<String, String> + Send>;

/// Who takes what leaves.
pub struct Sinks {
    /// The store's way in, if there is one.
    pub store: Option<VersionSender>,
    /// The responses.
    pub response: Arc<Orchestrator>,
    /// The watchers.
    pub watchers: Tellers,
}

/// Starts the task on the current tokio runtime.
/// `archived` is told by the archive stage.
pub fn start(
    sinks: Sinks,
    stats: watch::Sender<Stats>,
    archived: Arc<Archived>,
    degraded: Degraded,
) -> (SinkOutlet, tokio::task::JoinHandle<()>) {
    let (to, from) = mpsc::channel(BATCHES);
    let acked = Arc::new(AtomicU64::new(0));
    let store = sinks.store.as_ref().map(VersionSender::waiting);
    let task = tokio::spawn(run(sinks, from, acked.clone()));
    (SinkOutlet { to, acked, stats, archived, degraded, store }, task)
}

async fn run(sinks: Sinks, mut from: mpsc::Receiver<Told>, acked: Arc<AtomicU64>) {
    let mut stored = sinks.store.as_ref().map(VersionSender::watch);
    let mut answered = sinks.response.acked();
    let mut closed = 0;
    loop {
        let store_moved = async {
            match &mut stored {
                Some(stored) => stored.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            told = from.recv() => match told {
                Some(Told::Batch(batch)) => take(&sinks, batch).await,
                Some(Told::Closed(epoch)) => {
                    closed = epoch;
                    if let Some(store) = &sinks.store {
                        store.send(epoch.saturating_sub(1), Vec::new(), Vec::new(), Vec::new());
                    }
                }
                None => return,
            },
            true = store_moved => {}
            Ok(()) = answered.changed() => {}
        }
        let in_store = stored.as_ref().map_or(closed, |s| s.borrow().map_or(0, |epoch| epoch + 1));
        let least = closed.min(in_store).min(*answered.borrow_and_update());
        acked.store(least.saturating_sub(1), Ordering::Relaxed);
    }
}

async fn take(sinks: &Sinks, batch: Exported) {
    let Exported { epoch, alerts, sessions } = batch;
    let live = sessions.iter().filter_map(|change| match change {
        SessionChange::Now(view) => Some((view.tenant_id.as_str(), view.agent_id.as_str())),
        _ => None,
    });
    sinks.response.saw(live).await;
    let mut views = Vec::new();
    let mut gone = Vec::new();
    for change in sessions {
        match change {
            SessionChange::Now(view) | SessionChange::Left(view) => views.push(view),
            SessionChange::Shed(_) => {}
            SessionChange::Gone(key) => gone.push(key),
        }
    }
    sinks.watchers.alerts.tell(alerts.iter().cloned());
    if sinks.watchers.sessions.is_watched() {
        sinks.watchers.sessions.tell(views.iter().cloned());
    } else if !views.is_empty() {
        sinks.watchers.sessions.skip();
    }
    sinks.response.submit(epoch, alerts.as_slice().into()).await;
    if let Some(store) = &sinks.store {
        store.send(epoch, alerts, views, gone);
    }
}

impl SinkOutlet {
    /// The epoch up to which everything is stored and sent, as it goes.
    pub fn acked_by_all(&self) -> Arc<AtomicU64> {
        self.acked.clone()
    }
}

impl Outlet for SinkOutlet {
    fn offer(&mut self, batch: Exported, _totals: &Totals) -> Option<Exported> {
        let alerts = batch.alerts.len() as u64;
        let left = batch.sessions.iter().filter(|s| matches!(s, SessionChange::Left(_))).count() as u64;
        let shed: u64 = batch.sessions.iter().map(|s| if let SessionChange::Shed(n) = s { *n } else { 0 }).sum();
        match self.to.try_send(Told::Batch(batch)) {
            Ok(()) => {
                self.stats.send_modify(|s| {
                    s.alert_versions += alerts;
                    s.sessions_left += left;
                    s.groups_shed += shed;
                });
                None
            }
            Err(mpsc::error::TrySendError::Full(Told::Batch(batch))) => Some(batch),
            Err(_) => None,
        }
    }

    fn closed(&mut self, epoch: u64, totals: &Totals) {
        // If it is full a later epoch says more.
        let _later_says_more = self.to.try_send(Told::Closed(epoch));
        let mut degraded = (self.degraded)();
        let mut lost_records = BTreeMap::new();
        for counters in totals.workers.values() {
            for (source, reason) in &counters.degraded {
                degraded.insert(format!("source {source}"), reason.clone());
            }
            for (source, records) in &counters.lost {
                *lost_records.entry(source.clone()).or_default() += records;
            }
        }
        let told = self.archived.sources();
        for (source, reason) in &told.degraded {
            degraded.insert(format!("archive {source}"), reason.clone());
        }
        let archive_lost_records = told.lost.clone();
        drop(told);
        self.stats.send_modify(|stats| {
            stats.epoch = epoch;
            stats.closed_at = wall_clock::now();
            stats.exports_waiting = self.to.max_capacity() - self.to.capacity();
            stats.store_waiting = self.store.as_ref().map(|waiting| waiting()).unwrap_or_default();
            stats.positions.clear();
            stats.positions.extend(totals.positions.iter().map(|(of, next)| (of.source, of.partition, *next)));
            stats.lags.clear();
            let lag = |(of, end): (&PartitionId, &u64)| {
                let next = totals.positions.get(of)?;
                Some((of.source, of.partition, end.saturating_sub(*next)))
            };
            stats.lags.extend(totals.ends.iter().filter_map(lag));
            stats.archived = self.archived.events();
            stats.archive_left_out = self.archived.left_out();
            stats.degraded = degraded;
            stats.lost_records = lost_records;
            stats.archive_lost_records = archive_lost_records;
            stats.watermark = totals.watermark;
            stats.events = totals.workers.values().map(|c| c.events).sum();
            stats.retimed = totals.workers.values().map(|c| c.retimed).sum();
            stats.dead_letters.clear();
            for (reason, n) in totals.workers.values().flat_map(|c| &c.dead_letters) {
                *stats.dead_letters.entry(reason.clone()).or_default() += n;
            }
        });
    }

    fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }
}
