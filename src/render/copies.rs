//! Copies: records with one event_id identity and the same bytes are one event, however they arrive (SPEC §3).
//!
//! Entries are in order of the events' own timestamps, which all copies of an event share whatever their event times; so
//! an event that is later than all before it is known to be no copy without a look. State: 32 bytes an event, for the
//! dedup window.

use super::hit::Head;

/// A record that has been read.
#[derive(Clone, Copy, Debug)]
struct Seen {
    timestamp: i64,
    id: u64,
    raw: u64,
    time: i64,
}

/// What a record that is read again turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// An event.
    Event,
    /// A copy of an earlier one.
    Copy,
    /// An event of which a copy was taken for the event, at this time, since the event itself was of no interest then.
    CopiedBy(i64),
}

/// What has been read, for as long as copies are recognised.
#[derive(Clone, Debug, Default)]
pub struct Copies {
    seen: Vec<Seen>,
}

impl Copies {
    /// Whether the record is a copy of one read before; if not, it is remembered.
    pub fn is_copy(&mut self, head: &Head, window: i64) -> bool {
        if head.id == 0 {
            return false;
        }
        let at = self.place(head);
        let same = self.seen[..at].iter().rev().take_while(|s| s.timestamp == head.timestamp);
        let mut copies = same.filter(|s| s.id == head.id && s.raw == head.raw);
        if copies.any(|s| head.reference.saturating_sub(s.time) <= window) {
            return true;
        }
        self.remember(head);
        false
    }

    /// What a record that is read again is to those that are known: its own former reading is among them, if that went to
    /// this group.
    pub fn meet_again(&mut self, head: &Head, window: i64) -> Again {
        if head.id == 0 {
            return Again::Event;
        }
        let at = self.place(head);
        let same = self.seen[..at].iter_mut().rev().take_while(|s| s.timestamp == head.timestamp);
        for known in same.filter(|s| s.id == head.id && s.raw == head.raw) {
            if known.time == head.time {
                return Again::Event;
            }
            if known.time < head.time && head.reference.saturating_sub(known.time) <= window {
                return Again::Copy;
            }
            if known.time > head.time && known.time.saturating_sub(head.time) <= window {
                return Again::CopiedBy(std::mem::replace(&mut known.time, head.time));
            }
        }
        self.remember(head);
        Again::Event
    }

    /// Remembers a record that is no copy.
    pub fn remember(&mut self, head: &Head) {
        if head.id != 0 {
            let at = self.place(head);
            self.seen.insert(at, Seen { timestamp: head.timestamp, id: head.id, raw: head.raw, time: head.time });
        }
    }

    /// Remembers a record that is no copy, unless it is remembered already.
    pub fn remember_once(&mut self, head: &Head) {
        let mut same = self.seen[..self.place(head)].iter().rev().take_while(|s| s.timestamp == head.timestamp);
        if !same.any(|s| (s.id, s.raw, s.time) == (head.id, head.raw, head.time)) {
            self.remember(head);
        }
    }

    fn place(&self, head: &Head) -> usize {
        match self.seen.last() {
            Some(last) if last.timestamp >= head.timestamp => {
                self.seen.partition_point(|s| s.timestamp <= head.timestamp)
            }
            _ => self.seen.len(),
        }
    }

    /// Forgets what no later record can be a copy of: those whose event time is before `oldest`. Says whether two records
    /// with one id and different bytes were among all that was known.
    pub fn forget(&mut self, oldest: i64) -> bool {
        let conflict = self.has_conflict();
        self.seen.retain(|s| s.time >= oldest);
        if self.seen.len() * 4 < self.seen.capacity() {
            self.seen.shrink_to_fit();
        }
        conflict
    }

    /// Bytes of what is remembered.
    pub fn held(&self) -> usize {
        self.seen.capacity() * size_of::<Seen>()
    }

    /// Forgets the earliest until the rest take no more than `bytes`.
    pub fn trim(&mut self, bytes: usize) {
        let n = self.seen.len().saturating_sub(bytes / size_of::<Seen>());
        self.seen.drain(..n);
        self.seen.shrink_to_fit();
    }

    /// Whether two records have one id and different bytes.
    pub fn has_conflict(&self) -> bool {
        let mut ids: Vec<(u64, u64)> = self.seen.iter().map(|s| (s.id, s.raw)).collect();
        ids.sort_unstable();
        ids.windows(2).any(|w| w[0].0 == w[1].0 && w[0].1 != w[1].1)
    }

    /// The last timestamp that is remembered, or 0.
    pub fn latest(&self) -> i64 {
        self.seen.last().map_or(0, |s| s.timestamp)
    }

    /// Nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }
}
