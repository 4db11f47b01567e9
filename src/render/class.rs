//! Classes: the class of an event is the set of matchers it satisfies. A busy stream has few of them, so what a class
//! means to the rules is worked out once, not once an event.

use clawdstrike_operators::sequence;
use serde::{Deserialize, Serialize};

use super::rules::{AllowId, ById, Kind, MatcherId, RuleId, RuleInfo, Rules, SESSION, Unit, UnitId};

/// A class as the worker that met it first tells all others. Its number is that worker's index and a running number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassDef {
    /// The number.
    pub id: u32,
    /// Bit `m`: matcher `m` is satisfied.
    pub satisfied: Vec<u64>,
    /// Allowlist entries that hold for its events.
    pub allowed: Vec<AllowId>,
}

/// Bits of a class number that count within a worker.
pub const CLASS_BITS: u32 = 22;

impl ClassDef {
    /// Whether its events satisfy the matcher.
    #[inline]
    pub fn satisfies(&self, matcher: MatcherId) -> bool {
        self.satisfied.get(matcher as usize / 64).is_some_and(|word| word >> (matcher % 64) & 1 == 1)
    }
}

/// How long hits of a class must be kept in the groups of one `by` list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retain {
    /// All of them for so long.
    pub all: i64,
    /// The latest before the watermark for so long.
    pub latest: i64,
    /// Those after an opener of a sequence for so long.
    pub after_opener: i64,
    /// It opens sequences, for so long.
    pub opener: i64,
}

/// What a class means to the rules in force.
#[derive(Debug)]
pub struct Class {
    /// What it is.
    pub def: ClassDef,
    /// Rules for which the allowlist takes its events out; sorted.
    suppressed: Vec<RuleId>,
    /// For each `by` list: units that can begin to match at such an event.
    openers: Vec<Vec<UnitId>>,
    /// For each `by` list: how long its hits are needed.
    retain: Vec<Retain>,
    /// Bit `b`: it has a role in the groups of `by` list `b`.
    pub roles: u64,
    /// The same for rules that wait for earlier events.
    pub fill_roles: u64,
    /// For each `by` list: the earliest time of its events that such rules see.
    filling: Vec<i64>,
}

/// The most `by` lists that there can be in the life of a cluster (bits of [`Class::roles`]); rules with a further one are
/// not evaluated, and the log says so.
pub const MAX_BYS: usize = 64;

impl Class {
    /// Works out what a class means.
    pub fn new(def: ClassDef, rules: &Rules) -> Class {
        let entries = rules.allowlist.iter().filter(|(id, _)| def.allowed.contains(id));
        let lists: Vec<&Vec<String>> = entries.map(|(_, e)| &e.rules).collect();
        let mut suppressed: Vec<RuleId> = rules
            .rules
            .values()
            .filter(|r| lists.iter().any(|names| names.is_empty() || names.contains(&r.rule.id)))
            .map(|r| r.id)
            .collect();
        suppressed.sort_unstable();
        let mut class = Class {
            def,
            suppressed,
            openers: vec![Vec::new(); rules.bys.len()],
            retain: vec![Retain::default(); rules.bys.len()],
            roles: 0,
            fill_roles: 0,
            filling: vec![i64::MAX; rules.bys.len()],
        };
        let mut units: Vec<_> = rules.units.iter().collect();
        units.sort_by_key(|(id, _)| **id);
        for (&id, unit) in units.into_iter().filter(|(_, u)| usize::from(u.by) < MAX_BYS) {
            if let Some(info) = rules.rules.get(&unit.rule) {
                class.add(id, unit, info);
            }
        }
        class
    }

    fn add(&mut self, id: UnitId, unit: &Unit, info: &RuleInfo) {
        let reach = info.reach();
        let positive = !self.is_suppressed(unit.rule);
        let has = |m: &MatcherId| self.def.satisfies(*m);
        let by = usize::from(unit.by);
        let mut retain = self.retain[by];
        let (opens, takes_part) = match &unit.kind {
            Kind::Sequence { spec, steps, without, until } => {
                let opens = positive && has(&steps[0]);
                let prevents = without.iter().flatten().any(has) || until.as_ref().is_some_and(has);
                let takes_part = prevents || positive && steps.iter().any(has);
                let kept = if takes_part { spec.window + reach } else { 0 };
                retain.opener = retain.opener.max(if opens { kept } else { 0 });
                retain.after_opener = retain.after_opener.max(kept);
                (opens, takes_part)
            }
            Kind::Threshold { spec, matcher, .. } => {
                let counts = positive && has(matcher);
                retain.all = retain.all.max(if counts { spec.window + reach } else { 0 });
                (counts, counts)
            }
            Kind::Pattern { spec, matchers, openers } => {
                let counts = positive && matchers.iter().any(has);
                let kept = if counts { spec.window + reach } else { 0 };
                if reach == 0 {
                    retain.latest = retain.latest.max(kept);
                } else {
                    retain.all = retain.all.max(kept);
                }
                (positive && openers.iter().any(has), counts)
            }
            Kind::Absence { window, trigger, absent } => {
                let triggers = positive && has(trigger);
                retain.all = retain.all.max(if triggers { window + reach } else { 0 });
                (triggers, triggers || has(absent))
            }
            Kind::NewValue { spec, matcher, .. } => {
                let known = has(matcher);
                retain.all = retain.all.max(if known { spec.window + reach } else { 0 });
                (known, known)
            }
        };
        self.retain[by] = retain;
        if takes_part {
            self.roles |= 1 << unit.by;
        }
        if info.since.filling {
            if takes_part {
                self.fill_roles |= 1 << unit.by;
                self.filling[by] = self.filling[by].min(info.since.horizon);
            }
        } else if opens {
            self.openers[by].push(id);
        }
    }

