//! Absence: a trigger that nothing follows within the window.
//!
//! Unlike the other machines this one waits: a trigger's match is known only when the watermark has passed its window.
//! State: the triggers that still wait, in order.

use std::collections::VecDeque;

/// Triggers that wait, as (time, the caller's name for the event).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    waiting: VecDeque<(i64, u32)>,
}

impl State {
    /// With these triggers waiting, in order.
    pub fn from_waiting(waiting: impl IntoIterator<Item = (i64, u32)>) -> State {
        State { waiting: waiting.into_iter().collect() }
    }

    /// The triggers that wait.
    pub fn waiting(&self) -> impl Iterator<Item = (i64, u32)> {
        self.waiting.iter().copied()
    }

    /// Nothing waits.
    pub fn is_dead(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Only those of the waiting triggers that `keep` says, by time and name.
    pub fn only(&self, keep: impl Fn(i64, u32) -> bool) -> State {
        State { waiting: self.waiting.iter().copied().filter(|&(time, event)| keep(time, event)).collect() }
    }

    /// Takes the next event in order.
    pub fn step(&mut self, window: i64, time: i64, event: u32, trigger: bool, absent: bool) {
        if absent {
            self.waiting.retain(|&(t, _)| time - t > window);
        }
        if trigger {
            self.waiting.push_back((time, event));
        }
    }

    /// Takes out the next trigger whose window the watermark has passed.
    pub fn due(&mut self, window: i64, watermark: i64) -> Option<(i64, u32)> {
        let &(time, _) = self.waiting.front()?;
        if time.saturating_add(window) < watermark { self.waiting.pop_front() } else { None }
    }

    /// When the first waiting trigger's window ends.
    pub fn next_due(&self, window: i64) -> Option<i64> {
        self.waiting.front().map(|&(t, _)| t.saturating_add(window))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_at_exactly_the_window_is_present() {
        let mut state = State::default();
        state.step(10, 0, 1, true, false);
        state.step(10, 10, 2, false, true);
        assert_eq!(state.due(10, 1000), None);
    }

    #[test]
    fn is_due_only_when_the_watermark_is_past_the_window() {
        let mut state = State::default();
        state.step(10, 0, 1, true, false);
        state.step(10, 11, 2, false, true);
        assert_eq!(state.due(10, 10), None);
        assert_eq!(state.due(10, 11), Some((0, 1)));
    }

    #[test]
    fn a_trigger_that_is_itself_the_absent_event_still_waits() {
        let mut state = State::default();
        state.step(10, 0, 1, true, true);
        assert_eq!(state.due(10, 11), Some((0, 1)));
    }
}
