//! Pattern: at least so many of a set of matchers satisfied within the window of an event, in any order.
//!
//! State: the latest time at which each matcher was satisfied.

use crate::{NEVER, within};

/// What a pattern asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// How far back an event looks.
    pub window: i64,
    /// How many matchers there are; at most 64.
    pub matchers: u32,
    /// How many of them must be satisfied.
    pub at_least: u32,
}

/// The latest time of each matcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    latest: Box<[i64]>,
}

impl State {
    /// Before any event.
    pub fn new(spec: &Spec) -> State {
        State { latest: vec![NEVER; spec.matchers as usize].into() }
    }

    /// Nothing of it is in the window that ends at `now`.
    pub fn is_dead(&self, spec: &Spec, now: i64) -> bool {
        self.latest.iter().all(|&t| !within(now, t, spec.window))
    }

    /// Takes the next event in order with the matchers that it satisfies (bit `i`: the i-th); says whether a match ends
    /// at it.
    pub fn step(&mut self, spec: &Spec, time: i64, satisfied: u64) -> bool {
        for (i, latest) in self.latest.iter_mut().enumerate() {
            if satisfied >> i & 1 == 1 {
                *latest = time;
            }
        }
        satisfied != 0
            && self.latest.iter().filter(|&&t| within(time, t, spec.window)).count() >= spec.at_least as usize
    }
}

/// The events that prove a match: for each satisfied matcher its latest event in the window, in order; an event that
/// satisfies several stands once, for the first of them. `events` are (time, satisfied matchers) in order, the last is
/// the match's end. Gives (index, matcher from 0).
pub fn evidence(spec: &Spec, events: &[(i64, u64)]) -> Vec<(usize, usize)> {
    let Some(&(now, _)) = events.last() else { return Vec::new() };
    let mut found = 0u64;
    let mut chosen = Vec::new();
    for (i, &(time, satisfied)) in events.iter().enumerate().rev() {
        if !within(now, time, spec.window) {
            break;
        }
        let new = satisfied & !found;
        if new != 0 {
            chosen.push((i, new.trailing_zeros() as usize));
            found |= new;
        }
    }
    chosen.reverse();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_looking_back(
            window in 1i64..15, at_least in 1u32..4,
            raw in prop::collection::vec((0i64..5, 0u64..8), 1..40),
        ) {
            let spec = Spec { window, matchers: 3, at_least };
            let mut state = State::new(&spec);
            let mut seen: Vec<(i64, u64)> = Vec::new();
            let mut now = 0;
            for (gap, mask) in raw {
                now += gap;
                seen.push((now, mask));
                let inside = seen.iter().filter(|e| now - e.0 <= window).fold(0, |all, e| all | e.1);
                let expected = mask != 0 && inside.count_ones() >= at_least;
                prop_assert_eq!(state.step(&spec, now, mask), expected);
                let union = evidence(&spec, &seen).iter().fold(0, |all, &(i, _)| all | seen[i].1);
                prop_assert_eq!(union, inside);
            }
        }
    }
}
