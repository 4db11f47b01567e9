//! The journal: what leaves the dataflow is durable before anybody is told of it. So a run that goes on from a checkpoint
//! knows what was told after it, and once it has read as far again, tells how that stands now ([`Suspects`]).
//!
//! Without it a run that is killed between an alert and the late event that withdraws it would leave the alert in the store
//! for ever: read again, both may fall into one epoch, and nothing changes.
//!
//! Objects of the checkpoint's storage, JSON: `journal/<epoch>`, by the first epoch they hold, and `journal/0`, what earlier
//! runs told that no run has come to judge yet.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use serde::{Deserialize, Serialize};

use super::driver::{Cuts, Outlet};
use crate::alert::{Alert, Handling};
use crate::checkpoint::{Sealed, Storage, StorageError};
use crate::inbox::PartitionId;
use crate::render::control::Suspects;
use crate::render::detect::Totals;
use crate::render::export::Exported;
use crate::session::SessionKey;

/// Epochs that may wait to be written down.
const WAITING: usize = 64;
/// What is behind is offered again after so long.
const AGAIN: Duration = Duration::from_millis(1);
/// How often objects that nobody needs are looked for.
const CLEAN: Duration = Duration::from_secs(1);

/// See above. Its names sort before all others.
const INHERITED: &str = "journal/0";
/// The epoch of what is inherited: after every checkpoint.
const NEVER_KEPT: u64 = u64::MAX;

/// What was told in some epochs.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Entry {
    /// Versions, each with its epoch.
    alerts: Vec<(u64, Alert)>,
    /// Lives of which something was told, with the epoch; once between two cuts.
    sessions: Vec<(u64, SessionKey)>,
}

/// An object of the journal.
#[derive(Debug, Serialize, Deserialize)]
struct Object<E> {
    entry: E,
    /// What was to be read next when it was told, or later.
    positions: Vec<(String, u32, u64)>,
}

/// What was told after the checkpoint that the run begins with, and when it can be judged.
#[derive(Clone, Debug, Default)]
pub struct Told {
    alerts: HashMap<String, Alert>,
    sessions: HashSet<SessionKey>,
    positions: BTreeMap<PartitionId, u64>,
}

impl Told {
    /// This run has told of these itself. What it tells again from its checkpoint says nothing of a later version.
    pub fn clear(&mut self, batch: &Exported) {
        if self.is_empty() {
            return;
        }
        for alert in &batch.alerts {
            if self.knows_none_after(alert) {
                self.alerts.remove(&alert.alert_id);
            }
        }
        for change in &batch.sessions {
            if let Some(life) = change.life() {
                self.sessions.remove(&life);
            }
        }
    }

    /// Everything that had been read then is read again.
    pub fn is_reached(&self, totals: &Totals) -> bool {
        self.positions.iter().all(|(id, next)| totals.positions.get(id).is_some_and(|now| now >= next))
    }

    /// What analysts had done with the alerts, which no run finds out by itself.
    pub fn handled(&self) -> Vec<(String, Handling)> {
        let handled = self.alerts.values().filter(|alert| !alert.handling.notes().is_empty());
        handled.map(|alert| (alert.alert_id.clone(), alert.handling.clone())).collect()
    }

    /// What this run hasn't told of by itself.
    pub fn into_suspects(self) -> Suspects {
        Suspects { alerts: self.alerts.into_values().collect(), sessions: self.sessions.into_iter().collect() }
    }
}

/// What the journal holds at the start.
pub struct Journal {
    storage: Storage,
    sources: Vec<String>,
    /// There is something from earlier runs.
    inherits: bool,
}

impl Journal {
    /// Reads what was told after `epoch`; `sources`: their names, by their places.
    ///
    /// # Errors
    /// It can't be read.
    pub fn read(storage: Storage, epoch: u64, sources: &[String]) -> Result<(Journal, Told), StorageError> {
        let mut told = Told::default();
        let mut names = storage.list("journal")?;
        names.sort_unstable();
        for name in &names {
            let entry = match storage.get(name) {
                Ok(bytes) => serde_json::from_slice::<Object<Entry>>(&bytes).ok(),
                Err(damaged @ StorageError::Damaged { .. }) => {
                    // It was being written: nobody was told of it.
                    tracing::warn!("{damaged}; it is left out");
                    None
                }
                Err(failed) => return Err(failed),
            };
            if let Some(object) = entry {
                told.add(object, epoch, sources);
            }
        }
        let journal = Journal { storage, sources: sources.to_vec(), inherits: !told.is_empty() };
        // As one object, so that those of earlier runs can go.
        if journal.inherits {
            journal.storage.put(INHERITED, &journal.json(&told.entry(), &told.positions))?;
        }
        journal.storage.delete(names.into_iter().filter(|name| !journal.inherits || name != INHERITED));
        Ok((journal, told))
    }

