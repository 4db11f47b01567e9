//! Which rules are in force, and since when: what a rule that was loaded into a running cluster sees of events that had been
//! read before, and which of its alerts come of them.
//!
//! Outlives a run, so it names rules and sources, and knows no number of the dataflow.

use std::collections::HashMap;

use clawdstrike_rules::plan::{Condition, Rule, RuleSet};
use serde::{Deserialize, Serialize};

/// What to read next of a partition: the source's name, the partition, the position.
pub type Next = (String, u32, u64);

/// A load of rules into a running cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Its number, from 1. (0 stands for the rules that a cluster began with before it had read anything.)
    pub number: u32,
    /// The watermark when it was loaded, microseconds since 1970; `None`: it wasn't known yet.
    pub watermark: Option<i64>,
    /// How far partitions had been read; those that aren't named had not been.
    pub read: Vec<Next>,
}

/// A rule in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// Its id.
    pub rule: String,
    /// Its content hash.
    pub version: String,
    /// The number of the load that brought it.
    pub load: u32,
    /// It has been given what it sees of earlier events, and is evaluated.
    pub filled: bool,
}

/// The rules in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// Counts the sets that were in force, over all runs.
    pub number: u64,
    /// Loads that brought some of them.
    pub loads: Vec<Load>,
    /// All of them.
    pub rules: Vec<Loaded>,
}

impl InForce {
    /// A set that nothing came before.
    pub fn first(set: &RuleSet) -> InForce {
        let rules = set.rules.iter().map(|rule| Loaded {
            rule: rule.id.clone(),
            version: rule.version.clone(),
            load: 0,
            filled: true,
        });
        InForce { number: 1, loads: Vec::new(), rules: rules.collect() }
    }

    /// Another set takes this one's place: what is in both stays as it is.
    pub fn then(&self, set: &RuleSet, watermark: Option<i64>, read: Vec<Next>) -> InForce {
        let number = self.loads.iter().map(|load| load.number).max().unwrap_or(0) + 1;
        let known = self.by_name();
        let rules: Vec<Loaded> = set
            .rules
            .iter()
            .map(|rule| {
                let known = known.get(&(rule.id.as_str(), rule.version.as_str()));
                known.map_or_else(
                    || Loaded { rule: rule.id.clone(), version: rule.version.clone(), load: number, filled: false },
                    |loaded| (*loaded).clone(),
                )
            })
            .collect();
        let mut loads = self.loads.clone();
        loads.push(Load { number, watermark, read });
        loads.retain(|load| rules.iter().any(|rule| rule.load == load.number));
        InForce { number: self.number + 1, loads, rules }
    }

    /// Rules by id and version.
    pub fn by_name(&self) -> HashMap<(&str, &str), &Loaded> {
        self.rules.iter().map(|loaded| ((loaded.rule.as_str(), loaded.version.as_str()), loaded)).collect()
    }

    /// The load of a number, if it brought rules that are in force.
    pub fn load(&self, number: u32) -> Option<&Load> {
        self.loads.iter().find(|load| load.number == number)
    }

    /// Some rule waits for earlier events.
    pub fn is_filling(&self) -> bool {
        self.rules.iter().any(|rule| !rule.filled)
    }

    /// All rules have what they see of earlier events.
    pub fn fill(&mut self) {
        self.rules.iter_mut().for_each(|rule| rule.filled = true);
    }

    /// Of what a checkpoint says and what was written down at the last load, the later one; `None`: neither says anything.
    pub fn latest(kept: Option<InForce>, written: Option<InForce>) -> Option<InForce> {
        match (kept, written) {
            (Some(kept), Some(mut written)) if written.number > kept.number => {
                written.fill_as(&kept);
                Some(written)
            }
            (kept, written) => kept.or(written),
        }
    }

    /// What another one knows to be filled is filled.
    pub fn fill_as(&mut self, other: &InForce) {
        let known = other.by_name();
        for rule in &mut self.rules {
            let same = known.get(&(rule.rule.as_str(), rule.version.as_str()));
            rule.filled |= same.is_some_and(|other| other.filled && other.load == rule.load);
        }
    }
}

