//! One group: its log, its machines, its matches. Takes an epoch's hits and says which rules' matches changed.
//!
//! A hit that is later than all before it costs a step of the machines it concerns. A late one makes them start again
//! from the window before it; what they then say of the events after it replaces what they said before. So the matches
//! are a function of the log alone.

use std::sync::Arc;

use clawdstrike_operators::absence;
use clawdstrike_operators::chain::Match;
use smallvec::SmallVec;

use super::alerting::Chains2Alerts;
use super::class::{Class, Classes};
use super::copies::Copies;
use super::hit::{Head, HitBatch, Payload};
use super::keep::Keeper;
use super::log::{Entry, Log};
use super::matched::{Matched, combine, matches_of, push_match};
use super::rules::{ById, Kind, RuleId, Rules, SESSION, Unit, UnitId};
use super::session::{RECENT, Session};
use super::settings::Settings;
use super::units::{self, UnitState};
use crate::alert::Alert;

/// What a group needs to know about the world.
pub struct Context<'a> {
    /// The rule set in force.
    pub rules: &'a Rules,
    /// All classes.
    pub classes: &'a Classes,
    /// Limits.
    pub settings: &'a Settings,
    /// The event-time bound; no event before it is to come.
    pub watermark: i64,
    /// Puts aside what must not be lost, if anything does.
    pub keeper: Option<&'a Keeper>,
    /// The epoch that is applied: versions made in it carry it as their revision.
    pub epoch: u64,
}

/// An event for a group.
#[derive(Clone, Copy)]
pub struct Hit<'a> {
    /// What is small.
    pub head: &'a Head,
    /// The batch that it came in.
    pub batch: &'a HitBatch,
}

impl<'a> Hit<'a> {
    /// The encoded event.
    pub fn payload(self) -> Payload<'a> {
        self.batch.payload(self.head)
    }
}

/// One condition of one rule in a group: its machine and, where another condition looks for them, its matches.
#[derive(Debug)]
pub(super) struct OpenUnit {
    pub id: UnitId,
    pub unit: Arc<Unit>,
    pub state: UnitState,
}

/// All that is known of one key.
#[derive(Debug)]
pub struct Group {
    pub(super) by: ById,
    pub(super) log: Log,
    pub(super) copies: Copies,
    pub(super) units: Vec<OpenUnit>,
    pub(super) matched: Vec<Matched>,
    /// The view, where the group is a session.
    pub session: Option<Box<Session>>,
    /// Lives of the session have left this state.
    pub had_lives: bool,
    rules_version: u32,
    /// Machines that remember each event of their window.
    remembering: u32,
    /// Machines that wait for the watermark.
    waiting: u32,
    /// Bytes that the group held when it was last looked at.
    pub held: usize,
    /// When the group wants to be looked at again; [`i64::MAX`]: it isn't on the wheel.
    pub due: i64,
    /// It has changed since the last cut.
    pub changed: bool,
}

/// What an epoch changed in a group.
#[derive(Default)]
pub struct Changes {
    /// New versions of alerts.
    pub alerts: Vec<Alert>,
    /// `first_seen` of lives that are no more.
    pub gone: Vec<i64>,
    /// Copies that were left out.
    pub copies: u64,
}

/// A rule's matches changed from this time on; `late`: also what proves matches from this time on.
pub(super) struct Dirty {
    pub rule: RuleId,
    pub from: i64,
    pub late: bool,
}

impl Group {
    /// A group that has seen nothing.
    pub fn new(by: ById) -> Group {
        Group {
            by,
            log: Log::default(),
            copies: Copies::default(),
            units: Vec::new(),
            matched: Vec::new(),
            session: None,
            had_lives: false,
            rules_version: 0,
            remembering: 0,
            waiting: 0,
            held: 0,
            due: i64::MAX,
            changed: false,
        }
    }

    /// Bytes that the group holds, about.
    pub fn holds(&self) -> usize {
        /// What a machine has outside of its struct, if it remembers no events.
        const MACHINE: usize = 64;
        /// What a machine that remembers events has for each.
        const REMEMBERED: usize = 24;
        let machines = self.units.capacity() * size_of::<OpenUnit>() + self.units.len() * MACHINE;
        let remembered = self.remembering as usize * self.log.entries().len() * REMEMBERED;
        let matches = |m: &Matched| m.chains.live().len() + m.parts.iter().map(Vec::len).sum::<usize>();
        let matched =
            self.matched.iter().map(|m| size_of::<Matched>() + matches(m) * size_of::<Match>() + m.alerting.held());
        let session = self.session.as_ref().map_or(0, |s| s.held());
        // A map has free slots, too.
        2 * size_of::<Group>()
            + self.log.held()
            + self.copies.held()
            + session
            + machines
            + remembered
            + matched.sum::<usize>()
    }

