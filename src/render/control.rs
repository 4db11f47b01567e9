//! What goes to every worker: commands from the sequencer, and what workers tell one another.

use clawdstrike_rules::plan::RuleSet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::class::ClassDef;
use crate::alert::{Alert, Handling};
use crate::inbox::PartitionId;
use crate::loads::InForce;
use crate::session::SessionKey;
use crate::view::Query;

/// A command. Worker 0 alone gives commands, so all workers obey them in one order; those of an epoch take effect after
/// it: on the data of later epochs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// The first command.
    Start {
        /// The cluster's secret for hashes.
        secret: Vec<u8>,
        /// The wall clock of an offline replay, microseconds since 1970; `None`: each worker's own.
        now: Option<i64>,
        /// What the checkpoint that the cluster begins with says of the world; `None`: it begins with nothing.
        restored: Option<Restored>,
    },
    /// Switch to this rule set.
    Rules(#[serde(with = "super::json")] Box<Switch>),
    /// All that was kept is back with its owners: go on from there, and read.
    Live,
    /// Put aside what has changed since the last cut: this is the next.
    Checkpoint,
    /// These left an earlier run after the checkpoint that this one began with, and all that it had read is read again.
    Reconcile(#[serde(with = "super::json")] Box<Suspects>),
    /// What analysts have done with alerts, by `alert_id`: just now, or, before anything is read, as far as an earlier run was
    /// told of it after the checkpoint.
    Handle(Vec<(String, Handling)>),
    /// Read no more: the cluster is stopping.
    Drain,
    /// Answer a question as of this epoch.
    Peek {
        /// Names the question.
        id: u64,
        /// The question.
        query: Query,
    },
}

/// A rule set that takes another one's place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Switch {
    /// The set.
    pub set: RuleSet,
    /// Since when each of its rules is in force.
    pub in_force: InForce,
    /// Names the reading again for those that wait for it, in this run; 0: none does.
    pub fill: u32,
}

/// What holds for a whole checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Its number; counted from 1.
    pub checkpoint: u64,
    /// The event-time bound.
    pub watermark: Option<i64>,
    /// Stores and receivers have had everything up to this epoch.
    pub acked: u64,
}

/// What stores and receivers were told by a run that was killed, and haven't been told again: it may hold no more, or hold
/// otherwise, because the run that goes on meets late events earlier.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Suspects {
    /// The latest versions that were told.
    pub alerts: Vec<Alert>,
    /// Lives of sessions.
    pub sessions: Vec<SessionKey>,
}

/// How far a worker's partitions have been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mark {
    /// Some partition has not been read at all.
    Unknown,
    /// All partitions are idle and caught up; the largest reference time over them, if there are any.
    Idle(Option<i64>),
    /// The smallest reference time over the partitions that aren't.
    At(i64),
    /// All sources have ended; the largest event time there was.
    Finished(Option<i64>),
}

/// Counters of one worker, since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Valid events, copies included.
    pub events: u64,
    /// Dead letters by reason.
    pub dead_letters: BTreeMap<String, u64>,
    /// Events whose time had to be the reference time.
    pub retimed: u64,
    /// Records that were gone before they could be read, by source.
    pub lost: BTreeMap<String, u64>,
    /// Why sources can't be read at present, by source.
    pub degraded: BTreeMap<String, String>,
}

/// What workers tell all workers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Notice {
    /// A class that hits of this epoch and later ones may have.
    Class(ClassDef),
    /// A worker has handed all its share of what was kept to its owners.
    PutBack,
    /// A worker has read again more of what rules wait for.
    Filling {
        /// Which worker.
        worker: u32,
        /// Which reading again ([`Switch::fill`]).
        fill: u32,
        /// That was all of it.
        done: bool,
    },
    /// How far a worker has read, and what it has counted.
    Progress {
        /// Which worker.
        worker: u32,
        /// How far.
        mark: Mark,
        /// What.
        counters: Counters,
        /// What to read next of the partitions that were read since it was last told.
        positions: Vec<(PartitionId, u64)>,
        /// Where these partitions end, as far as that is known.
        ends: Vec<(PartitionId, u64)>,
    },
}

/// The event-time bound, from all workers' marks.
#[derive(Debug)]
pub struct Watermark {
    marks: Vec<Mark>,
    max_lateness: i64,
    bound: Option<i64>,
}

impl Watermark {
    /// Of so many workers that have told nothing yet.
    pub fn new(workers: usize, max_lateness: i64) -> Watermark {
        Watermark { marks: vec![Mark::Unknown; workers], max_lateness, bound: None }
    }

    /// Goes on from what was the bound when the checkpoint was made.
    pub fn restore(&mut self, bound: Option<i64>) {
        self.bound = self.bound.max(bound);
    }

    /// A worker tells its mark.
    pub fn tell(&mut self, worker: u32, mark: Mark) {
        if let Some(slot) = self.marks.get_mut(worker as usize) {
            *slot = mark;
        }
    }

    /// The bound as of now; it never goes back. `None`: not known yet.
    pub fn bound(&mut self) -> Option<i64> {
        let now = if let Some(end) = self.finished() {
            end
        } else if self.marks.contains(&Mark::Unknown) {
            None
        } else {
            let smallest = self.marks.iter().filter_map(|m| if let Mark::At(t) = m { Some(*t) } else { None }).min();
            // Those that are idle hold nothing back, and where all are, the latest says how far it has come.
            let latest = || self.marks.iter().filter_map(|m| if let Mark::Idle(t) = m { *t } else { None }).max();
            smallest.or_else(latest).map(|t| t.saturating_sub(self.max_lateness))
        };
        self.bound = self.bound.max(now);
        self.bound
    }

    /// If all workers have finished: the largest event time of all.
    pub fn finished(&self) -> Option<Option<i64>> {
        let ends = self.marks.iter().map(|m| if let Mark::Finished(t) = m { Some(*t) } else { None });
        ends.collect::<Option<Vec<_>>>().map(|all| all.into_iter().flatten().max())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_partitions_that_were_never_read_and_not_for_idle_ones() {
        let mut w = Watermark::new(3, 10);
        w.tell(0, Mark::At(100));
        w.tell(1, Mark::Idle(Some(900)));
        assert_eq!(w.bound(), None);
        w.tell(2, Mark::At(50));
        assert_eq!(w.bound(), Some(40));
    }

    #[test]
    fn where_all_are_idle_the_latest_counts() {
        let mut w = Watermark::new(2, 10);
        w.tell(0, Mark::Idle(None));
        w.tell(1, Mark::Idle(None));
        assert_eq!(w.bound(), None);
        w.tell(1, Mark::Idle(Some(100)));
        w.tell(0, Mark::Idle(Some(50)));
        assert_eq!(w.bound(), Some(90));
    }

    #[test]
    fn never_goes_back() {
        let mut w = Watermark::new(1, 10);
        w.tell(0, Mark::At(100));
        assert_eq!(w.bound(), Some(90));
        w.tell(0, Mark::At(50));
        assert_eq!(w.bound(), Some(90));
    }

    #[test]
    fn at_the_end_it_is_the_largest_event_time() {
        let mut w = Watermark::new(2, 10);
        w.tell(0, Mark::Finished(Some(100)));
        w.tell(1, Mark::Finished(None));
        assert_eq!(w.bound(), Some(100));
    }
}
