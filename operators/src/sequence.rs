//! Sequence: steps in order within a window, each taking a number of distinct events.
//!
//! Flatten the steps into positions, one for each event that a choice takes. For each position the machine keeps the
//! best (latest) start of a choice that fills all positions up to it: an as-of join whose running maximum is all that a
//! later event can ask for, since an earlier start only fails the window sooner. An event updates positions from the
//! last to the first, so that it never fills two of them.
//!
//! - `without` on step i forbids events between the last of step i-1 and the first of step i: such an event forgets the
//!   choices that wait there.
//! - `until` forbids events between the first and the last of the whole choice: such an event forgets all choices, but
//!   may start a new one itself, and may end one.
//!
//! State: one time a position and one more, whatever the number of events.

use crate::{NEVER, within};

/// What a sequence asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// From the first to the last chosen event.
    pub window: i64,
    /// Events that each step takes; at most 64 steps, each at least 1.
    pub counts: Vec<u32>,
    /// Some step has a `without`, or there is an `until`: evidence then needs the general search.
    pub forbids: bool,
}

/// What one event is to a sequence. Bit `i` speaks of step `i`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// The steps that it satisfies.
    pub steps: u64,
    /// The steps whose `without` it satisfies.
    pub without: u64,
    /// It satisfies `until`.
    pub until: bool,
}

impl Roles {
    /// It means nothing to the sequence.
    pub fn is_none(self) -> bool {
        self == Roles::default()
    }
}

impl Spec {
    fn positions(&self) -> usize {
        self.counts.iter().map(|&k| k as usize).sum()
    }
}

/// The best start for each position but the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    best: Box<[i64]>,
    /// The latest event that could start a choice, forgotten or not: a late event may come before what forgets it.
    opened: i64,
}

impl State {
    /// Before any event.
    pub fn new(spec: &Spec) -> State {
        State { best: vec![NEVER; spec.positions() - 1].into(), opened: NEVER }
    }

    /// In the place of an old one, before any event: a late event may follow what opened that one, too.
    pub fn after(spec: &Spec, old: &State) -> State {
        State { opened: old.opened, ..State::new(spec) }
    }

    /// No choice that has begun can end within the window after `now`, not even at a late event.
    pub fn is_dead(&self, spec: &Spec, now: i64) -> bool {
        self.best.is_empty() || !within(now, self.opened, spec.window)
    }

    /// Takes the next event in order; says whether a match ends at it.
    pub fn step(&mut self, spec: &Spec, time: i64, roles: Roles) -> bool {
        let last = spec.counts.len() - 1;
        if roles.steps & 1 == 1 {
            self.opened = self.opened.max(time);
        }
        let mut matched = false;
        let mut end = self.best.len() + 1;
        for (i, &count) in spec.counts.iter().enumerate().rev() {
            let first = end - count as usize;
            let before = if first == 0 { time } else { self.best[first - 1] };
            let satisfied = roles.steps >> i & 1 == 1;
            if satisfied && i == last {
                let start = if count == 1 { before } else { self.best[end - 2] };
                matched = within(time, start, spec.window);
            }
            let kept = first..end.min(self.best.len());
            if satisfied && !kept.is_empty() {
                self.best.copy_within(kept.start..kept.end - 1, kept.start + 1);
                self.best[first] = self.best[first].max(before);
            }
            let killed = i < last && roles.without >> (i + 1) & 1 == 1;
            if killed && !(satisfied && count > 1) {
                self.best[end - 1] = if satisfied { before } else { NEVER };
            }
            end = first;
        }
        if roles.until {
            self.best.fill(NEVER);
            if roles.steps & 1 == 1 && !self.best.is_empty() {
                self.best[0] = time;
            }
        }
        matched
    }
}

/// The events that prove a match: among all choices the one whose first event is latest, then whose second is latest, and
/// so on. `events` are in order, reach back at least one window, and the last is the match's end. Gives (index, step from
/// 0); `None` if no match ends there.
pub fn evidence(spec: &Spec, events: &[(i64, Roles)]) -> Option<Vec<(usize, usize)>> {
    let now = events.last()?.0;
    let from = events.partition_point(|&(time, _)| !within(now, time, spec.window));
    let chosen = if spec.forbids { search(spec, &events[from..]) } else { greedy(spec, &events[from..]) }?;
    Some(chosen.into_iter().map(|(i, step)| (i + from, step)).collect())
}

/// Step of each position.
fn steps(spec: &Spec) -> Vec<usize> {
    spec.counts.iter().enumerate().flat_map(|(i, &k)| std::iter::repeat_n(i, k as usize)).collect()
}

/// Without forbidden events the latest choice is the latest at every position: take events from the end.
fn greedy(spec: &Spec, events: &[(i64, Roles)]) -> Option<Vec<(usize, usize)>> {
    let steps = steps(spec);
    let mut chosen = Vec::with_capacity(steps.len());
    let mut at = events.len();
    for (nth, &step) in steps.iter().rev().enumerate() {
        at = events[..at].iter().rposition(|(_, roles)| roles.steps >> step & 1 == 1)?;
        if nth == 0 && at + 1 != events.len() {
            return None;
        }
        chosen.push((at, step));
    }
    chosen.reverse();
    Some(chosen)
}