    /// Forgets the earliest events, so that the group holds about `bytes`; its machines know only the rest from now on.
    pub fn trim(&mut self, ctx: &Context<'_>, bytes: usize) {
        let an_entry = self.log.held() / self.log.entries().len().max(1);
        let all = self.holds().max(1);
        let share = |held: usize| (held as u128 * bytes as u128 / all as u128) as usize;
        self.log.trim(share(self.log.held()).max(an_entry));
        self.copies.trim(share(self.copies.held()));
        let entries = self.log.entries();
        let first = entries.first().map_or(i64::MAX, |e| e.time);
        for open in &mut self.units {
            if let UnitState::Absence(state) = &mut open.state {
                *state = state.only(|time, _| time >= first);
                continue;
            }
            open.state = after(ctx, &open.unit, entries);
        }
    }

    /// Which machines there are has changed.
    pub(super) fn recount(&mut self) {
        let kinds = || self.units.iter().map(|open| &open.unit.kind);
        let waits = |kind: &&Kind| matches!(kind, Kind::Absence { .. });
        let remembers = |kind: &&Kind| matches!(kind, Kind::Threshold { .. } | Kind::NewValue { .. });
        self.waiting = kinds().filter(waits).count() as u32;
        self.remembering = self.waiting + kinds().filter(remembers).count() as u32;
    }

