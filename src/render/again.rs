//! Back-fill, where partitions are read: what had been read of them before a load of rules is read again, and goes as hits to
//! the groups of the rules that wait for it, beside what is read for the first time.
//!
//! What is read again ends, for each partition, where reading stood when the rules were loaded: from there on the events
//! have met them already. A worker takes at most one part in [`SHARE`] of an epoch of it.
//!
//! What a source has no more, or gives only once, is asked for at the end: a store may have kept it. It is what lies before
//! a position, so it is neither what is read on, nor anything that the source has given again.

use std::collections::{BTreeMap, HashMap, HashSet};

use clawdstrike_telemetry::{Reference, Stamp, decode};
use crossbeam_channel::{Receiver, TryRecvError};

use super::control::Notice;
use super::ingest::{EPOCH_BYTES, Ingest, Read};
use crate::inbox::again::{AskAgain, PastRecord};
use crate::inbox::{Message, PartitionId, RecordBatch};

/// The part of an epoch's records and bytes that may be read again.
const SHARE: usize = 8;

/// One worker's reading again.
pub(super) struct Again {
    ask: Option<AskAgain>,
    reading: Option<Reading>,
    done: Option<u32>,
    /// Records of the current epoch, and their bytes.
    taken: (usize, usize),
}

/// A reading again that is under way.
struct Reading {
    fill: u32,
    /// Earlier events are of no interest.
    from: i64,
    /// How far this worker had read its partitions.
    until: HashMap<PartitionId, u64>,
    /// Of these nothing is late enough to be of interest.
    old: HashSet<PartitionId>,
    inbox: Receiver<Message>,
    /// Sources that haven't told yet of all partitions that they have.
    unlisted: HashSet<u16>,
    /// Partitions that sources have told of.
    seen: HashSet<PartitionId>,
    /// Those of which there is more to read.
    left: HashMap<PartitionId, Left>,
    current: Option<(RecordBatch, usize)>,
    /// What sources have no more: records before these positions.
    gone: BTreeMap<PartitionId, u64>,
    /// What a store kept of that, once it was asked for.
    past: Option<Receiver<Vec<PastRecord>>>,
    piece: std::vec::IntoIter<PastRecord>,
    news: bool,
}

/// A partition that is being read again.
#[derive(Clone, Copy)]
struct Left {
    reference: Reference,
    next: u64,
}

impl Again {
    /// Nothing is read again yet.
    pub fn new(ask: Option<AskAgain>) -> Again {
        Again { ask, reading: None, done: None, taken: (0, 0) }
    }

    /// Another epoch, another share.
    pub fn begin_epoch(&mut self) {
        self.taken = (0, 0);
    }

    /// What all workers should know.
    pub fn news(&mut self, worker: u32) -> Option<Notice> {
        if let Some(fill) = self.done.take() {
            return Some(Notice::Filling { worker, fill, done: true });
        }
        let reading = self.reading.as_mut()?;
        let news = std::mem::take(&mut reading.news);
        news.then_some(Notice::Filling { worker, fill: reading.fill, done: false })
    }
}

impl Ingest {
    /// Rules were loaded: begins to read again for those that wait for it.
    pub(super) fn read_again(&mut self, fill: u32) {
        let began = self.again.reading.take().is_some();
        self.again.done = None;
        match &self.again.ask {
            Some(ask) if fill > 0 => {
                let from = self.rules.sees_from(self.settings.dedup_window);
                let until = self.own_partitions();
                let is_old = |id: &&PartitionId| self.partitions.latest(**id).is_some_and(|latest| latest < from);
                self.again.reading = Some(Reading {
                    fill,
                    from,
                    old: until.keys().filter(is_old).copied().collect(),
                    until,
                    inbox: ask.begin(fill, from.saturating_sub(self.settings.max_skew)),
                    unlisted: (0u16..).take(self.settings.sources.len()).collect(),
                    seen: HashSet::new(),
                    left: HashMap::new(),
                    current: None,
                    gone: BTreeMap::new(),
                    past: None,
                    piece: Vec::new().into_iter(),
                    news: false,
                });
            }
            Some(ask) if began => ask.end(),
            Some(_) => {}
            None => self.again.done = (fill > 0).then_some(fill),
        }
    }

    /// How far this worker has read what it owns, also what is still to be assigned.
    fn own_partitions(&self) -> HashMap<PartitionId, u64> {
        let mut read = self.partitions.read_so_far();
        read.retain(|id, _| id.owner(self.peers()) == self.worker);
        read
    }

