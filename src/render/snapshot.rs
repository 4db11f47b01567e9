//! What a checkpoint keeps of a group beside its events: the session's view, matches and alerts that may still change, and
//! what waits for the watermark. Machines aren't kept: stepped through the kept events again, they know what they knew.
//!
//! postcard writes it. Rules are named by id and version, matches by names in the log.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use clawdstrike_operators::absence;
use clawdstrike_operators::chain::{Chain, Chains};
use serde::{Deserialize, Serialize};

use super::alerting::{Alerting, KeptAlerting, KeptMatch, keep, put_back};
use super::group::{Context, Group, OpenUnit};
use super::hit::{Head, HitBatch};
use super::matched::Matched;
use super::rules::{RuleId, Rules};
use super::session::Session;
use super::units::UnitState;

/// The version of what is written here; a checkpoint of another one isn't read.
pub const VERSION: u32 = 1;

/// A group without its events.
#[derive(Serialize, Deserialize)]
pub struct Snapshot<'a> {
    /// Its `by` list.
    pub tag: u64,
    next_uid: u32,
    had_lives: bool,
    session: Option<Cow<'a, Session>>,
    rules: Vec<KeptRule<'a>>,
    waiting: Vec<Waiting<'a>>,
}

/// A rule that has matched.
#[derive(Serialize, Deserialize)]
struct KeptRule<'a> {
    rule: Cow<'a, str>,
    version: Cow<'a, str>,
    base: Option<(KeptMatch, i64, u64)>,
    live: Vec<KeptMatch>,
    parts: Vec<Vec<KeptMatch>>,
    alerting: KeptAlerting,
}

/// Triggers of an absence that wait.
#[derive(Serialize, Deserialize)]
struct Waiting<'a> {
    rule: Cow<'a, str>,
    version: Cow<'a, str>,
    condition: u32,
    triggers: Vec<(i64, u32)>,
}

/// Rules in force, by id and version.
pub type RulesByName<'a> = HashMap<(&'a str, &'a str), RuleId>;

/// The rules in force by their names.
pub fn by_name(rules: &Rules) -> RulesByName<'_> {
    rules.rules.values().map(|info| ((info.rule.id.as_str(), info.rule.version.as_str()), info.id)).collect()
}

impl Group {
    /// What is to be kept beside its events.
    pub fn snapshot(&self, tag: u64, rules: &Rules) -> Snapshot<'_> {
        let kept = |m: &'_ Matched| KeptRule {
            rule: Cow::Owned(m.info.rule.id.clone()),
            version: Cow::Owned(m.info.rule.version.clone()),
            base: m.chains.base().map(|chain| (keep(&chain.first), chain.last, chain.count)),
            live: m.chains.live().iter().map(keep).collect(),
            parts: m.parts.iter().map(|part| part.iter().map(keep).collect()).collect(),
            alerting: m.alerting.keep(),
        };
        let waiting = |open: &'_ OpenUnit| {
            let UnitState::Absence(state) = &open.state else { return None };
            let info = rules.rules.get(&open.unit.rule)?;
            let condition = info.units.iter().position(|unit| *unit == open.id)?;
            Some(Waiting {
                rule: Cow::Owned(info.rule.id.clone()),
                version: Cow::Owned(info.rule.version.clone()),
                condition: condition as u32,
                triggers: state.waiting().collect(),
            })
        };
        Snapshot {
            tag,
            next_uid: self.log.next_uid(),
            had_lives: self.had_lives,
            session: self.session.as_deref().map(Cow::Borrowed),
            rules: self.matched.iter().map(kept).collect(),
            waiting: self.units.iter().filter_map(waiting).collect(),
        }
    }

    /// Puts back an event that was kept.
    pub fn put_back(&mut self, head: &Head, batch: &HitBatch, name: u32) {
        // What was read again was put aside again.
        self.copies.remember_once(head);
        if head.kept {
            self.log.put_back(head, &batch.kept, name);
        }
    }

    /// Goes on from what was kept, once all of the group's events are back.
    pub fn revive(&mut self, ctx: &Context<'_>, snapshot: Snapshot<'_>, rules: &RulesByName<'_>) {
        self.follow_rules(ctx.rules);
        self.log.arrange(snapshot.next_uid);
        // What the log's events match was matched before.
        self.begin_machines(ctx);
        self.had_lives = snapshot.had_lives;
        self.session = snapshot.session.map(|session| Box::new(session.into_owned()));
        let rule_of = |rule: &str, version: &str| rules.get(&(rule, version)).and_then(|id| ctx.rules.rules.get(id));
        self.matched.clear();
        for kept in snapshot.rules {
            let Some(info) = rule_of(&kept.rule, &kept.version) else { continue };
            let base = kept.base.map(|(first, last, count)| Chain { first: put_back(first), last, count });
            self.matched.push(Matched {
                id: info.id,
                info: Arc::clone(info),
                parts: kept.parts.into_iter().map(|part| part.into_iter().map(put_back).collect()).collect(),
                chains: Chains::from_parts(base, kept.live.into_iter().map(put_back).collect()),
                alerting: Alerting::put_back(kept.alerting),
            });
        }
        for kept in snapshot.waiting {
            let Some(info) = rule_of(&kept.rule, &kept.version) else { continue };
            let Some(id) = info.units.get(kept.condition as usize).copied() else { continue };
            let Some(unit) = ctx.rules.units.get(&id).cloned() else { continue };
            let state = UnitState::Absence(absence::State::from_waiting(kept.triggers));
            self.set_machine(id, &unit, state);
        }
        self.recount();
    }
}
