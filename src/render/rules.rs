//! A rule set as the dataflow uses it: matchers, units (one condition of one rule) and `by` lists by number.
//!
//! Numbers are given by content and never taken back, so that a class that was computed under an older rule set still
//! says something about the rules that stayed. All workers see the same sets in the same order and so agree on them.

use std::collections::HashMap;
use std::sync::Arc;

use clawdstrike_operators::{new_value, pattern, sequence, threshold};
use clawdstrike_rules::plan::{AllowEntry, Condition, Field, Matcher, Rule, RuleSet, Test};

/// Number of a matcher.
pub type MatcherId = u32;
/// Number of a unit.
pub type UnitId = u32;
/// Number of a rule (one id in one version).
pub type RuleId = u32;
/// Number of a `by` list; 0 is the session's.
pub type ById = u16;
/// Number of an allowlist entry.
pub type AllowId = u32;

/// The `by` list of sessions.
pub const SESSION: ById = 0;

/// One condition of one rule.
#[derive(Debug)]
pub struct Unit {
    /// Whose.
    pub rule: RuleId,
    /// In which groups.
    pub by: ById,
    /// What.
    pub kind: Kind,
}

/// A condition by numbers.
#[derive(Debug)]
pub enum Kind {
    /// See [`sequence`].
    Sequence {
        /// Counts and window.
        spec: sequence::Spec,
        /// Matcher of each step.
        steps: Vec<MatcherId>,
        /// `without` of each step.
        without: Vec<Option<MatcherId>>,
        /// `until`.
        until: Option<MatcherId>,
    },
    /// See [`threshold`].
    Threshold {
        /// Limits and window.
        spec: threshold::Spec,
        /// Which events count.
        matcher: MatcherId,
        /// Whose distinct values.
        value: Option<ValueOf>,
    },
    /// See [`pattern`].
    Pattern {
        /// How many, and the window.
        spec: pattern::Spec,
        /// The matchers.
        matchers: Vec<MatcherId>,
        /// Nothing can match before one of these is satisfied.
        openers: Vec<MatcherId>,
    },
    /// See [`clawdstrike_operators::absence`].
    Absence {
        /// How long the wait is.
        window: i64,
        /// What starts it.
        trigger: MatcherId,
        /// What ends it.
        absent: MatcherId,
    },
    /// See [`new_value`].
    NewValue {
        /// Window and learning time.
        spec: new_value::Spec,
        /// Which events count.
        matcher: MatcherId,
        /// Whose value.
        value: ValueOf,
    },
}

/// Where a hit carries the hash of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueOf {
    /// The normalised target.
    Target,
    /// The n-th compared field.
    Slot(u8),
}

/// A rule by numbers.
#[derive(Debug)]
pub struct RuleInfo {
    /// Its number.
    pub id: RuleId,
    /// As it was compiled.
    pub rule: Rule,
    /// Its conditions.
    pub units: Vec<UnitId>,
    /// Its groups.
    pub by: ById,
}

impl RuleInfo {
    /// How much longer than their windows hits and matches are needed, because conditions look for each other's.
    pub fn reach(&self) -> i64 {
        if self.units.len() < 2 { 0 } else { self.rule.conditions.iter().map(Condition::window).max().unwrap_or(0) }
    }
}

/// The rule set in force, by numbers.
#[derive(Debug, Default)]
pub struct Rules {
    /// Counts the sets so far.
    pub version: u32,
    /// By [`RuleId`]; only those in force.
    pub rules: HashMap<RuleId, Arc<RuleInfo>>,
    /// By [`UnitId`]; only those in force.
    pub units: HashMap<UnitId, Arc<Unit>>,
    /// Matchers that units in force use.
    pub matchers: Vec<(MatcherId, Matcher)>,
    /// All `by` lists so far, by [`ById`].
    pub bys: Vec<Vec<Field>>,
    /// All compared fields so far, by slot.
    pub values: Vec<Field>,
    /// Allowlist entries in force.
    pub allowlist: Vec<(AllowId, AllowEntry)>,
}

/// Gives numbers.
#[derive(Debug)]
pub struct Registry {
    matchers: HashMap<Matcher, MatcherId>,
    rules: HashMap<(String, String), RuleId>,
    units: HashMap<(RuleId, usize), UnitId>,
    allow: HashMap<String, AllowId>,
    bys: Vec<Vec<Field>>,
    values: Vec<Field>,
    version: u32,
}

impl Default for Registry {
    fn default() -> Self {
        let session = ["agent_id", "session_id"].map(|name| Field::Path(vec![name.to_owned()]));
        Registry {
            matchers: HashMap::new(),
            rules: HashMap::new(),
            units: HashMap::new(),
            allow: HashMap::new(),
            bys: vec![session.into()],
            values: Vec::new(),
            version: 0,
        }
    }
}

fn number<K: std::hash::Hash + Eq>(map: &mut HashMap<K, u32>, key: K) -> u32 {
    let next = map.len() as u32;
    *map.entry(key).or_insert(next)
}

impl Registry {
    /// Puts a rule set in force.
    pub fn load(&mut self, set: &RuleSet) -> Rules {
        self.version += 1;
        let mut out = Rules { version: self.version, ..Rules::default() };
        let mut used: HashMap<MatcherId, Matcher> = HashMap::new();
        for rule in &set.rules {
            let id = number(&mut self.rules, (rule.id.clone(), rule.version.clone()));
            let by = self.by(&rule.by);
            let mut units = Vec::new();
            for (n, condition) in rule.conditions.iter().enumerate() {
                let unit = number(&mut self.units, (id, n));
                let kind = self.kind(condition, &mut used);
                out.units.insert(unit, Arc::new(Unit { rule: id, by, kind }));
                units.push(unit);
            }
            out.rules.insert(id, Arc::new(RuleInfo { id, rule: rule.clone(), units, by }));
        }
        for entry in &set.allowlist {
            let key = serde_json::to_string(entry).unwrap_or_default();
            out.allowlist.push((number(&mut self.allow, key), entry.clone()));
        }
        out.matchers = used.into_iter().collect();
        out.matchers.sort_by_key(|(id, _)| *id);
        out.bys = self.bys.clone();
        out.values = self.values.clone();
        out
    }

