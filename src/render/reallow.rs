//! What a changed allowlist corrects (SPEC §8): open alerts whose proof it takes out are retracted, and kept events that it
//! takes out fill no step any more. Events that an entry no longer takes out can be steps of what matches from now on; they
//! raise nothing by themselves.
//!
//! What proves an alert is its evidence. A threshold counts more events than evidence shows, so there all that is shown must
//! be taken out. The events of a group of several agents are judged only by entries that name none: evidence doesn't say
//! which agent's an event was.

use std::collections::HashSet;

use clawdstrike_operators::chain::Match;
use clawdstrike_rules::plan::{AllowEntry, Condition, Rule};
use hashbrown::HashMap;

use super::class::{CLASS_BITS, Class, ClassDef, Classes};
use super::classify::Classifier;
use super::detect::{Detect, Shared};
use super::group::{Changes, Context, Group, OpenUnit};
use super::log::Entry;
use super::rules::{AllowId, Kind, Rules};
use super::settings::Settings;
use super::units::UnitState;
use crate::alert::Alert;

/// Tells what an allowlist takes out.
pub struct Judge {
    classifier: Classifier,
    entries: HashMap<AllowId, AllowEntry>,
    /// Rules with a threshold.
    counting: HashSet<String>,
}

impl Judge {
    /// Of these entries, for alerts of these rules; `None`: the cluster's secret isn't known yet, or an entry can't be compiled,
    /// for which the ingest, which compiles the same, fails the run.
    pub fn new<'a>(
        allowlist: Vec<(AllowId, AllowEntry)>,
        rules: impl Iterator<Item = &'a Rule>,
        shared: &Shared,
        settings: &Settings,
    ) -> Option<Judge> {
        let counts = |rule: &&Rule| rule.conditions.iter().any(|c| matches!(c, Condition::Threshold(_)));
        let counting = rules.filter(counts).map(|rule| rule.id.clone()).collect();
        let entries = allowlist.iter().cloned().collect();
        let mut classifier = Classifier::new(0, shared.hasher.borrow().clone()?, &settings.zone);
        classifier.load(&Rules { allowlist, ..Rules::default() }).ok()?;
        Some(Judge { classifier, entries, counting })
    }

    /// The allowlist takes out what proves the alert.
    pub fn takes_out(&mut self, alert: &Alert) -> bool {
        let one_agent = alert.group.iter().any(|(field, _)| field == "agent_id");
        let Judge { classifier, entries, counting } = self;
        let mut taken = alert.evidence.iter().map(|event| {
            let holding = classifier.allowing(event.event_type, &event.target, &alert.agent_id, event.time);
            holding.iter().filter_map(|id| entries.get(id)).any(|entry| {
                let of_rule = entry.rules.is_empty() || entry.rules.contains(&alert.rule_id);
                of_rule && (one_agent || entry.agent.is_none())
            })
        });
        match counting.contains(&alert.rule_id) {
            true => !alert.evidence.is_empty() && taken.all(|taken| taken),
            false => taken.any(|taken| taken),
        }
    }

    /// The entries that hold for a kept event, in order.
    fn holding(&mut self, entry: &Entry) -> &[AllowId] {
        let event = entry.payload();
        self.classifier.allowing(event.event_type(), event.target(), event.agent_id(), entry.time)
    }
}

/// Classes of events that were judged anew. They exist on this worker only, under a number that no worker has.
#[derive(Debug, Default)]
pub(super) struct Reclassed {
    known: HashMap<(u32, Vec<AllowId>), u32>,
    next: u32,
}

impl Reclassed {
    const WORKER: u32 = u32::MAX >> CLASS_BITS;

    /// The class of events that had been of class `old`, and for which these entries hold.
    fn class(&mut self, old: u32, holding: &[AllowId], classes: &mut Classes, rules: &Rules) -> Option<u32> {
        let def = &classes.get(old)?.def;
        if def.allowed == holding {
            return None;
        }
        if let Some(&known) = self.known.get(&(old, holding.to_vec())) {
            return Some(known);
        }
        let id = Self::WORKER << CLASS_BITS | self.next & ((1 << CLASS_BITS) - 1);
        self.next += 1;
        let def = ClassDef { id, satisfied: def.satisfied.clone(), allowed: holding.to_vec() };
        classes.learn(def, rules);
        self.known.insert((old, holding.to_vec()), id);
        Some(id)
    }
}

