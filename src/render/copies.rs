//! Copies: records with one event_id identity and the same bytes are one event, however they arrive (SPEC §3).
//!
//! Entries are in order of the events' own timestamps, which all copies of an event share whatever their event times; so
//! an event that is later than all before it is known to be no copy without a look. State: 32 bytes an event, for the
//! dedup window. Those that come far out of order, or in a crowd with one timestamp, are in a tree beside the rest: whoever
//! writes the timestamps can't make a look or a place for an event cost more than the logarithm of how many there are.

use std::collections::BTreeSet;

use super::hit::Head;

/// An event this near to the end of the order may make the later ones move; so many may share a timestamp there.
const NEAR: usize = 32;

/// A record that has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    timestamp: i64,
    id: u64,
    raw: u64,
    time: i64,
}

impl Seen {
    fn new(head: &Head) -> Seen {
        Seen { timestamp: head.timestamp, id: head.id, raw: head.raw, time: head.time }
    }

    fn is_alike(&self, head: &Head) -> bool {
        (self.timestamp, self.id, self.raw) == (head.timestamp, head.id, head.raw)
    }
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
    /// By timestamp.
    seen: Vec<Seen>,
    far: BTreeSet<Seen>,
}

impl Copies {
    /// Whether the record is a copy of one read before; if not, it is remembered.
    pub fn is_copy(&mut self, head: &Head, window: i64) -> bool {
        if head.id == 0 {
            return false;
        }
        let is_copy = self.alike(head).any(|s| head.reference.saturating_sub(s.time) <= window);
        if !is_copy {
            self.remember(Seen::new(head));
        }
        is_copy
    }

    /// What a record that is read again is to those that are known: its own former reading is among them, if that went to
    /// this group.
    pub fn meet_again(&mut self, head: &Head, window: i64) -> Again {
        if head.id == 0 {
            return Again::Event;
        }
        let mut copied_by = None;
        for known in self.alike(head) {
            if known.time == head.time {
                return Again::Event;
            }
            if known.time < head.time && head.reference.saturating_sub(known.time) <= window {
                return Again::Copy;
            }
            if known.time > head.time && known.time.saturating_sub(head.time) <= window {
                copied_by = Some(known);
                break;
            }
        }
        if let Some(known) = copied_by {
            self.take_out(known);
        }
        self.remember(Seen::new(head));
        copied_by.map_or(Again::Event, |known| Again::CopiedBy(known.time))
    }

    /// The bytes' hash that a known record of this id has which agrees in its timestamp, and if it may be in its time.
    pub fn known_raw(&self, head: &Head) -> Option<u64> {
        let same = self.seen[..self.place(head.timestamp)].iter().rev().take_while(|s| s.timestamp == head.timestamp);
        let least = Seen { raw: 0, time: i64::MIN, ..Seen::new(head) };
        let is_same = |s: &&Seen| (s.timestamp, s.id) == (head.timestamp, head.id);
        let known = same.filter(is_same).chain(self.far.range(least..).take_while(is_same));
        known.min_by_key(|s| s.time != head.time).map(|s| s.raw)
    }

    /// Remembers a record that is no copy, unless it is remembered already.
    pub fn remember_once(&mut self, head: &Head) {
        if head.id != 0 && !self.alike(head).any(|s| s.time == head.time) {
            self.remember(Seen::new(head));
        }
    }

    fn remember(&mut self, new: Seen) {
        let at = self.place(new.timestamp);
        let in_crowd = at >= NEAR && self.seen[at - NEAR].timestamp == new.timestamp;
        if in_crowd || self.seen.len() - at > NEAR {
            self.far.insert(new);
        } else {
            self.seen.insert(at, new);
        }
    }

    fn take_out(&mut self, known: Seen) {
        if self.far.remove(&known) {
            return;
        }
        let end = self.place(known.timestamp);
        if let Some(at) = self.seen[..end].iter().rposition(|s| *s == known) {
            self.seen.remove(at);
        }
    }

    /// Those with the record's timestamp, identity and bytes.
    fn alike(&self, head: &Head) -> impl Iterator<Item = Seen> {
        let same = self.seen[..self.place(head.timestamp)].iter().rev().take_while(|s| s.timestamp == head.timestamp);
        let least = Seen { time: i64::MIN, ..Seen::new(head) };
        let far = (!self.far.is_empty()).then(|| self.far.range(least..).take_while(|s| s.is_alike(head)));
        same.filter(|s| s.is_alike(head)).chain(far.into_iter().flatten()).copied()
    }

    /// Behind those of this timestamp.
    fn place(&self, timestamp: i64) -> usize {
        match self.seen.last() {
            Some(last) if last.timestamp >= timestamp => self.seen.partition_point(|s| s.timestamp <= timestamp),
            _ => self.seen.len(),
        }
    }