    fn by(&mut self, fields: &[Field]) -> ById {
        position_or_push(&mut self.bys, fields.to_vec()) as ById
    }

    fn value(&mut self, field: &Field) -> ValueOf {
        match field {
            Field::Target => ValueOf::Target,
            path => ValueOf::Slot(position_or_push(&mut self.values, path.clone()) as u8),
        }
    }

    fn kind(&mut self, condition: &Condition, used: &mut HashMap<MatcherId, Matcher>) -> Kind {
        let mut matcher = |m: &Matcher| {
            let id = number(&mut self.matchers, m.clone());
            used.entry(id).or_insert_with(|| m.clone());
            id
        };
        match condition {
            Condition::Sequence(c) => {
                let steps = c.steps.iter().map(|s| matcher(&s.matcher)).collect();
                let without: Vec<_> = c.steps.iter().map(|s| s.without.as_ref().map(&mut matcher)).collect();
                let until = c.until.as_ref().map(&mut matcher);
                let forbids = until.is_some() || without.iter().any(Option::is_some);
                let counts = c.steps.iter().map(|s| s.count).collect();
                Kind::Sequence { spec: sequence::Spec { window: c.window, counts, forbids }, steps, without, until }
            }
            Condition::Threshold(c) => {
                let values = c.distinct.as_ref().map(|d| d.at_least);
                let spec = threshold::Spec { window: c.window, count: c.count, targets: c.unique_targets, values };
                let matcher = matcher(&c.matcher);
                Kind::Threshold { spec, matcher, value: c.distinct.as_ref().map(|d| self.value(&d.field)) }
            }
            Condition::Pattern(c) => {
                let matchers: Vec<_> = c.matchers.iter().map(&mut matcher).collect();
                let spec = pattern::Spec { window: c.window, matchers: matchers.len() as u32, at_least: c.at_least };
                let openers = if c.at_least as usize == c.matchers.len() {
                    vec![matchers[rarest(&c.matchers)]]
                } else {
                    matchers.clone()
                };
                Kind::Pattern { spec, matchers, openers }
            }
            Condition::Absence(c) => {
                Kind::Absence { window: c.window, trigger: matcher(&c.trigger), absent: matcher(&c.absent) }
            }
            Condition::NewValue(c) => {
                let matcher = matcher(&c.matcher);
                let spec = new_value::Spec { window: c.window, learn: c.learn };
                Kind::NewValue { spec, matcher, value: self.value(&c.field) }
            }
        }
    }
}

fn position_or_push<T: PartialEq>(items: &mut Vec<T>, item: T) -> usize {
    items.iter().position(|i| *i == item).unwrap_or_else(|| {
        items.push(item);
        items.len() - 1
    })
}

/// A guess at the matcher that the fewest events satisfy: one that names targets, else one with more tests.
fn rarest(matchers: &[Matcher]) -> usize {
    let rarity = |m: &Matcher| {
        let targets = m.tests.iter().filter(|t| matches!(t, Test::Target(_) | Test::TargetRegex(_))).count();
        (targets, m.tests.len(), 7 - m.event_types.0.count_ones())
    };
    (0..matchers.len()).max_by_key(|&i| (rarity(&matchers[i]), std::cmp::Reverse(i))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use clawdstrike_rules::{SourceFile, compile, explain};

    use super::*;

    /// `rules explain` tells what rules share without looking at this module: the two must agree.
    #[test]
    fn explain_counts_what_is_interned() {
        let text = "rules:
- {id: A, name: n, severity: low, by: [agent_id], conditions: [{type: sequence, window: 5m, events: [
    {event_type: file_access, target_in: [/a]}, {event_type: any, without: {event_type: mcp_tool}}], until: {event_type: patch_apply}}]}
- {id: B, name: n, severity: low, conditions: [{type: threshold, window: 1m, count: 5, target_glob: /a, event_type: [file_access]}]}
- {id: C, name: n, severity: low, by: [session_id, agent_id], conditions: [
    {type: absence, window: 1m, trigger: {event_type: any}, absent: {event_type: mcp_tool}},
    {type: new_value, window: 1m, field: target, event_type: file_access},
    {type: pattern, window: 1m, all_of: [{event_type: shell_command}, {event_type: file_access, target_glob: /a}]}]}
";
        let shipped = include_str!("../../rules/ai-threats.yaml");
        for text in [text, shipped] {
            let files = [SourceFile { name: "r.yaml".into(), text: text.into() }];
            let set = compile(&files).unwrap_or_else(|e| panic!("{e}")).set;
            let (rules, told) = (Registry::default().load(&set), explain(&set));
            assert_eq!(rules.matchers.len(), told.predicates.len());
            assert_eq!(rules.bys.len(), told.groups.len());
            let session: Vec<_> = told.groups.iter().map(|g| g.session).collect();
            assert_eq!(session.iter().position(|s| *s), Some(usize::from(SESSION)));
            for (info, reading) in set.rules.iter().zip(&told.rules) {
                let numbered = rules.rules.values().find(|r| r.rule.id == info.id).expect("the rule");
                assert!(reading.conditions.iter().all(|c| c.group == usize::from(numbered.by)), "{}", info.id);
            }
        }
    }
}
