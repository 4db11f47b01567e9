//! How far a worker has read its partitions: what moves the event-time bound, and what a checkpoint goes on from.

use std::collections::{BTreeMap, HashMap};

use clawdstrike_telemetry::Reference;

use super::control::Mark;
use crate::inbox::PartitionId;
use crate::spool::Progress;

/// One partition.
#[derive(Clone, Copy)]
pub struct PartitionState {
    /// Where its reference times come from.
    pub reference: Reference,
    /// The largest reference time.
    pub largest: Option<i64>,
    /// The largest event time.
    pub latest: Option<i64>,
    /// What to read next; `None`: nothing was read yet.
    pub next: Option<u64>,
    /// Where it ended when that was last known.
    pub end: Option<u64>,
    /// It was polled empty at its end.
    pub idle: bool,
}

impl PartitionState {
    const UNREAD: PartitionState = PartitionState {
        reference: Reference::largest(),
        largest: None,
        latest: None,
        next: None,
        end: None,
        idle: false,
    };

    fn after(progress: Progress) -> PartitionState {
        let reference = match progress.append {
            true => Reference::Append,
            false => Reference::Largest { largest: progress.largest_timestamp },
        };
        let Progress { next, largest, latest, .. } = progress;
        PartitionState { reference, largest, latest, next: Some(next), end: None, idle: false }
    }

    fn progress(&self) -> Option<Progress> {
        let (append, largest_timestamp) = match self.reference {
            Reference::Append => (true, None),
            Reference::Largest { largest } => (false, largest),
        };
        let (largest, latest) = (self.largest, self.latest);
        Some(Progress { next: self.next?, largest, latest, append, largest_timestamp })
    }
}

/// A worker's partitions.
pub struct Partitions {
    states: BTreeMap<PartitionId, PartitionState>,
    /// How far partitions had been read when the checkpoint was made.
    before: HashMap<PartitionId, Progress>,
    /// Partitions of which something was read that wasn't told yet.
    news: Vec<PartitionId>,
}

impl Partitions {
    /// None yet; those that were read `before` go on from there.
    pub fn new(before: HashMap<PartitionId, Progress>) -> Partitions {
        Partitions { states: BTreeMap::new(), before, news: Vec::new() }
    }

    /// The worker owns this partition from now on.
    pub fn assign(&mut self, id: PartitionId) {
        let before = self.before.get(&id).copied();
        self.states.entry(id).or_insert(before.map_or(PartitionState::UNREAD, PartitionState::after));
        // Where it begins is as far as it has been read.
        self.news.push(id);
    }

    /// The partition was polled empty at its end.
    pub fn idle(&mut self, id: PartitionId) {
        if let Some(state) = self.states.get_mut(&id) {
            state.idle = true;
            if state.end.is_some() && state.end != state.next {
                state.end = state.next;
                self.news.push(id);
            }
        }
    }

    /// A partition of which more is to be read.
    pub fn get(&self, id: PartitionId) -> PartitionState {
        let state = self.states.get(&id).copied().unwrap_or(PartitionState::UNREAD);
        PartitionState { idle: false, ..state }
    }

    /// More of a partition was read.
    pub fn set(&mut self, id: PartitionId, state: PartitionState) {
        self.states.insert(id, state);
        if !self.news.contains(&id) {
            self.news.push(id);
        }
    }

    /// What to read next of those that were read since this was last asked.
    pub fn take_news(&mut self) -> Vec<(PartitionId, u64)> {
        let news = std::mem::take(&mut self.news);
        news.into_iter().filter_map(|id| Some((id, self.states.get(&id)?.next?))).collect()
    }

    /// Where those partitions end that are asked for next by [`Partitions::take_news`], as far as that is known.
    pub fn ends(&self) -> Vec<(PartitionId, u64)> {
        self.news.iter().filter_map(|id| Some((*id, self.states.get(id)?.end?))).collect()
    }

    /// There is something to ask [`Partitions::take_news`] for.
    pub fn have_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// What to read next of each partition, also of those that are still to be assigned.
    pub fn read_so_far(&self) -> HashMap<PartitionId, u64> {
        let before = self.before.iter().map(|(id, progress)| (*id, progress.next));
        before.chain(self.states.iter().filter_map(|(id, state)| Some((*id, state.next?)))).collect()
    }

    /// The largest event time that was read of a partition, also of one that is still to be assigned.
    pub fn latest(&self, id: PartitionId) -> Option<i64> {
        self.states.get(&id).map_or_else(|| self.before.get(&id)?.latest, |state| state.latest)
    }

    /// What a checkpoint keeps.
    pub fn progress(&self) -> Vec<(PartitionId, Progress)> {
        self.states.iter().filter_map(|(id, state)| Some((*id, state.progress()?))).collect()
    }

    /// The mark once all sources have ended.
    pub fn finished(&self) -> Mark {
        Mark::Finished(self.states.values().filter_map(|state| state.latest).max())
    }

    /// The mark while there may be more.
    pub fn mark(&self) -> Mark {
        let mut smallest = None;
        for state in self.states.values().filter(|state| !state.idle) {
            let Some(largest) = state.largest else { return Mark::Unknown };
            smallest = Some(smallest.map_or(largest, |s: i64| s.min(largest)));
        }
        let latest = || self.states.values().filter_map(|state| state.largest).max();
        smallest.map_or_else(|| Mark::Idle(latest()), Mark::At)
    }
}
