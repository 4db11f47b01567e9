//! Threshold: at least so many events, distinct targets or distinct values in the window of an event.
//!
//! The window slides exactly: both ends move, event by event. Distinct numbers are counted in a multiset that exists
//! only while the window holds enough events to reach the limit. State: 24 bytes an event of the window.

use std::collections::VecDeque;

use hashbrown::HashMap;

/// What a threshold asks for; at least one of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// How far back an event looks.
    pub window: i64,
    /// At least so many events.
    pub count: Option<u64>,
    /// At least so many distinct targets.
    pub targets: Option<u64>,
    /// At least so many distinct values.
    pub values: Option<u64>,
}

impl Spec {
    /// Fewer events than this can't reach any of the limits.
    fn least(&self) -> u64 {
        [self.count, self.targets, self.values].into_iter().flatten().max().unwrap_or(1)
    }
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    time: i64,
    target: u64,
    value: u64,
}

/// A value that is absent: counts as an event, adds no value.
pub const NO_VALUE: u64 = 0;

/// The events of the window that ends at the last one.
#[derive(Clone, Debug, Default)]
pub struct State {
    events: VecDeque<Counted>,
    distinct: Option<Box<Distinct>>,
}

#[derive(Clone, Debug, Default)]
struct Distinct {
    targets: HashMap<u64, u32>,
    values: HashMap<u64, u32>,
}

impl Distinct {
    fn add(&mut self, e: Counted) {
        *self.targets.entry(e.target).or_default() += 1;
        if e.value != NO_VALUE {
            *self.values.entry(e.value).or_default() += 1;
        }
    }

    fn remove(&mut self, e: Counted) {
        take_one(&mut self.targets, e.target);
        if e.value != NO_VALUE {
            take_one(&mut self.values, e.value);
        }
    }
}

fn take_one(counts: &mut HashMap<u64, u32>, key: u64) {
    if let Some(n) = counts.get_mut(&key) {
        *n -= 1;
        if *n == 0 {
            counts.remove(&key);
        }
    }
}

impl State {
    /// No event of the window that ended last is still in the one that ends at `now`.
    pub fn is_dead(&self, spec: &Spec, now: i64) -> bool {
        self.events.back().is_none_or(|e| now - e.time > spec.window)
    }

    /// Takes the next matching event in order; says whether a match ends at it.
    pub fn step(&mut self, spec: &Spec, time: i64, target: u64, value: u64) -> bool {
        while let Some(&front) = self.events.front()
            && time - front.time > spec.window
        {
            self.events.pop_front();
            if let Some(distinct) = &mut self.distinct {
                distinct.remove(front);
            }
        }
        let event = Counted { time, target, value };
        self.events.push_back(event);
        if let Some(distinct) = &mut self.distinct {
            distinct.add(event);
        }
        let n = self.events.len() as u64;
        let least = spec.least();
        if n < least {
            if n < least / 2 {
                self.distinct = None;
            }
            return false;
        }
        if spec.targets.is_none() && spec.values.is_none() {
            return true;
        }
        let distinct = self.distinct.get_or_insert_with(|| {
            let mut distinct = Box::<Distinct>::default();
            self.events.iter().for_each(|&e| distinct.add(e));
            distinct
        });
        spec.targets.is_none_or(|k| distinct.targets.len() as u64 >= k)
            && spec.values.is_none_or(|k| distinct.values.len() as u64 >= k)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn agrees_with_counting_the_window(
            window in 1i64..20,
            limits in (prop::option::of(1u64..6), prop::option::of(1u64..4), prop::option::of(1u64..4)),
            raw in prop::collection::vec((0i64..6, 1u64..5, 0u64..4), 1..60),
        ) {
            prop_assume!(limits.0.is_some() || limits.1.is_some() || limits.2.is_some());
            let spec = Spec { window, count: limits.0, targets: limits.1, values: limits.2 };
            let mut state = State::default();
            let mut seen: Vec<(i64, u64, u64)> = Vec::new();
            let mut now = 0;
            for (gap, target, value) in raw {
                now += gap;
                seen.push((now, target, value));
                let inside: Vec<_> = seen.iter().filter(|e| now - e.0 <= window).collect();
                let targets: BTreeSet<_> = inside.iter().map(|e| e.1).collect();
                let values: BTreeSet<_> = inside.iter().map(|e| e.2).filter(|&v| v != NO_VALUE).collect();
                let expected = spec.count.is_none_or(|k| inside.len() as u64 >= k)
                    && spec.targets.is_none_or(|k| targets.len() as u64 >= k)
                    && spec.values.is_none_or(|k| values.len() as u64 >= k);
                prop_assert_eq!(state.step(&spec, now, target, value), expected);
            }
        }
    }
}