/// How long before the watermark of its load the events lie that a rule sees: its longest window, and that again where
/// conditions look for each other's matches.
pub fn reach_back(rule: &Rule) -> i64 {
    let longest = rule.conditions.iter().map(Condition::window).max().unwrap_or(0);
    longest.saturating_mul(if rule.conditions.len() > 1 { 2 } else { 1 })
}

/// A rule sees no event before this time.
pub fn horizon(rule: &Rule, watermark: Option<i64>) -> i64 {
    watermark.map_or(i64::MIN, |watermark| watermark.saturating_sub(reach_back(rule)))
}

#[cfg(test)]
mod tests {
    use clawdstrike_rules::{SourceFile, compile};

    use super::*;

    fn set(rules: &[(&str, &str)]) -> RuleSet {
        let rule = |(id, window): &(&str, &str)| {
            format!(
                "- {{id: {id}, name: n, severity: low, conditions: [{{type: threshold, window: {window}, event_type: any, count: 2}}]}}\n"
            )
        };
        let text = format!("rules:\n{}", rules.iter().map(rule).collect::<String>());
        compile(&[SourceFile { name: "r.yaml".into(), text }]).unwrap_or_else(|e| panic!("{e}")).set
    }

    #[test]
    fn what_stays_keeps_its_load_and_what_is_changed_or_comes_back_is_new() {
        let mut first = InForce::first(&set(&[("A", "1m"), ("B", "1m")]));
        let mut second = first.then(&set(&[("A", "1m"), ("B", "2m"), ("C", "1m")]), Some(7), Vec::new());
        let told =
            |in_force: &InForce| in_force.rules.iter().map(|r| (r.rule.clone(), r.load, r.filled)).collect::<Vec<_>>();
        assert_eq!(told(&second), [("A".into(), 0, true), ("B".into(), 1, false), ("C".into(), 1, false)]);
        second.fill();
        let third = second.then(&set(&[("A", "1m"), ("B", "1m"), ("C", "1m")]), Some(9), Vec::new());
        assert_eq!(told(&third), [("A".into(), 0, true), ("B".into(), 2, false), ("C".into(), 1, true)]);
        let fourth = third.then(&set(&[("B", "1m")]), Some(9), Vec::new());
        assert_eq!(fourth.loads.iter().map(|load| load.number).collect::<Vec<_>>(), [2]);
        first.fill_as(&third);
        assert_eq!(told(&first)[0], ("A".into(), 0, true));
    }

    #[test]
    fn a_load_that_came_after_the_checkpoint_counts_and_what_had_begun_by_then_has_begun() {
        let begun = InForce::first(&set(&[("A", "1m")]));
        let waiting = begun.then(&set(&[("A", "1m"), ("B", "1m")]), None, Vec::new());
        let mut kept = waiting.clone();
        kept.fill();
        let written = waiting.then(&set(&[("B", "1m"), ("C", "1m")]), None, Vec::new());
        let latest = InForce::latest(Some(kept.clone()), Some(written)).expect("both say something");
        assert_eq!(latest.rules.iter().map(|r| (&*r.rule, r.filled)).collect::<Vec<_>>(), [("B", true), ("C", false)]);
        assert_eq!(InForce::latest(Some(kept.clone()), Some(waiting)), Some(kept));
    }

    #[test]
    fn of_one_that_waits_another_may_know_that_it_waits_no_more() {
        let begun = InForce::first(&set(&[("A", "1m")]));
        let mut waiting = begun.then(&set(&[("A", "1m"), ("B", "1m")]), None, Vec::new());
        let mut done = waiting.clone();
        done.fill();
        waiting.fill_as(&done);
        assert!(!waiting.is_filling());
        let mut again = begun.then(&set(&[("B", "1m")]), None, Vec::new());
        again.rules[0].load = 5;
        again.fill_as(&done);
        assert!(again.is_filling(), "another load's");
    }
}