    /// Applies an epoch's hits, in the order of their arrival; leaves `hits` empty.
    pub fn apply<'a>(&mut self, ctx: &Context<'a>, hits: &mut Vec<Hit<'a>>, changes: &mut Changes) {
        self.follow_rules(ctx.rules);
        if ctx.rules.filling.is_some() {
            let read_again: Vec<Hit<'a>> = hits.extract_if(.., |hit| hit.head.again).collect();
            self.apply_first(ctx, hits, changes);
            read_again.into_iter().for_each(|hit| self.take_again(ctx, hit));
        } else {
            // Whoever waited for these is gone.
            hits.retain(|hit| !hit.head.again);
            self.apply_first(ctx, hits, changes);
        }
    }

    /// Hits of events that are read for the first time.
    fn apply_first<'a>(&mut self, ctx: &Context<'a>, hits: &mut Vec<Hit<'a>>, changes: &mut Changes) {
        let before = hits.len();
        hits.retain(|hit| !self.copies.is_copy(hit.head, ctx.settings.dedup_window));
        changes.copies += (before - hits.len()) as u64;
        if self.by == SESSION {
            self.count(ctx, hits, changes);
        }
        if let Some(keeper) = ctx.keeper {
            hits.iter().filter(|hit| !hit.head.kept).for_each(|hit| keeper.keep(ctx.epoch, hit.head, None));
        }
        hits.retain(|hit| hit.head.kept);
        if hits.len() > 1 {
            let order =
                |a: &Hit<'_>, b: &Hit<'_>| a.head.time.cmp(&b.head.time).then_with(|| a.payload().compare(b.payload()));
            hits.sort_by(order);
        }
        let mut classes: SmallVec<[&Class; 16]> = SmallVec::new();
        hits.retain(|hit| {
            let class = ctx.classes.get(hit.head.class).filter(|class| class.has_role(self.by));
            if let (None, Some(keeper)) = (class, ctx.keeper) {
                keeper.keep(ctx.epoch, hit.head, None);
            }
            classes.extend(class);
            class.is_some()
        });
        let before = self.log.entries().len();
        let places = self.log.insert_all(hits.iter().map(|hit| (hit.head, &hit.batch.kept)));
        if let Some(keeper) = ctx.keeper {
            for ((hit, class), &at) in hits.iter().zip(&classes).zip(&places) {
                keeper.keep(ctx.epoch, hit.head, Some((&self.log.entries()[at], class.retain(self.by))));
            }
        }
        hits.clear();
        // Those that stand before one that was there.
        let late = places.iter().zip(before..).take_while(|(at, last)| *at < last).count();
        let mut dirty: Vec<Dirty> = Vec::new();
        let mut placed = places.into_iter().zip(classes);
        if late > 0 {
            self.replay(ctx, placed.by_ref().take(late).collect(), before + late, &mut dirty);
        }
        for (at, class) in placed {
            self.follow(ctx, at, class, &mut dirty);
        }
        if !dirty.is_empty() {
            self.settle(ctx, dirty, changes);
        }
    }

    fn count(&mut self, ctx: &Context<'_>, hits: &[Hit<'_>], changes: &mut Changes) {
        // Only a life's latest events are shown, so only their payloads are looked at.
        let retention = ctx.settings.session_retention;
        let mut times: SmallVec<[i64; 16]> = hits.iter().map(|hit| hit.head.time).collect();
        let shown_from = match times.len().checked_sub(RECENT) {
            Some(at) if at > 0 => *times.select_nth_unstable(at).1,
            _ => i64::MIN,
        };
        let same_life = times.iter().max().map_or(i64::MIN, |latest| latest.saturating_sub(retention));
        for hit in hits {
            let resumed = self.had_lives;
            let session = self.session.get_or_insert_with(|| Box::new(Session::new(hit.payload(), resumed)));
            let shown = hit.head.time >= shown_from || hit.head.time < same_life;
            let target = shown.then(|| hit.payload().target_bytes());
            session.add(hit.head, target, retention, &mut changes.gone);
        }
    }

    /// Reads what [`Group::apply`] will need first, so that the memory of several groups is fetched at once.
    pub fn touch(&self) -> i64 {
        let session = self.session.as_ref().map_or(0, |s| s.last_seen());
        let entry = self.log.entries().last().map_or(0, |e| e.time);
        let unit = self.units.first().map_or(0, |u| i64::from(u.id));
        session ^ entry ^ unit ^ self.copies.latest()
    }

    /// Another rule set is in force: forget the machines of rules that are gone. Their alerts stay as they are.
    pub(super) fn follow_rules(&mut self, rules: &Rules) {
        if self.rules_version != rules.version {
            self.rules_version = rules.version;
            self.units.retain(|u| rules.units.contains_key(&u.id));
            self.matched.retain(|m| rules.rules.contains_key(&m.id));
            self.recount();
        }
    }

    /// Feeds the last entry of the log to the machines it concerns.
    pub(super) fn follow(&mut self, ctx: &Context<'_>, at: usize, class: &Class, dirty: &mut Vec<Dirty>) {
        let before = self.units.len();
        for &id in class.openers(self.by) {
            if let Err(place) = self.units.binary_search_by_key(&id, |u| u.id)
                && let Some(unit) = ctx.rules.units.get(&id)
            {
                let state = start(ctx, unit, &self.log.entries()[..at]);
                self.units.insert(place, OpenUnit { id, unit: unit.clone(), state });
            }
        }
        if self.units.len() > before {
            self.recount();
        }
        let entry = &self.log.entries()[at];
        for n in 0..self.units.len() {
            let open = &mut self.units[n];
            if open.state.step(&open.unit, class, entry) {
                let (id, rule) = (open.id, open.unit.rule);
                let found = Match { time: entry.time, end_time: entry.time, end: entry.uid };
                push_match(&mut self.matched, ctx.rules, rule, id, found);
                dirty.push(Dirty { rule, from: entry.time, late: false });
            }
        }
    }

    /// Machines begin anew: they know what the log says, and raise nothing for it. Absences wait for nothing.
    pub(super) fn begin_machines(&mut self, ctx: &Context<'_>) {
        let matched = std::mem::take(&mut self.matched);
        self.units.clear();
        for at in 0..self.log.entries().len() {
            if let Some(class) = ctx.classes.get(self.log.entries()[at].class) {
                self.follow(ctx, at, class, &mut Vec::new());
            }
        }
        self.matched = matched;
        for open in &mut self.units {
            if let UnitState::Absence(state) = &mut open.state {
                *state = absence::State::default();
            }
        }
    }

    /// A unit's machine is this one from now on.
    pub(super) fn set_machine(&mut self, id: UnitId, unit: &Arc<Unit>, state: UnitState) {
        match self.units.binary_search_by_key(&id, |open| open.id) {
            Ok(place) => self.units[place].state = state,
            Err(place) => self.units.insert(place, OpenUnit { id, unit: unit.clone(), state }),
        }
    }

    /// Late entries stand at these places: the machines they concern start again. The log counts up to `end`.
    fn replay(&mut self, ctx: &Context<'_>, late: Vec<(usize, &Class)>, end: usize, dirty: &mut Vec<Dirty>) {
        let mut again: Vec<(UnitId, usize)> = Vec::new();
        let mut note = |id: UnitId, at: usize| match again.iter_mut().find(|(u, _)| *u == id) {
            Some((_, first)) => *first = at.min(*first),
            None => again.push((id, at)),
        };
        for (at, class) in &late {
            for &id in class.openers(self.by) {
                note(id, *at);
            }
            for open in &self.units {
                if concerns(&open.unit, class) {
                    note(open.id, *at);
                }
            }
        }
        for (id, first) in again {
            let Some(unit) = ctx.rules.units.get(&id).cloned() else { continue };
            let state = self.rebuild(ctx, id, &unit, first, end);
            dirty.push(Dirty { rule: unit.rule, from: self.log.entries()[first].time, late: true });
            self.set_machine(id, &unit, state);
        }
        self.recount();
    }

    /// Steps a new machine through the window before entry `first` and on to `end`; its matches from `first` on replace
    /// those that were known.
    pub(super) fn rebuild(
        &mut self,
        ctx: &Context<'_>,
        id: UnitId,
        unit: &Unit,
        first: usize,
        end: usize,
    ) -> UnitState {
        let entries = &self.log.entries()[..end];
        let old = self.units.binary_search_by_key(&id, |u| u.id).ok().map(|place| &self.units[place].state);
        if let Kind::Absence { .. } = unit.kind {
            let time = entries[first].time;
            let earlier = |t: i64, uid: u32| t < time || t == time && self.log.find(t, uid).is_some_and(|i| i < first);
            return UnitState::waiting_again(unit, old, earlier, &entries[first..], |e| ctx.classes.get(e.class));
        }
        if let Some(matches) = matches_of(&mut self.matched, unit.rule, id) {
            matches.forget_from(&self.log, first);
        }
        let from = self.log.first_at_or_after(entries[first].time.saturating_sub(units::window(unit)));
        let mut state = UnitState::after(unit, old);
        for (i, entry) in entries.iter().enumerate().skip(from) {
            let Some(class) = ctx.classes.get(entry.class) else { continue };
            if state.step(unit, class, entry) && i >= first {
                let found = Match { time: entry.time, end_time: entry.time, end: entry.uid };
                push_match(&mut self.matched, ctx.rules, unit.rule, id, found);
            }
        }
        state
    }

    /// Matches of absences whose windows the watermark has passed, forgetting, folding. Gives when to look again.
    pub fn advance(&mut self, ctx: &Context<'_>, changes: &mut Changes) -> i64 {
        self.follow_rules(ctx.rules);
        let mut dirty = Vec::new();
        for n in 0..self.units.len() {
            let open = &mut self.units[n];
            let (id, rule) = (open.id, open.unit.rule);
            while let Some((time, uid)) = open.state.due(&open.unit, ctx.watermark) {
                let found = Match { time: time.saturating_add(units::window(&open.unit)), end_time: time, end: uid };
                push_match(&mut self.matched, ctx.rules, rule, id, found);
                // Other conditions may have matched after it, in ignorance of it.
                dirty.push(Dirty { rule, from: found.time, late: true });
            }
        }
        self.settle(ctx, dirty, changes);
        self.forget(ctx)
    }

    fn forget(&mut self, ctx: &Context<'_>) -> i64 {
        let watermark = ctx.watermark;
        for m in &mut self.matched {
            let finished = m.chains.advance(m.info.rule.suppress_for, watermark);
            m.alerting.finish(finished);
            let reach = m.info.reach();
            for part in &mut m.parts {
                part.retain(|p| p.time.saturating_add(reach) >= watermark);
            }
        }
        self.matched.retain(|m| {
            !m.chains.is_empty() || m.parts.iter().any(|p| !p.is_empty()) || m.alerting.may_come_back(watermark)
        });
        self.units.retain(|u| !u.state.is_dead(&u.unit, watermark));
        self.recount();
        let old = watermark.saturating_sub(ctx.settings.max_lateness);
        self.log.compact(self.by, ctx.classes, watermark, old);
        let newest_copy = watermark.saturating_add(ctx.settings.max_lateness).saturating_sub(ctx.settings.dedup_window);
        let newest_copy = ctx.rules.filling.map_or(newest_copy, |from| newest_copy.min(from));
        if self.copies.forget(newest_copy)
            && let Some(session) = &mut self.session
        {
            session.id_conflict = true;
        }
        self.next_due(ctx)
    }

    /// Groups with something that ages are looked at every so often; sessions that only wait for their end, then.
    fn next_due(&self, ctx: &Context<'_>) -> i64 {
        const LOOK_AGAIN: i64 = 60_000_000;
        let ages = !self.log.entries().is_empty() || !self.copies.is_empty() || !self.matched.is_empty();
        let soon = if ages { ctx.watermark.saturating_add(LOOK_AGAIN) } else { i64::MAX };
        let waits = self.absence_due().map_or(i64::MAX, |t| t.saturating_add(1));
        let ends = self
            .session
            .as_ref()
            .map_or(i64::MAX, |s| s.last_seen().saturating_add(ctx.settings.session_retention + 1));
        soon.min(waits).min(ends)
    }

    /// When an absence in this group is due, if that is before the group would be looked at anyway.
    pub fn absence_due(&self) -> Option<i64> {
        if self.waiting == 0 {
            return None;
        }
        self.units.iter().filter_map(|u| u.state.next_due(&u.unit)).min()
    }

    /// Time of the latest event that is known.
    pub fn last_seen(&self) -> i64 {
        let entry = self.log.entries().last().map_or(i64::MIN, |e| e.time);
        let session = self.session.as_ref().map_or(i64::MIN, |s| s.last_seen());
        entry.max(session).max(self.copies.latest())
    }

    /// Nothing is left to know.
    pub fn is_empty(&self) -> bool {
        self.session.is_none()
            && self.log.entries().is_empty()
            && self.copies.is_empty()
            && self.matched.is_empty()
            && self.units.is_empty()
    }

    /// Two records of this group had one id and different bytes.
    pub fn has_conflict(&self) -> bool {
        self.copies.has_conflict()
    }

    /// Turns changed matches into chains, and changed chains into versions of alerts.
    pub(super) fn settle(&mut self, ctx: &Context<'_>, mut dirty: Vec<Dirty>, changes: &mut Changes) {
        dirty.sort_by_key(|d| (d.rule, d.from));
        let mut n = 0;
        while n < dirty.len() {
            let rule = dirty[n].rule;
            let same = dirty[n..].iter().take_while(|d| d.rule == rule).count();
            let from = dirty[n].from;
            let late = dirty[n..n + same].iter().filter(|d| d.late).map(|d| d.from).min();
            n += same;
            let Some(m) = self.matched.iter_mut().find(|m| m.id == rule) else { continue };
            if !m.parts.is_empty() {
                combine(m, &self.log, from);
            }
            // Only of such a rule it matters which of them were found live.
            let matches =
                if m.info.since.has_before() { Vec::from_iter(m.chains.live().iter().copied()) } else { Vec::new() };
            let group = Chains2Alerts { ctx, info: &m.info, log: &self.log, parts: &m.parts, matches: &matches };
            let chains = m.chains.current(m.info.rule.suppress_for);
            m.alerting.update(&group, chains, late, &mut changes.alerts);
        }
    }
}

