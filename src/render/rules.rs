//! A rule set as the dataflow uses it: matchers, units (one condition of one rule) and `by` lists by number.
//!
//! Numbers are given by content and never taken back, so that a class that was computed under an older rule set still
//! says something about the rules that stayed. All workers see the same sets in the same order and so agree on them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use clawdstrike_operators::chain::Match;
use clawdstrike_operators::{new_value, pattern, sequence, threshold};
use clawdstrike_rules::plan::{AllowEntry, Condition, Field, Matcher, Origin, Rule, RuleSet, Test};

use super::hit::Position;
use super::settings::Settings;
use crate::loads::{InForce, Load, horizon};

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
    /// It sees no event before this time.
    pub horizon: i64,
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

/// What to read next, by rank of the source and partition.
type Read = HashMap<(u16, u32), u64>;

/// What a rule sees of what was read before it was loaded.
#[derive(Clone, Debug)]
pub struct Since {
    /// No event before this time.
    pub horizon: i64,
    /// The events that it sees are still being read again: it isn't evaluated before all of them are there.
    pub filling: bool,
    /// The watermark when it was loaded.
    loaded: i64,
    /// How far partitions had been read.
    read: Arc<Read>,
}

impl Since {
    /// It was there from the beginning.
    fn ever() -> Since {
        Since { horizon: i64::MIN, filling: false, loaded: i64::MIN, read: Arc::default() }
    }

    /// Whether some match may be one that the rule would have found, had it been there.
    pub fn has_before(&self) -> bool {
        !self.read.is_empty()
    }

    /// Whether the rule would have found a match before it was loaded, had it been there: its ending event, read at this
    /// position, had been read, and, for an absence, the watermark had passed its time.
    pub fn is_before(&self, found: &Match, end: Position) -> bool {
        let read = self.read.get(&(end.source, end.partition)).is_some_and(|next| end.offset < *next);
        read && (found.time == found.end_time || found.time < self.loaded)
    }
}

/// A rule by numbers.
#[derive(Clone, Debug)]
pub struct RuleInfo {
    /// Its number.
    pub id: RuleId,
    /// As it was compiled.
    pub rule: Rule,
    /// Its conditions.
    pub units: Vec<UnitId>,
    /// Its groups.
    pub by: ById,
    /// Since when.
    pub since: Since,
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
    /// Rules and their loads by name.
    pub in_force: InForce,
    /// Where there are rules that wait for earlier events: the earliest time that one of them sees.
    pub filling: Option<i64>,
}

impl Rules {
    /// The earliest time of events that must be read again: also those may have copies that come late.
    pub fn sees_from(&self, dedup_window: i64) -> i64 {
        let unfilled = self.in_force.rules.iter().filter(|rule| !rule.filled);
        let loads = unfilled.filter_map(|rule| self.in_force.load(rule.load));
        let copied = loads.map(|load| load.watermark.map_or(i64::MIN, |w| w.saturating_sub(dedup_window))).min();
        self.filling.unwrap_or(i64::MAX).min(copied.unwrap_or(i64::MAX))
    }

    /// Whether the other set has the same allowlist.
    pub fn has_allowlist_of(&self, other: &Rules) -> bool {
        let ids = |rules: &Rules| rules.allowlist.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>();
        ids(self) == ids(other)
    }

    /// Rules that waited for earlier events have them now; gives those rules.
    pub fn fill(&mut self) -> Vec<Arc<RuleInfo>> {
        self.in_force.fill();
        self.filling = None;
        let mut filled = Vec::new();
        for info in self.rules.values_mut().filter(|info| info.since.filling) {
            let since = Since { filling: false, ..info.since.clone() };
            *info = Arc::new(RuleInfo { since, ..RuleInfo::clone(info) });
            filled.push(info.clone());
        }
        filled.sort_by_key(|info| info.id);
        filled
    }
}

/// Gives numbers.
#[derive(Debug)]
pub struct Registry {
    matchers: HashMap<Matcher, MatcherId>,
    /// By id, version and load: one that comes back begins anew.
    rules: HashMap<(String, String, u32), RuleId>,
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
    pub fn load(&mut self, set: &RuleSet, in_force: InForce, settings: &Settings) -> Rules {
        self.version += 1;
        let mut out = Rules { version: self.version, ..Rules::default() };
        let loads: HashMap<u32, Arc<Read>> =
            in_force.loads.iter().map(|load| (load.number, Arc::new(read_by_rank(load, settings)))).collect();
        let loaded = in_force.by_name();
        let mut used: HashMap<MatcherId, Matcher> = HashMap::new();
        for rule in &set.rules {
            let since = match loaded.get(&(rule.id.as_str(), rule.version.as_str())) {
                Some(known) => (known.load, known.filled),
                None => (0, true),
            };
            let id = number(&mut self.rules, (rule.id.clone(), rule.version.clone(), since.0));
            let since = match in_force.load(since.0) {
                Some(load) => Since {
                    horizon: horizon(rule, load.watermark),
                    filling: !since.1,
                    loaded: load.watermark.unwrap_or(i64::MIN),
                    read: loads.get(&load.number).cloned().unwrap_or_default(),
                },
                None => Since::ever(),
            };
            if since.filling {
                out.filling = Some(out.filling.map_or(since.horizon, |f: i64| f.min(since.horizon)));
            }
            let by = self.by(&rule.by);
            let mut units = Vec::new();
            for (n, condition) in rule.conditions.iter().enumerate() {
                let unit = number(&mut self.units, (id, n));
                let kind = self.kind(condition, &mut used);
                out.units.insert(unit, Arc::new(Unit { rule: id, by, horizon: since.horizon, kind }));
                units.push(unit);
            }
            out.rules.insert(id, Arc::new(RuleInfo { id, rule: rule.clone(), units, by, since }));
        }
        for entry in &set.allowlist {
            // Where it stands, and why, make no other entry of it.
            let told = AllowEntry { origin: Origin::default(), reason: String::new(), ..entry.clone() };
            let key = serde_json::to_string(&told).unwrap_or_default();
            out.allowlist.push((number(&mut self.allow, key), entry.clone()));
        }
        out.matchers = used.into_iter().collect();
        out.matchers.sort_by_key(|(id, _)| *id);
        out.bys = self.bys.clone();
        out.values = self.values.clone();
        drop(loaded);
        out.in_force = in_force;
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

/// How far partitions had been read at a load.
fn read_by_rank(load: &Load, settings: &Settings) -> Read {
    let ranks = settings.ranks();
    let rank = |name: &str| settings.sources.iter().position(|s| s.name == name).map(|at| ranks[at]);
    load.read.iter().filter_map(|(source, partition, next)| Some(((rank(source)?, *partition), *next))).collect()
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
            let settings = Settings::new(&crate::config::Limits::default(), Vec::new());
            let in_force = InForce::first(&set);
            let (rules, told) = (Registry::default().load(&set, in_force, &settings), explain(&set));
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