    /// As an object, with these positions.
    fn json(&self, entry: &Entry, positions: &BTreeMap<PartitionId, u64>) -> Sealed {
        let name = |id: &PartitionId| self.sources.get(usize::from(id.source)).cloned();
        let positions = positions.iter().filter_map(|(id, next)| Some((name(id)?, id.partition, *next))).collect();
        // Texts and numbers: there is nothing in it that JSON can't say.
        Sealed::new(serde_json::to_vec(&Object { entry, positions }).unwrap_or_default())
    }

    /// From now on writes down what is offered, and then offers it to `inner`.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn before(self, inner: Box<dyn Outlet>, cuts: Cuts) -> Result<Journaled, String> {
        let (to, from) = bounded(WAITING);
        let acked = Arc::new(AtomicU64::new(0));
        let reconciled = Arc::new(AtomicU64::new(u64::MAX));
        let mut task = Task {
            journal: self,
            inner,
            cuts,
            acked: acked.clone(),
            reconciled: reconciled.clone(),
            since_cut: HashSet::new(),
            cut: 0,
            durable: 0,
            durable_before: 0,
            ours: VecDeque::new(),
        };
        std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || task.run(&from))
            .map_err(|e| format!("no thread for the journal: {e}; raise the limit of processes"))
            .map(|thread| Journaled { to: Some(to), acked, reconciled, thread: Some(thread) })
    }
}

impl Told {
    fn is_empty(&self) -> bool {
        self.alerts.is_empty() && self.sessions.is_empty()
    }

    fn entry(&self) -> Entry {
        Entry {
            alerts: self.alerts.values().map(|alert| (NEVER_KEPT, alert.clone())).collect(),
            sessions: self.sessions.iter().map(|key| (NEVER_KEPT, key.clone())).collect(),
        }
    }

    /// No later version of the alert was told.
    fn knows_none_after(&self, alert: &Alert) -> bool {
        self.alerts.get(&alert.alert_id).is_none_or(|told| told.revision <= alert.revision)
    }

    /// What was told up to `after` is in the checkpoint, as it was told last.
    fn add(&mut self, Object { entry, positions }: Object<Entry>, after: u64, sources: &[String]) {
        for (epoch, alert) in entry.alerts {
            if !self.knows_none_after(&alert) {
                continue;
            }
            // Also where it was retracted: the killed run may not have come to tell it.
            if epoch > after {
                self.alerts.insert(alert.alert_id.clone(), alert);
            } else {
                self.alerts.remove(&alert.alert_id);
            }
        }
        for (epoch, key) in entry.sessions {
            if epoch > after {
                self.sessions.insert(key);
            } else {
                self.sessions.remove(&key);
            }
        }
        for (source, partition, next) in positions {
            if let Some(id) = partition_id(sources, &source, partition) {
                let known = self.positions.entry(id).or_default();
                *known = next.max(*known);
            }
        }
    }
}

/// The partition of the source with this name; `None`: there is no such source any more.
pub(super) fn partition_id(sources: &[String], source: &str, partition: u32) -> Option<PartitionId> {
    let place = sources.iter().position(|name| name == source)?;
    Some(PartitionId { source: u16::try_from(place).ok()?, partition })
}

/// What goes to the journal's thread.
enum Passing {
    Batch(Exported, BTreeMap<PartitionId, u64>),
    Closed(u64, Box<Totals>),
}

/// An outlet that writes down what passes.
pub struct Journaled {
    to: Option<Sender<Passing>>,
    acked: Arc<AtomicU64>,
    reconciled: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Outlet for Journaled {
    fn offer(&mut self, batch: Exported, totals: &Totals) -> Option<Exported> {
        let to = self.to.as_ref()?;
        match to.try_send(Passing::Batch(batch, totals.positions.clone())) {
            Err(TrySendError::Full(Passing::Batch(batch, _))) => Some(batch),
            // Nobody takes anything any more: the process ends.
            _ => None,
        }
    }

    fn closed(&mut self, epoch: u64, totals: &Totals) {
        let Some(to) = &self.to else { return };
        let closed = Passing::Closed(epoch, Box::new(totals.clone()));
        // If it is full a later epoch says more, unless there is none.
        let _later_says_more = if epoch < u64::MAX { to.try_send(closed).is_ok() } else { to.send(closed).is_ok() };
    }

    fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    fn reconciled(&mut self, epoch: u64) {
        self.reconciled.store(epoch, Ordering::Relaxed);
    }
}

impl Drop for Journaled {
    /// Waits until everything has passed.
    fn drop(&mut self) {
        self.to = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the journal's thread panicked");
        }
    }
}

