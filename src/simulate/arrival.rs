//! In which order events arrive: held back by up to the asked disorder, and some twice. Order and copies follow from the
//! seed alone. Knows nothing of what is in a line or where it goes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::generator::Emitted;

/// Lines held back at most; beyond, the next one due leaves early, which only lessens the disorder.
const MAX_HELD: usize = 500_000;
/// A copy arrives at most this much event time after its original, in microseconds, or within the disorder if that is longer.
const COPY_DELAY: i64 = 1_000_000;

/// A line with what its destination needs to know.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// With its line feed.
    pub(super) line: Vec<u8>,
    /// `agent:session`.
    pub(super) key: String,
    pub(super) allowed: bool,
    pub(super) slot: usize,
}

/// Delays and copies.
pub(super) struct Arrivals {
    rng: SmallRng,
    disorder: i64,
    duplicates: f64,
    held: BinaryHeap<Reverse<Held>>,
    taken: u64,
    copies: u64,
}

struct Held {
    at: i64,
    order: u64,
    record: Record,
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Held {}
impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Held {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl Arrivals {
    /// `disorder` in microseconds, `duplicates` a share of 0 to 1.
    pub(super) fn new(seed: u64, disorder: i64, duplicates: f64) -> Self {
        // Another stream than the generator's, so that the events themselves stay the same.
        let rng = SmallRng::seed_from_u64(seed ^ 0x6172_7269_7661_6c73);
        Arrivals { rng, disorder, duplicates, held: BinaryHeap::new(), taken: 0, copies: 0 }
    }

    /// Whether every line arrives at once, so that nothing needs to pass through here.
    pub(super) fn in_order(&self) -> bool {
        self.disorder == 0 && self.duplicates == 0.0
    }

    /// Copies made so far.
    pub(super) fn copies(&self) -> u64 {
        self.copies
    }

    /// Takes an event.
    pub(super) fn take(&mut self, line: &[u8], emitted: &Emitted<'_>) {
        let record = Record {
            line: line.to_vec(),
            key: format!("{}:{}", emitted.key.0, emitted.key.1),
            allowed: emitted.allowed,
            slot: emitted.slot,
        };
        if self.rng.random_bool(self.duplicates) {
            self.copies += 1;
            let delay = self.rng.random_range(0..=self.disorder.max(COPY_DELAY));
            self.hold(emitted.time + delay, record.clone());
        }
        let delay = self.rng.random_range(0..=self.disorder);
        self.hold(emitted.time + delay, record);
    }

    fn hold(&mut self, at: i64, record: Record) {
        self.taken += 1;
        self.held.push(Reverse(Held { at, order: self.taken, record }));
    }

    /// The next line that has arrived when event time stands at `now`; `i64::MAX` lets everything arrive.
    pub(super) fn arrived(&mut self, now: i64) -> Option<Record> {
        let Reverse(next) = self.held.peek()?;
        if next.at <= now || self.held.len() > MAX_HELD {
            self.held.pop().map(|Reverse(held)| held.record)
        } else {
            None
        }
    }
}
