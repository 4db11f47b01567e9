//! Workers for the tests of sources: they take what a reader sends and remember it.
#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use clawdstrike_edr::source::{Inbox, Inboxes, Message, PartitionId};
use crossbeam_channel::{Receiver, Select};

/// No test waits longer for what it expects; a busy machine needs some of it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A record that arrived.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Got {
    pub(crate) worker: usize,
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) append: Option<i64>,
}

/// What a process's workers have been told.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) assigned: Vec<(usize, PartitionId)>,
    pub(crate) records: BTreeMap<PartitionId, Vec<Got>>,
    /// Next offset of each partition, after its latest batch.
    pub(crate) next: BTreeMap<PartitionId, u64>,
    /// Where each partition ended, after its latest batch that says so.
    pub(crate) ends: BTreeMap<PartitionId, u64>,
    /// Of the first batches with records: position behind them, and where the partition ended.
    pub(crate) first: BTreeMap<PartitionId, (u64, Option<u64>)>,
    /// Partition of each batch and its bytes, as they came.
    pub(crate) batches: Vec<(PartitionId, usize)>,
    /// Caught up, with no batch since.
    pub(crate) caught_up: BTreeSet<PartitionId>,
    pub(crate) finished: BTreeSet<PartitionId>,
    /// Workers that know that all partitions have been told.
    pub(crate) listed: usize,
    pub(crate) ended: Vec<usize>,
    pub(crate) failed: Vec<String>,
    /// Offsets that were gone.
    pub(crate) lost: BTreeMap<PartitionId, u64>,
    /// Why the source can't be read at present.
    pub(crate) degraded: Option<String>,
    /// All that was said of that so far.
    pub(crate) troubles: Vec<String>,
}

impl Seen {
    /// All records as text, in order of partitions and offsets.
    pub(crate) fn texts(&self) -> Vec<String> {
        let text = |got: &Got| String::from_utf8_lossy(&got.bytes).into_owned();
        self.records.values().flatten().map(text).collect()
    }

    pub(crate) fn sorted(&self) -> Vec<String> {
        let mut all = self.texts();
        all.sort();
        all
    }

    pub(crate) fn count(&self) -> usize {
        self.records.values().map(Vec::len).sum()
    }

    /// The partitions that were assigned, in order.
    pub(crate) fn partitions(&self) -> Vec<PartitionId> {
        let mut all: Vec<_> = self.assigned.iter().map(|(_, id)| *id).collect();
        all.sort();
        all
    }

    pub(crate) fn all_caught_up(&self) -> bool {
        !self.assigned.is_empty()
            && self.assigned.iter().all(|(_, id)| self.caught_up.contains(id) || self.finished.contains(id))
    }

    fn take(&mut self, worker: usize, message: Message) {
        match message {
            Message::Assigned(id) => {
                assert!(!self.partitions().contains(&id), "{id:?} was assigned twice");
                self.assigned.push((worker, id));
            }
            Message::Batch(batch) => {
                let id = batch.partition;
                assert!(self.assigned.contains(&(worker, id)), "{id:?} was not assigned to worker {worker}");
                assert!(!self.finished.contains(&id), "{id:?} goes on after its end");
                self.caught_up.remove(&id);
                self.batches.push((id, batch.bytes.len()));
                let mut after = self.next.get(&id).copied().unwrap_or(0);
                for record in &batch.records {
                    assert!(record.offset >= after, "{id:?} goes back to {}", record.offset);
                    after = record.offset + 1;
                    let (start, len) = (record.start as usize, record.len as usize);
                    self.records.entry(id).or_default().push(Got {
                        worker,
                        offset: record.offset,
                        bytes: batch.bytes[start..start + len].to_vec(),
                        append: record.append,
                    });
                }
                assert!(batch.next_offset >= after);
                self.next.insert(id, batch.next_offset);
                self.ends.extend(batch.end.map(|end| (id, end)));
                if !batch.records.is_empty() {
                    self.first.entry(id).or_insert((batch.next_offset, batch.end));
                }
            }
            Message::CaughtUp(id) => {
                self.caught_up.insert(id);
            }
            Message::Finished(id) => {
                self.finished.insert(id);
            }
            Message::Listed(_) => self.listed += 1,
            Message::Ended(_) => self.ended.push(worker),
            Message::Lost(id, offsets) => *self.lost.entry(id).or_default() += offsets,
            Message::Degraded(_, reason) => {
                self.troubles.extend(reason.clone());
                self.degraded = reason;
            }
            Message::Failed(text) => self.failed.push(text),
        }
    }
}

/// The workers of one process.
pub(crate) struct Workers {
    pub(crate) inboxes: Inboxes,
    pub(crate) receivers: Vec<Receiver<Message>>,
    pub(crate) seen: Seen,
}

impl Workers {
    /// `local` workers, the first of which is number `first` of `peers`.
    pub(crate) fn new(first: usize, local: usize, peers: usize) -> Workers {
        let (local, receivers) = (0..local).map(|_| Inbox::new()).unzip();
        let inboxes = Inboxes { first, peers, local };
        Workers { inboxes, receivers, seen: Seen::default() }
    }

    /// Takes messages until `enough`; panics with `what` at the deadline, or if the source fails.
    pub(crate) fn until(&mut self, what: &str, enough: impl Fn(&Seen) -> bool) -> &Seen {
        self.until_or_failed(what, |seen| {
            assert!(seen.failed.is_empty(), "{what}: {:?}", seen.failed);
            enough(seen)
        })
    }

    /// Like [`Workers::until`], and a failure may be what is waited for.
    pub(crate) fn until_or_failed(&mut self, what: &str, enough: impl Fn(&Seen) -> bool) -> &Seen {
        let deadline = Instant::now() + DEADLINE;
        while !enough(&self.seen) {
            assert!(
                Instant::now() < deadline,
                "{what}: not within {DEADLINE:?}; {} records of {:?}, caught up {:?}, finished {:?}",
                self.seen.count(),
                self.seen.partitions(),
                self.seen.caught_up,
                self.seen.finished
            );
            let mut select = Select::new();
            for receiver in &self.receivers {
                select.recv(receiver);
            }
            if let Ok(worker) = select.ready_timeout(Duration::from_millis(100))
                && let Ok(message) = self.receivers[worker].try_recv()
            {
                let first = self.inboxes.first;
                self.seen.take(first + worker, message);
            }
        }
        &self.seen
    }
}

/// Polls `condition` until it holds; panics with `what` at the deadline.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
