//! New value: an event whose value no earlier event of its window has, once the group has been watched for long enough.
//!
//! State: the latest time of each value, and the times of the events that count as history.

use std::collections::VecDeque;

use hashbrown::HashMap;

/// What it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// How far back "before" goes.
    pub window: i64,
    /// How old the history in the window must be; 0: no history is needed.
    pub learn: i64,
}

/// What has been seen.
#[derive(Clone, Debug, Default)]
pub struct State {
    latest: HashMap<u64, i64>,
    history: VecDeque<i64>,
    last: Option<i64>,
}

impl State {
    /// Nothing of it is in the window that ends at `now`.
    pub fn is_dead(&self, spec: &Spec, now: i64) -> bool {
        self.last.is_none_or(|t| now - t > spec.window)
    }

    /// Takes the next matching event in order: its value, if it has one, and whether it may count (an allowlisted event
    /// makes a value known, and nothing more). Says whether a match ends at it.
    pub fn step(&mut self, spec: &Spec, time: i64, value: Option<u64>, counts: bool) -> bool {
        self.last = Some(time);
        while self.history.front().is_some_and(|&t| time - t > spec.window) {
            self.history.pop_front();
        }
        if counts && spec.learn > 0 {
            self.history.push_back(time);
        }
        let Some(value) = value else { return false };
        let known = self.latest.insert(value, time).is_some_and(|t| time - t <= spec.window);
        if self.latest.len() > 32 && self.latest.len() == self.latest.capacity() {
            self.latest.retain(|_, t| time - *t <= spec.window);
        }
        let learned = spec.learn == 0 || self.history.front().is_some_and(|&t| time - t >= spec.learn);
        counts && !known && learned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_looking_back(
            window in 2i64..20, learn in 0i64..5,
            raw in prop::collection::vec((0i64..6, prop::option::of(0u64..4), any::<bool>()), 1..60),
        ) {
            let spec = Spec { window, learn: learn.min(window) };
            let mut state = State::default();
            let mut seen: Vec<(i64, Option<u64>, bool)> = Vec::new();
            let mut now = 0;
            for (gap, value, counts) in raw {
                now += gap;
                let inside: Vec<_> = seen.iter().filter(|e| now - e.0 <= window).collect();
                let known = inside.iter().any(|e| e.1 == value);
                let learned = spec.learn == 0 || inside.iter().any(|e| e.2 && now - e.0 >= spec.learn);
                let expected = counts && value.is_some() && !known && learned;
                prop_assert_eq!(state.step(&spec, now, value, counts), expected);
                seen.push((now, value, counts));
            }
        }
    }
}