struct Task {
    journal: Journal,
    inner: Box<dyn Outlet>,
    cuts: Cuts,
    acked: Arc<AtomicU64>,
    reconciled: Arc<AtomicU64>,
    /// Lives that were written down since the latest cut.
    since_cut: HashSet<SessionKey>,
    /// The latest cut that a batch has passed.
    cut: u64,
    /// The two latest that are durable.
    durable: u64,
    durable_before: u64,
    /// Objects of this run, with the last epoch in each.
    ours: VecDeque<(u64, String)>,
}

impl Task {
    fn run(&mut self, from: &Receiver<Passing>) {
        loop {
            let first = match from.recv_timeout(CLEAN) {
                Ok(first) => Some(first),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let passing: Vec<Passing> = first.into_iter().chain(from.try_iter()).collect();
            self.write_down(&passing);
            for one in passing {
                self.pass(one);
            }
            self.acked.store(self.inner.acked(), Ordering::Relaxed);
            self.clean();
        }
    }

    fn write_down(&mut self, passing: &[Passing]) {
        let mut entry = Entry::default();
        let mut span: Option<(u64, u64, &BTreeMap<PartitionId, u64>)> = None;
        for one in passing {
            let Passing::Batch(batch, read) = one else { continue };
            span = Some((span.map_or(batch.epoch, |(first, ..)| first), batch.epoch, read));
            let cut = self.cuts.given.load(Ordering::Relaxed);
            if cut > self.cut && batch.epoch > cut {
                self.cut = cut;
                self.since_cut.clear();
            }
            entry.alerts.extend(batch.alerts.iter().map(|alert| (batch.epoch, alert.clone())));
            for change in &batch.sessions {
                if let Some(view) = change.view()
                    && self.since_cut.insert(SessionKey::of(view))
                {
                    entry.sessions.push((batch.epoch, SessionKey::of(view)));
                }
            }
        }
        let Some((first, last, positions)) = span else { return };
        if entry.alerts.is_empty() && entry.sessions.is_empty() {
            return;
        }
        let bytes = self.journal.json(&entry, positions);
        let name = format!("journal/{first:020}");
        self.journal.storage.put_until_there(&name, &bytes, "alerts wait until they are written down");
        self.ours.push_back((last, name));
    }

    fn pass(&mut self, one: Passing) {
        match one {
            Passing::Batch(batch, positions) => {
                let totals = Totals { positions, ..Totals::default() };
                let mut waiting = Some(batch);
                while let Some(batch) = waiting {
                    waiting = self.inner.offer(batch, &totals);
                    if waiting.is_some() {
                        std::thread::sleep(AGAIN);
                    }
                }
            }
            Passing::Closed(epoch, totals) => self.inner.closed(epoch, &totals),
        }
    }

    /// What was told before a durable checkpoint needs no journal; the one before it is kept, too. What was inherited is needed
    /// until it was judged.
    fn clean(&mut self) {
        let durable = self.cuts.durable.load(Ordering::Relaxed);
        if durable > self.durable {
            (self.durable, self.durable_before) = (durable, self.durable);
        }
        if self.journal.inherits && self.inner.acked() >= self.reconciled.load(Ordering::Relaxed) {
            self.journal.inherits = false;
            self.journal.storage.delete([INHERITED.to_owned()]);
        }
        // Until then they say which of it was told again.
        while !self.journal.inherits
            && let Some((epoch, _)) = self.ours.front()
            && *epoch <= self.durable_before
            && let Some((_, name)) = self.ours.pop_front()
        {
            self.journal.storage.delete([name]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(revision: u64) -> Alert {
        Alert { revision, ..Alert::sample() }
    }

    fn object(epoch: u64, revision: u64) -> Object<Entry> {
        let entry = Entry { alerts: vec![(epoch, version(revision))], sessions: Vec::new() };
        Object { entry, positions: Vec::new() }
    }

    fn suspects(told: Told) -> Vec<u64> {
        told.into_suspects().alerts.iter().map(|alert| alert.revision).collect()
    }

    /// A run tells again what its checkpoint holds and the store may not have had. Stores keep the highest revision: what a
    /// killed run told after the checkpoint is still to be set right.
    #[test]
    fn a_version_that_is_told_again_does_not_hide_a_later_one() {
        let mut told = Told::default();
        told.add(object(20, 20), 10, &[]);
        let batch = |revision| Exported { epoch: 100, alerts: vec![version(revision)], sessions: Vec::new() };
        told.clear(&batch(6));
        assert_eq!(suspects(told.clone()), [20]);
        told.clear(&batch(100));
        assert!(suspects(told).is_empty());
    }

    /// The run that told it again was killed, too, before it had read as far; its own checkpoint is the next to begin with.
    #[test]
    fn nor_does_it_for_the_run_after_the_next() {
        let mut told = Told::default();
        told.add(object(NEVER_KEPT, 20), 150, &[]);
        told.add(object(100, 6), 150, &[]);
        assert_eq!(suspects(told.clone()), [20]);
        told.add(object(120, 120), 150, &[]);
        assert!(suspects(told).is_empty());
    }
}