    /// Takes this epoch's share of what is read again.
    pub(super) fn take_again(&mut self, wall: i64) {
        let Some(mut reading) = self.again.reading.take() else { return };
        let records = (self.settings.epoch_records / SHARE).max(1);
        while self.again.taken.0 < records && self.again.taken.1 < EPOCH_BYTES / SHARE && !reading.is_done() {
            if reading.current.is_some() {
                self.take_again_records(&mut reading, records, wall);
                continue;
            }
            if reading.is_read() {
                match self.take_past(&mut reading, records, wall) {
                    true => continue,
                    false => break,
                }
            }
            match reading.inbox.try_recv() {
                Ok(message) => {
                    reading.news = true;
                    reading.take(message);
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => reading.give_up("it was broken off"),
            }
        }
        if reading.is_done() {
            if let Some(ask) = &self.again.ask {
                ask.end();
            }
            self.again.done = Some(reading.fill);
        } else {
            self.again.reading = Some(reading);
        }
    }

    fn take_again_records(&mut self, reading: &mut Reading, most: usize, wall: i64) {
        let Some((batch, mut next)) = reading.current.take() else { return };
        let id = batch.partition;
        let until = reading.until.get(&id).copied().unwrap_or(0);
        let Some(mut left) = reading.left.get(&id).copied() else { return };
        let origin = self.origin(id, wall);
        while let Some(record) = batch.records.get(next)
            && record.offset < until
            && self.again.taken.0 < most
        {
            let raw = &batch.bytes[record.start as usize..][..record.len as usize];
            self.again.taken.0 += 1;
            self.again.taken.1 += raw.len();
            next += 1;
            // What is no event was a dead letter when it was read first.
            let Ok(event) = decode(raw) else { continue };
            let stamp = left.reference.observe(&origin.clock, event.timestamp, record.append, origin.wall);
            if stamp.time >= reading.from {
                self.send_hits(&event, &stamp, &origin, record.offset, Read::Again);
            }
        }
        left.next = batch.next_offset;
        reading.left.insert(id, left);
        let more = batch.records.get(next).is_some_and(|record| record.offset < until);
        if more {
            reading.current = Some((batch, next));
        } else if batch.next_offset >= until {
            reading.left.remove(&id);
        }
    }

    /// Takes some of what a store kept, having asked for it; says whether there may be more now.
    fn take_past(&mut self, reading: &mut Reading, most: usize, wall: i64) -> bool {
        let Some(past) = &reading.past else {
            if let Some(ask) = &self.again.ask {
                reading.past = Some(ask.gone(reading.from, reading.gone.clone()));
            }
            return false;
        };
        if reading.piece.len() == 0 {
            match past.try_recv() {
                Ok(piece) => {
                    reading.news = true;
                    reading.piece = piece.into_iter();
                }
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => reading.gone.clear(),
            }
        }
        while self.again.taken.0 < most
            && let Some(record) = reading.piece.next()
        {
            self.again.taken.0 += 1;
            self.again.taken.1 += record.record.len();
            let wanted = reading.gone.get(&record.partition).is_some_and(|until| record.offset < *until);
            // A store makes something else of texts that it can't hold.
            let Ok(event) = decode(record.record.as_bytes()) else { continue };
            if !wanted || record.time < reading.from {
                continue;
            }
            let origin = self.origin(record.partition, wall);
            let time = record.time;
            let skewed = !origin.clock.by_reference && event.timestamp != time;
            // The reference time isn't kept. It decides only whether a copy comes in time to be one.
            let stamp = Stamp { reference: time, time, skewed };
            let read = if record.reworded { Read::Reworded } else { Read::Again };
            self.send_hits(&event, &stamp, &origin, record.offset, read);
        }
        true
    }
}

impl Reading {
    /// All that had been read is read again.
    fn is_done(&self) -> bool {
        self.is_read() && self.gone.is_empty()
    }

    /// Sources have given all that they have of it.
    fn is_read(&self) -> bool {
        self.unlisted.is_empty() && self.left.is_empty() && self.current.is_none()
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Assigned(id) => {
                self.seen.insert(id);
                if self.until.contains_key(&id) {
                    self.left.insert(id, Left { reference: Reference::largest(), next: 0 });
                }
            }
            Message::Listed(source) => {
                self.unlisted.remove(&source);
                let missing = |id: &&PartitionId| id.source == source && !self.seen.contains(*id);
                let missing: Vec<PartitionId> = self.until.keys().filter(missing).copied().collect();
                missing.into_iter().for_each(|id| self.is_gone(id, u64::MAX));
            }
            Message::Batch(batch) if self.left.contains_key(&batch.partition) => self.current = Some((batch, 0)),
            Message::CaughtUp(id) | Message::Finished(id) => self.end(id),
            Message::Ended(source) => {
                self.unlisted.remove(&source);
                let left: Vec<PartitionId> = self.left.keys().filter(|id| id.source == source).copied().collect();
                left.into_iter().for_each(|id| self.end(id));
            }
            Message::Lost(id, records) => {
                let next = self.left.get(&id).map_or(0, |left| left.next);
                self.is_gone(id, next.saturating_add(records));
            }
            Message::Degraded(source, Some(reason)) => {
                tracing::warn!(source, "rules wait for earlier events: {reason}")
            }
            Message::Failed(reason) => self.give_up(&reason),
            Message::Batch(_) | Message::Degraded(_, None) => {}
        }
    }

    /// The source has no more of a partition.
    fn end(&mut self, id: PartitionId) {
        if self.left.remove(&id).is_some() {
            // It had more when it was read first.
            self.is_gone(id, u64::MAX);
        }
    }

    /// What lies before this position, and had been read, the source doesn't have, or not all of it.
    fn is_gone(&mut self, id: PartitionId, before: u64) {
        let before = self.until.get(&id).map_or(0, |until| before.min(*until));
        if before > 0 && !self.old.contains(&id) {
            let known = self.gone.entry(id).or_default();
            *known = before.max(*known);
        }
    }

    /// Sources give no more: what is missing is asked for elsewhere.
    fn give_up(&mut self, reason: &str) {
        tracing::error!("earlier events can't all be read again for rules loaded just now: {reason}");
        let unlisted = std::mem::take(&mut self.unlisted);
        self.current = None;
        let unseen = |id: &PartitionId| unlisted.contains(&id.source) && !self.seen.contains(id);
        let missing = |id: &&PartitionId| self.left.contains_key(*id) || unseen(id);
        let missing: Vec<PartitionId> = self.until.keys().filter(missing).copied().collect();
        self.left.clear();
        missing.into_iter().for_each(|id| self.is_gone(id, u64::MAX));
    }
}
