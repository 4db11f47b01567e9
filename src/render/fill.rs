//! Back-fill, where groups are: hits of events that were read again, for rules that were loaded after them, join the log beside
//! those that are read first. A rule is evaluated once all of them are there: over the log from its horizon on, whatever the
//! order in which it was filled. So it never says what an event that is still to be read again would take back.
//!
//! Until then the log and the copies keep all that such rules see; sessions count nothing twice, and other rules' machines
//! don't move: an event that is here again means to them what it meant.

use std::sync::Arc;

use hashbrown::HashMap;

use super::copies::Again;
use super::group::{Changes, Context, Dirty, Group, Hit, concerns};
use super::log::Entry;
use super::rules::{RuleInfo, UnitId};

/// Units of the rules to be begun that are concerned with events of a class, by the class's number.
pub type Concerned = HashMap<u32, Vec<UnitId>>;

impl Group {
    /// Takes a hit of an event that was read again.
    pub(super) fn take_again(&mut self, ctx: &Context<'_>, hit: Hit<'_>) {
        let mut own = *hit.head;
        if own.reworded
            && let Some(raw) = self.copies.known_raw(&own)
        {
            own.raw = raw;
        }
        let head = &own;
        match self.copies.meet_again(head, ctx.settings.dedup_window) {
            Again::Copy => return,
            Again::CopiedBy(time) => self.log.take_out(time, hit.payload(), head.reworded),
            Again::Event => {}
        }
        let class = ctx.classes.get(head.class).filter(|class| head.time >= class.filling(self.by));
        let entry = class.map(|class| (self.log.put_again(head, &hit.batch.kept), class));
        if let Some(keeper) = ctx.keeper {
            let entry = entry.map(|(at, class)| (&self.log.entries()[at], class.retain(self.by)));
            keeper.keep(ctx.epoch, head, entry);
        }
    }

    /// Rules that waited for earlier events begin: what they match in the log is matched now. `known` remembers.
    pub(super) fn begin_rules(
        &mut self,
        ctx: &Context<'_>,
        rules: &[Arc<RuleInfo>],
        known: &mut Concerned,
        changes: &mut Changes,
    ) {
        self.follow_rules(ctx.rules);
        let end = self.log.entries().len();
        let wanted = self.concerned(ctx, rules, known);
        let mut dirty = Vec::new();
        let by = self.by;
        for info in rules.iter().filter(|info| info.by == by) {
            let first = self.log.first_at_or_after(info.since.horizon);
            if first == end {
                continue;
            }
            for id in info.units.iter().filter(|id| wanted.contains(id)) {
                let Some(unit) = ctx.rules.units.get(id).cloned() else { continue };
                let state = self.rebuild(ctx, *id, &unit, first, end);
                self.set_machine(*id, &unit, state);
                dirty.push(Dirty { rule: info.id, from: info.since.horizon, late: false });
            }
        }
        self.recount();
        self.settle(ctx, dirty, changes);
    }

    /// The rules' units that some event of the log concerns.
    fn concerned(&self, ctx: &Context<'_>, rules: &[Arc<RuleInfo>], known: &mut Concerned) -> Vec<UnitId> {
        let mut classes: Vec<u32> = self.log.entries().iter().map(|entry: &Entry| entry.class).collect();
        classes.sort_unstable();
        classes.dedup();
        let mut wanted = Vec::new();
        for number in classes {
            let units = known.entry(number).or_insert_with(|| {
                let Some(class) = ctx.classes.get(number) else { return Vec::new() };
                let all = rules.iter().flat_map(|info| &info.units).copied();
                all.filter(|id| ctx.rules.units.get(id).is_some_and(|unit| concerns(unit, class))).collect()
            });
            wanted.extend_from_slice(units);
        }
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }
}
