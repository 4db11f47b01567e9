//! Back-fill, where partitions are read: what had been read of them before a load of rules is read again, and goes as hits to
//! the groups of the rules that wait for it, beside what is read for the first time.
//!
//! What is read again ends, for each partition, where reading stood when the rules were loaded: from there on the events
//! have met them already. A worker takes at most one part in [`SHARE`] of an epoch of it.

use std::collections::{HashMap, HashSet};

use clawdstrike_telemetry::{Reference, decode};
use crossbeam_channel::{Receiver, TryRecvError};

use super::control::Notice;
use super::ingest::{EPOCH_BYTES, Ingest};
use crate::inbox::again::AskAgain;
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
    until: HashMap<PartitionId, u64>,
    inbox: Receiver<Message>,
    /// Sources that haven't told yet of all partitions that they have.
    unlisted: HashSet<u16>,
    /// Partitions of which there is more to read.
    left: HashMap<PartitionId, Reference>,
    current: Option<(RecordBatch, usize)>,
    news: bool,
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
                self.again.reading = Some(Reading {
                    fill,
                    from,
                    until: self.partitions.read_so_far(),
                    inbox: ask.begin(fill, from.saturating_sub(self.settings.max_skew)),
                    unlisted: (0u16..).take(self.settings.sources.len()).collect(),
                    left: HashMap::new(),
                    current: None,
                    news: false,
                });
            }
            Some(ask) if began => ask.end(),
            Some(_) => {}
            None => self.again.done = (fill > 0).then_some(fill),
        }
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
        let Some(mut reference) = reading.left.get(&id).copied() else { return };
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
            let stamp = reference.observe(&origin.clock, event.timestamp, record.append, origin.wall);
            if stamp.time >= reading.from {
                self.send_hits(&event, &stamp, &origin, record.offset, true);
            }
        }
        reading.left.insert(id, reference);
        let more = batch.records.get(next).is_some_and(|record| record.offset < until);
        if more {
            reading.current = Some((batch, next));
        } else if batch.next_offset >= until {
            reading.left.remove(&id);
        }
    }
}

impl Reading {
    /// All that had been read is read again.
    fn is_done(&self) -> bool {
        self.unlisted.is_empty() && self.left.is_empty() && self.current.is_none()
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Assigned(id) => {
                if self.until.contains_key(&id) {
                    self.left.insert(id, Reference::largest());
                }
            }
            Message::Listed(source) => drop(self.unlisted.remove(&source)),
            Message::Batch(batch) if self.left.contains_key(&batch.partition) => self.current = Some((batch, 0)),
            Message::CaughtUp(id) | Message::Finished(id) => drop(self.left.remove(&id)),
            Message::Ended(source) => {
                self.unlisted.remove(&source);
                self.left.retain(|id, _| id.source != source);
            }
            Message::Lost(id, records) => {
                tracing::warn!(source = id.source, records, "rules loaded since don't see records that are gone");
            }
            Message::Degraded(source, Some(reason)) => {
                tracing::warn!(source, "rules wait for earlier events: {reason}")
            }
            Message::Failed(reason) => self.give_up(&reason),
            Message::Batch(_) | Message::Degraded(_, None) => {}
        }
    }

    /// Rules that wait begin with what there is.
    fn give_up(&mut self, reason: &str) {
        tracing::error!("rules loaded just now don't see all earlier events: {reason}");
        self.unlisted.clear();
        self.left.clear();
        self.current = None;
    }
}
