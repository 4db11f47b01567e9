//! A unit's state in one group: which machine of `clawdstrike_operators` it is, and how a hit of the group's log is fed
//! to it. The machines decide; this only translates classes into their roles.

use clawdstrike_operators::{absence, new_value, pattern, sequence, threshold};

use super::class::Class;
use super::log::Entry;
use super::rules::{Kind, Unit, ValueOf};

/// A unit's machine.
#[derive(Debug)]
pub enum UnitState {
    /// See [`sequence`].
    Sequence(sequence::State),
    /// See [`threshold`].
    Threshold(threshold::State),
    /// See [`pattern`].
    Pattern(pattern::State),
    /// See [`absence`].
    Absence(absence::State),
    /// See [`new_value`].
    NewValue(new_value::State),
}

/// The hash of a value that a unit compares; `None` if the event hasn't got it.
fn value_of(entry: &Entry, value: ValueOf) -> Option<u64> {
    let hash = match value {
        ValueOf::Target => entry.target,
        ValueOf::Slot(n) => entry.payload().value(usize::from(n)),
    };
    (hash != threshold::NO_VALUE).then_some(hash)
}

impl UnitState {
    /// Before any event.
    pub fn new(unit: &Unit) -> UnitState {
        match &unit.kind {
            Kind::Sequence { spec, .. } => UnitState::Sequence(sequence::State::new(spec)),
            Kind::Threshold { .. } => UnitState::Threshold(threshold::State::default()),
            Kind::Pattern { spec, .. } => UnitState::Pattern(pattern::State::new(spec)),
            Kind::Absence { .. } => UnitState::Absence(absence::State::default()),
            Kind::NewValue { .. } => UnitState::NewValue(new_value::State::default()),
        }
    }

    /// In the place of an old one, before any event.
    pub fn after(unit: &Unit, old: Option<&UnitState>) -> UnitState {
        match (&unit.kind, old) {
            (Kind::Sequence { spec, .. }, Some(UnitState::Sequence(old))) => {
                UnitState::Sequence(sequence::State::after(spec, old))
            }
            _ => UnitState::new(unit),
        }
    }

    /// Takes the next hit of the group in order; says whether a match ends at it.
    pub fn step(&mut self, unit: &Unit, class: &Class, entry: &Entry) -> bool {
        if entry.time < unit.horizon {
            return false;
        }
        match (self, &unit.kind) {
            (UnitState::Sequence(state), Kind::Sequence { spec, steps, without, until }) => {
                let roles = class.sequence(unit.rule, steps, without, *until);
                !roles.is_none() && state.step(spec, entry.time, roles)
            }
            (UnitState::Threshold(state), Kind::Threshold { spec, matcher, value }) => {
                let counts = class.satisfied(unit.rule, &[*matcher]) != 0;
                let hash = value.and_then(|v| value_of(entry, v)).unwrap_or(threshold::NO_VALUE);
                counts && state.step(spec, entry.time, entry.target, hash)
            }
            (UnitState::Pattern(state), Kind::Pattern { spec, matchers, .. }) => {
                let satisfied = class.satisfied(unit.rule, matchers);
                satisfied != 0 && state.step(spec, entry.time, satisfied)
            }
            (UnitState::Absence(state), Kind::Absence { window, trigger, absent }) => {
                let triggers = class.satisfied(unit.rule, &[*trigger]) != 0;
                state.step(*window, entry.time, entry.uid, triggers, class.def.satisfies(*absent));
                false
            }
            (UnitState::NewValue(state), Kind::NewValue { spec, matcher, value }) => {
                let known = class.def.satisfies(*matcher);
                let counts = !class.is_suppressed(unit.rule);
                known && state.step(spec, entry.time, value_of(entry, *value), counts)
            }
            // A unit's number stands for one condition for ever.
            _ => false,
        }
    }

    /// The next trigger that nothing followed, once the watermark has passed its window: (time, entry).
    pub fn due(&mut self, unit: &Unit, watermark: i64) -> Option<(i64, u32)> {
        match (self, &unit.kind) {
            (UnitState::Absence(state), Kind::Absence { window, .. }) => state.due(*window, watermark),
            _ => None,
        }
    }

    /// When the first waiting trigger's window ends.
    pub fn next_due(&self, unit: &Unit) -> Option<i64> {
        match (self, &unit.kind) {
            (UnitState::Absence(state), Kind::Absence { window, .. }) => state.next_due(*window),
            _ => None,
        }
    }