impl Detect {
    /// The allowlist in force is another one: what groups keep is judged by it.
    pub(super) fn judge_anew(&mut self, epoch: u64) {
        let Some(mut judge) = self.judge() else { return };
        let mut changed = HashSet::new();
        let mut groups = self.shared.groups.borrow_mut();
        self.reclassed.known.clear();
        for (key, group) in groups.iter_mut() {
            let (classes, rules, reclassed) = (&mut self.classes, &self.rules, &mut self.reclassed);
            let class_of = |entry: &Entry| reclassed.class(entry.class, judge.holding(entry), classes, rules);
            if group.log.reclass(class_of) {
                changed.insert(*key);
            }
        }
        drop(groups);
        self.correct(epoch, &mut judge, &changed);
    }

    /// What was kept comes from a run that may have had another allowlist; events have been judged by this one.
    pub(super) fn judge_alerts(&mut self, epoch: u64) {
        if !self.rules.allowlist.is_empty()
            && let Some(mut judge) = self.judge()
        {
            self.correct(epoch, &mut judge, &HashSet::new());
        }
    }

    fn judge(&self) -> Option<Judge> {
        let rules = self.rules.rules.values().map(|info| &info.rule);
        Judge::new(self.rules.allowlist.clone(), rules, &self.shared, &self.settings)
    }

    /// Retracts what no longer holds; in `changed` groups, machines begin anew.
    fn correct(&mut self, epoch: u64, judge: &mut Judge, changed: &HashSet<u128>) {
        self.look(epoch, |groups, ctx, told| {
            let correct = |key, group: &mut Group, changes: &mut Changes| {
                let begun = changed.contains(&key);
                if begun {
                    group.follow_anew(ctx);
                }
                group.retract(ctx, judge, changes) || begun
            };
            groups.correct(ctx, correct, |touched| told.take(touched));
        });
    }
}

impl Group {
    /// Machines know what the log says now; of triggers of absences those wait that are still some.
    fn follow_anew(&mut self, ctx: &Context<'_>) {
        self.follow_rules(ctx.rules);
        let waiting = std::mem::take(&mut self.units);
        self.begin_machines(ctx);
        for OpenUnit { id, unit, state } in waiting {
            if let (UnitState::Absence(state), Kind::Absence { trigger, .. }) = (&state, &unit.kind) {
                let class_of = |time, name| {
                    let at = self.log.find(time, name)?;
                    ctx.classes.get(self.log.entries()[at].class)
                };
                let triggers = |class: &Class| class.satisfied(unit.rule, &[*trigger]) != 0;
                let state = state.only(|time, name| class_of(time, name).is_none_or(triggers));
                self.set_machine(id, &unit, UnitState::Absence(state));
            }
        }
        self.recount();
    }

    /// Retracts alerts whose proof is taken out, with all matches of theirs; says whether there were any.
    fn retract(&mut self, ctx: &Context<'_>, judge: &mut Judge, changes: &mut Changes) -> bool {
        let mut any = false;
        for m in &mut self.matched {
            let gone = m.alerting.take_out(ctx.epoch, |alert| judge.takes_out(alert), &mut changes.alerts);
            if gone.is_empty() {
                continue;
            }
            any = true;
            for first in &gone {
                m.chains.remove(m.info.rule.suppress_for, first);
            }
            let rule = m.info.id;
            let stands = |part: &Match| {
                let entry = self.log.find(part.end_time, part.end).map(|at| &self.log.entries()[at]);
                let class = entry.and_then(|entry| ctx.classes.get(entry.class));
                class.is_none_or(|class| !class.is_suppressed(rule))
            };
            m.parts.iter_mut().for_each(|part| part.retain(stands));
        }
        any
    }
}