/// A machine that begins with the next entry. Only a pattern cares for what came before its opener.
fn start(ctx: &Context<'_>, unit: &Unit, before: &[Entry]) -> UnitState {
    match (&unit.kind, before.last()) {
        (Kind::Pattern { .. }, Some(last)) => {
            let from = before.partition_point(|e| last.time.saturating_sub(e.time) > units::window(unit));
            after(ctx, unit, &before[from..])
        }
        _ => UnitState::new(unit),
    }
}

/// A machine that knows these entries and no earlier ones.
fn after(ctx: &Context<'_>, unit: &Unit, entries: &[Entry]) -> UnitState {
    let mut state = UnitState::new(unit);
    for entry in entries {
        if let Some(class) = ctx.classes.get(entry.class) {
            state.step(unit, class, entry);
        }
    }
    state
}

/// Whether events of the class mean anything to the unit.
pub(super) fn concerns(unit: &Unit, class: &Class) -> bool {
    match &unit.kind {
        Kind::Sequence { steps, without, until, .. } => !class.sequence(unit.rule, steps, without, *until).is_none(),
        Kind::Threshold { matcher, .. } => class.satisfied(unit.rule, &[*matcher]) != 0,
        Kind::Pattern { matchers, .. } => class.satisfied(unit.rule, matchers) != 0,
        Kind::Absence { trigger, absent, .. } => {
            class.def.satisfies(*absent) || class.satisfied(unit.rule, &[*trigger]) != 0
        }
        Kind::NewValue { matcher, .. } => class.def.satisfies(*matcher),
    }
}