    /// Forgets what no later record can be a copy of: those whose event time is before `oldest`. Says whether two records
    /// with one id and different bytes were among all that was known.
    pub fn forget(&mut self, oldest: i64) -> bool {
        let conflict = self.has_conflict();
        self.seen.retain(|s| s.time >= oldest);
        self.far.retain(|s| s.time >= oldest);
        if self.seen.len() * 4 < self.seen.capacity() {
            self.seen.shrink_to_fit();
        }
        conflict
    }

    /// Bytes of what is remembered.
    pub fn held(&self) -> usize {
        /// A tree's nodes have free places, and lead to others.
        const FAR: usize = size_of::<Seen>() * 3 / 2;
        self.seen.capacity() * size_of::<Seen>() + self.far.len() * FAR
    }

    /// Forgets the earliest until the rest take no more than `bytes`.
    pub fn trim(&mut self, bytes: usize) {
        let mut all: Vec<Seen> = self.seen.iter().copied().chain(std::mem::take(&mut self.far)).collect();
        all.sort_by_key(|s| s.timestamp);
        let n = all.len().saturating_sub(bytes / size_of::<Seen>());
        self.seen.clear();
        self.seen.shrink_to_fit();
        all.into_iter().skip(n).for_each(|seen| self.remember(seen));
        self.seen.shrink_to_fit();
    }

    /// Whether two records have one id and different bytes.
    pub fn has_conflict(&self) -> bool {
        let mut ids: Vec<(u64, u64)> = self.seen.iter().chain(&self.far).map(|s| (s.id, s.raw)).collect();
        ids.sort_unstable();
        ids.windows(2).any(|w| w[0].0 == w[1].0 && w[0].1 != w[1].1)
    }

    /// The last timestamp that is remembered, or 0.
    pub fn latest(&self) -> i64 {
        let near = self.seen.last().map_or(0, |s| s.timestamp);
        self.far.last().map_or(near, |s| s.timestamp.max(near))
    }

    /// Nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty() && self.far.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use clawdstrike_telemetry::EventType;
    use proptest::prelude::*;

    use super::*;

    fn head((timestamp, id, raw, time): (i64, u64, u64, i64)) -> Head {
        Head {
            key: 0,
            time,
            timestamp,
            reference: time,
            id,
            raw,
            target: 0,
            class: 0,
            by: 0,
            event_type: EventType::ALL[0],
            allowed: true,
            skewed: false,
            kept: false,
            again: false,
            reworded: false,
            start: 0,
            len: 0,
        }
    }

    proptest! {
        /// Crowds with one timestamp and stragglers go elsewhere than the rest, and are found there.
        #[test]
        fn knows_what_a_list_of_all_knows(
            spread in 1i64..200,
            raw in prop::collection::vec((0i64..200, 1u64..40, 0u64..2, 0i64..300), 1..400),
            trimmed in 0usize..400,
        ) {
            const WINDOW: i64 = 100;
            let mut copies = Copies::default();
            let mut all: Vec<(i64, u64, u64, i64)> = Vec::new();
            for (timestamp, id, raw, time) in raw {
                let record = (timestamp % spread, id, raw, time);
                let copy = all.iter().any(|s| (s.0, s.1, s.2) == (record.0, id, raw) && time - s.3 <= WINDOW);
                prop_assert_eq!(copies.is_copy(&head(record), WINDOW), copy);
                if !copy {
                    all.push(record);
                }
            }
            prop_assert!(all.iter().all(|s| copies.alike(&head(*s)).any(|known| known.time == s.3)));
            prop_assert_eq!(copies.seen.len() + copies.far.len(), all.len());
            prop_assert_eq!(copies.latest(), all.iter().map(|s| s.0).max().unwrap_or(0));
            for &record in &all {
                copies.remember_once(&head(record));
            }
            prop_assert_eq!(copies.seen.len() + copies.far.len(), all.len());
            copies.trim(trimmed * size_of::<Seen>());
            prop_assert_eq!(copies.seen.len() + copies.far.len(), all.len().min(trimmed));
            all.sort_by_key(|s| std::cmp::Reverse(s.0));
            let timestamps = |n: usize| all[..n.min(all.len())].iter().map(|s| s.0).collect::<Vec<_>>();
            let mut kept: Vec<i64> = copies.seen.iter().chain(&copies.far).map(|s| s.timestamp).collect();
            kept.sort_unstable_by_key(|t| std::cmp::Reverse(*t));
            prop_assert_eq!(kept, timestamps(trimmed));
        }
    }

    #[test]
    fn an_event_that_a_copy_stood_for_takes_its_place() {
        let mut copies = Copies::default();
        // So many that some are in the tree.
        for id in 1..=3 * NEAR as u64 {
            assert!(!copies.is_copy(&head((5, id, 1, 50)), 100));
        }
        for id in 1..=3 * NEAR as u64 {
            assert_eq!(copies.meet_again(&head((5, id, 1, 20)), 100), Again::CopiedBy(50));
            assert_eq!(copies.meet_again(&head((5, id, 1, 20)), 100), Again::Event);
            assert_eq!(copies.meet_again(&head((5, id, 1, 50)), 100), Again::Copy);
        }
    }
}