/// Backwards: which events can stand at which position, so that the rest can follow. Forwards: the latest of them.
fn search(spec: &Spec, events: &[(i64, Roles)]) -> Option<Vec<(usize, usize)>> {
    let steps = steps(spec);
    let total = steps.len();
    let last = events.len() - 1;
    let opens_step = |p: usize| p > 0 && steps[p - 1] != steps[p];
    // reach[p]: some later event can stand at p, with nothing forbidden in between.
    let mut reach = vec![false; total + 1];
    let mut can = vec![false; events.len() * total];
    for (i, &(_, roles)) in events.iter().enumerate().rev() {
        let fits = &mut can[i * total..(i + 1) * total];
        for p in 0..total {
            let follows = if p + 1 == total { i == last } else { reach[p + 1] };
            let between = roles.until && i != last && p > 0;
            fits[p] = roles.steps >> steps[p] & 1 == 1 && follows && !between;
        }
        for p in 0..total {
            let forbidden = opens_step(p) && roles.without >> steps[p] & 1 == 1;
            if forbidden || (roles.until && i != last) {
                reach[p] = false;
            }
            reach[p] |= fits[p];
        }
    }
    let mut chosen: Vec<(usize, usize)> = Vec::with_capacity(total);
    for p in 0..total {
        let from = chosen.last().map_or(0, |&(i, _)| i + 1);
        let step = steps[p];
        let to = if opens_step(p) {
            let stop = events[from..].iter().position(|(_, r)| r.without >> step & 1 == 1);
            stop.map_or(last, |n| from + n)
        } else {
            last
        };
        let at = (from..=to.min(last)).rev().find(|&i| can[i * total + p])?;
        chosen.push((at, step));
    }
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(steps: u64, without: u64, until: bool) -> Roles {
        Roles { steps, without, until }
    }

    /// Every choice, straight from the definition; the latest one in the order of the evidence.
    fn brute(spec: &Spec, events: &[(i64, Roles)]) -> Option<Vec<(usize, usize)>> {
        fn go(
            spec: &Spec,
            steps: &[usize],
            events: &[(i64, Roles)],
            chosen: &mut Vec<usize>,
            best: &mut Option<Vec<usize>>,
        ) {
            let p = chosen.len();
            if p == steps.len() {
                if *chosen.last().unwrap() == events.len() - 1
                    && holds(spec, steps, events, chosen)
                    && best.as_ref().is_none_or(|b| *chosen > *b)
                {
                    *best = Some(chosen.clone());
                }
                return;
            }
            for i in chosen.last().map_or(0, |l| l + 1)..events.len() {
                if events[i].1.steps >> steps[p] & 1 == 1 {
                    chosen.push(i);
                    go(spec, steps, events, chosen, best);
                    chosen.pop();
                }
            }
        }
        fn holds(spec: &Spec, steps: &[usize], events: &[(i64, Roles)], chosen: &[usize]) -> bool {
            let (first, last) = (chosen[0], *chosen.last().unwrap());
            if events[last].0 - events[first].0 > spec.window
                || events[first + 1..last.max(first + 1)].iter().any(|e| e.1.until)
            {
                return false;
            }
            (1..chosen.len())
                .filter(|&p| steps[p] != steps[p - 1])
                .all(|p| !events[chosen[p - 1] + 1..chosen[p]].iter().any(|e| e.1.without >> steps[p] & 1 == 1))
        }
        let steps = steps(spec);
        let mut best = None;
        go(spec, &steps, events, &mut Vec::new(), &mut best);
        best.map(|b| b.into_iter().zip(steps).collect())
    }

    fn arb() -> impl Strategy<Value = (Spec, Vec<(i64, Roles)>)> {
        let counts = prop::collection::vec(1u32..3, 1..4);
        let roles = (0u64..8, 0u64..8, prop::bool::weighted(0.15), prop::bool::weighted(0.6));
        let events = prop::collection::vec((0i64..3, roles), 1..11);
        (counts, 1i64..12, any::<bool>(), events).prop_map(|(counts, window, forbids, raw)| {
            let mut now = 0;
            let steps = (1u64 << counts.len()) - 1;
            let events = raw
                .into_iter()
                .map(|(gap, (s, w, until, quiet))| {
                    now += gap;
                    let without = if forbids && !quiet { w & steps & !1 } else { 0 };
                    (now, event(s & steps, without, forbids && until))
                })
                .collect();
            (Spec { window, counts, forbids }, events)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        #[test]
        fn machine_and_evidence_agree_with_every_choice((spec, events) in arb()) {
            let mut state = State::new(&spec);
            for i in 0..events.len() {
                let expected = brute(&spec, &events[..=i]);
                let matched = state.step(&spec, events[i].0, events[i].1);
                prop_assert_eq!(matched, expected.is_some(), "event {} of {:?}", i, events);
                if matched {
                    prop_assert_eq!(evidence(&spec, &events[..=i]), expected);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20000))]
        #[test]
        fn a_dead_machine_is_not_missed_by_late_events(
            (spec, mut events) in arb(), (_, late) in arb(), gap in 0i64..12, at in any::<prop::sample::Index>(),
        ) {
            let (after, roles) = late[0];
            // One that opens gets a machine of its own.
            let late = Roles { steps: roles.steps & !1, ..roles };
            let matches = |events: &[(i64, Roles)]| {
                let mut state = State::new(&spec);
                let ends = events.iter().filter(|(time, roles)| state.step(&spec, *time, *roles));
                (ends.map(|e| e.0).collect::<Vec<_>>(), state)
            };
            let (before, state) = matches(&events);
            let now = at.get(&events).0 + gap;
            if state.is_dead(&spec, now) {
                let place = events.partition_point(|e| e.0 < now + after);
                events.insert(place, (now + after, late));
                prop_assert_eq!(matches(&events).0, before);
            }
        }
    }

    #[test]
    fn a_step_of_three_takes_three_events() {
        let spec = Spec { window: 10, counts: vec![1, 3], forbids: false };
        let mut state = State::new(&spec);
        let ends: Vec<bool> =
            [0, 1, 2, 3].iter().map(|&t| state.step(&spec, t, event(if t == 0 { 1 } else { 2 }, 0, false))).collect();
        assert_eq!(ends, [false, false, false, true]);
    }
}