    /// The allowlist takes its events out of this rule.
    #[inline]
    pub fn is_suppressed(&self, rule: RuleId) -> bool {
        !self.suppressed.is_empty() && self.suppressed.binary_search(&rule).is_ok()
    }

    /// Units of a `by` list that can begin to match at such an event.
    pub fn openers(&self, by: ById) -> &[UnitId] {
        self.openers.get(usize::from(by)).map_or(&[], Vec::as_slice)
    }

    /// How long its hits are needed in groups of a `by` list.
    pub fn retain(&self, by: ById) -> Retain {
        self.retain.get(usize::from(by)).copied().unwrap_or_default()
    }

    /// The earliest time from which on its hits are kept in groups of a `by` list for rules that wait for earlier events;
    /// [`i64::MAX`]: for none.
    pub fn filling(&self, by: ById) -> i64 {
        self.filling.get(usize::from(by)).copied().unwrap_or(i64::MAX)
    }

    /// Whether it has a role in groups of a `by` list.
    pub fn has_role(&self, by: ById) -> bool {
        self.roles >> by & 1 == 1
    }

    /// What such an event is to a sequence.
    #[inline]
    pub fn sequence(
        &self,
        rule: RuleId,
        steps: &[MatcherId],
        without: &[Option<MatcherId>],
        until: Option<MatcherId>,
    ) -> sequence::Roles {
        let mut roles = sequence::Roles::default();
        if !self.is_suppressed(rule) {
            for (i, &m) in steps.iter().enumerate() {
                roles.steps |= u64::from(self.def.satisfies(m)) << i;
            }
        }
        for (i, m) in without.iter().enumerate() {
            roles.without |= u64::from(m.is_some_and(|m| self.def.satisfies(m))) << i;
        }
        roles.until = until.is_some_and(|m| self.def.satisfies(m));
        roles
    }

    /// The matchers of a set that such an event satisfies for a rule: bit `i` the i-th.
    #[inline]
    pub fn satisfied(&self, rule: RuleId, matchers: &[MatcherId]) -> u64 {
        if self.is_suppressed(rule) {
            return 0;
        }
        matchers.iter().enumerate().fold(0, |all, (i, &m)| all | u64::from(self.def.satisfies(m)) << i)
    }
}

/// All classes that workers have told of, with what they mean to the rules in force.
#[derive(Debug, Default)]
pub struct Classes {
    by_worker: Vec<Vec<Option<Box<Class>>>>,
}

impl Classes {
    /// Learns of a class.
    pub fn learn(&mut self, def: ClassDef, rules: &Rules) {
        let (worker, n) = split(def.id);
        if self.by_worker.len() <= worker {
            self.by_worker.resize_with(worker + 1, Vec::new);
        }
        let classes = &mut self.by_worker[worker];
        if classes.len() <= n {
            classes.resize_with(n + 1, || None);
        }
        classes[n] = Some(Box::new(Class::new(def, rules)));
    }

    /// Another rule set is in force.
    pub fn reload(&mut self, rules: &Rules) {
        for class in self.by_worker.iter_mut().flatten().flatten() {
            **class = Class::new(class.def.clone(), rules);
        }
    }

    /// A class by number.
    #[inline]
    pub fn get(&self, id: u32) -> Option<&Class> {
        let (worker, n) = split(id);
        self.by_worker.get(worker)?.get(n)?.as_deref()
    }
}

fn split(id: u32) -> (usize, usize) {
    ((id >> CLASS_BITS) as usize, (id & ((1 << CLASS_BITS) - 1)) as usize)
}

/// Every event travels to its session; to other groups only if its class has a role there.
pub fn travels(roles: u64) -> u64 {
    roles | 1 << SESSION
}