    /// An absence's machine after a late event, the first of `entries`: triggers that waited and are `earlier` go on, those
    /// of the entries wait again, unless something follows them. (What followed earlier ones may have left the log.)
    pub fn waiting_again<'a>(
        unit: &Unit,
        old: Option<&UnitState>,
        earlier: impl Fn(i64, u32) -> bool,
        entries: &[Entry],
        class_of: impl Fn(&Entry) -> Option<&'a Class>,
    ) -> UnitState {
        let mut state = match old {
            Some(UnitState::Absence(old)) => old.only(earlier),
            _ => absence::State::default(),
        };
        if let Kind::Absence { window, trigger, absent } = &unit.kind {
            for entry in entries.iter().filter(|entry| entry.time >= unit.horizon) {
                if let Some(class) = class_of(entry) {
                    let triggers = class.satisfied(unit.rule, &[*trigger]) != 0;
                    state.step(*window, entry.time, entry.uid, triggers, class.def.satisfies(*absent));
                }
            }
        }
        UnitState::Absence(state)
    }

    /// It knows nothing that an event after `now` could use.
    pub fn is_dead(&self, unit: &Unit, now: i64) -> bool {
        match (self, &unit.kind) {
            (UnitState::Sequence(s), Kind::Sequence { spec, .. }) => s.is_dead(spec, now),
            (UnitState::Threshold(s), Kind::Threshold { spec, .. }) => s.is_dead(spec, now),
            (UnitState::Pattern(s), Kind::Pattern { spec, .. }) => s.is_dead(spec, now),
            (UnitState::Absence(s), Kind::Absence { .. }) => s.is_dead(),
            (UnitState::NewValue(s), Kind::NewValue { spec, .. }) => s.is_dead(spec, now),
            _ => true,
        }
    }
}

/// How far back a unit looks.
pub fn window(unit: &Unit) -> i64 {
    match &unit.kind {
        Kind::Sequence { spec, .. } => spec.window,
        Kind::Threshold { spec, .. } => spec.window,
        Kind::Pattern { spec, .. } => spec.window,
        Kind::Absence { window, .. } => *window,
        Kind::NewValue { spec, .. } => spec.window,
    }
}

/// The events that prove a unit's match that ends at the last of `entries` (in order, reaching back at least a window):
/// (index, step from 1).
pub fn evidence<'a>(
    unit: &Unit,
    entries: &[Entry],
    class_of: impl Fn(&Entry) -> Option<&'a Class>,
) -> Vec<(usize, u32)> {
    let Some(last) = entries.last() else { return Vec::new() };
    let from = entries.partition_point(|e| last.time.saturating_sub(e.time) > window(unit) || e.time < unit.horizon);
    let inside = &entries[from..];
    let classes: Vec<_> = inside.iter().map(class_of).collect();
    let roles = |i: usize| classes[i];
    let found: Vec<(usize, u32)> = match &unit.kind {
        Kind::Sequence { spec, steps, without, until } => {
            let events: Vec<_> = inside
                .iter()
                .enumerate()
                .map(|(i, e)| {
                    (e.time, roles(i).map(|c| c.sequence(unit.rule, steps, without, *until)).unwrap_or_default())
                })
                .collect();
            let chosen = sequence::evidence(spec, &events).unwrap_or_default();
            chosen.into_iter().map(|(i, step)| (i, step as u32 + 1)).collect()
        }
        Kind::Threshold { matcher, .. } => (0..inside.len())
            .filter(|&i| roles(i).is_some_and(|c| c.satisfied(unit.rule, &[*matcher]) != 0))
            .map(|i| (i, 1))
            .collect(),
        Kind::Pattern { spec, matchers, .. } => {
            let events: Vec<_> = inside
                .iter()
                .enumerate()
                .map(|(i, e)| (e.time, roles(i).map_or(0, |c| c.satisfied(unit.rule, matchers))))
                .collect();
            pattern::evidence(spec, &events).into_iter().map(|(i, m)| (i, m as u32 + 1)).collect()
        }
        Kind::Absence { .. } | Kind::NewValue { .. } => vec![(inside.len() - 1, 1)],
    };
    found.into_iter().map(|(i, step)| (i + from, step)).collect()
}
