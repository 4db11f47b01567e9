//! A group's matches of each rule, of which alerts are made: a condition's own, and where a rule has several, those that
//! have one of each other condition before them.

use std::sync::Arc;

use clawdstrike_operators::chain::{Chains, Match};

use super::alerting::Alerting;
use super::log::Log;
use super::rules::{RuleId, RuleInfo, Rules, UnitId};

/// A rule that has matched in a group.
#[derive(Debug)]
pub(super) struct Matched {
    pub id: RuleId,
    pub info: Arc<RuleInfo>,
    /// Matches of each condition; only for rules with several.
    pub parts: Vec<Vec<Match>>,
    pub chains: Chains,
    pub alerting: Alerting,
}

/// Where a unit's matches are kept: in the rule's chains, or, where conditions look for each other's, apart.
pub(super) enum MatchesOf<'a> {
    Chains(&'a mut Chains),
    Part(&'a mut Vec<Match>),
}

impl MatchesOf<'_> {
    /// Forgets the matches that end at the log's entry `first` or later in the total order.
    pub fn forget_from(self, log: &Log, first: usize) {
        let time = log.entries()[first].time;
        let before = |m: &Match| {
            m.end_time < time || (m.end_time == time && log.find(m.end_time, m.end).is_some_and(|i| i < first))
        };
        match self {
            MatchesOf::Chains(chains) => {
                let n = chains.live().iter().position(|m| !before(m)).unwrap_or(chains.live().len());
                chains.truncate(n);
            }
            MatchesOf::Part(part) => {
                let n = part.iter().position(|m| !before(m)).unwrap_or(part.len());
                part.truncate(n);
            }
        }
    }
}

pub(super) fn matches_of<'a>(matched: &'a mut [Matched], rule: RuleId, unit: UnitId) -> Option<MatchesOf<'a>> {
    let m = matched.iter_mut().find(|m| m.id == rule)?;
    if m.parts.is_empty() {
        return Some(MatchesOf::Chains(&mut m.chains));
    }
    let n = m.info.units.iter().position(|u| *u == unit)?;
    Some(MatchesOf::Part(&mut m.parts[n]))
}

pub(super) fn push_match(matched: &mut Vec<Matched>, rules: &Rules, rule: RuleId, unit: UnitId, found: Match) {
    if !matched.iter().any(|m| m.id == rule)
        && let Some(info) = rules.rules.get(&rule)
    {
        let parts = if info.units.len() > 1 { vec![Vec::new(); info.units.len()] } else { Vec::new() };
        matched.push(Matched {
            id: rule,
            info: info.clone(),
            parts,
            chains: Chains::default(),
            alerting: Alerting::default(),
        });
    }
    match matches_of(matched, rule, unit) {
        Some(MatchesOf::Chains(chains)) => chains.push(found),
        Some(MatchesOf::Part(part)) => part.push(found),
        None => {}
    }
}

/// Orders matches by (time, the ending event's place in the total order).
fn order(log: &Log, a: &Match, b: &Match) -> std::cmp::Ordering {
    a.time
        .cmp(&b.time)
        .then_with(|| a.end_time.cmp(&b.end_time))
        .then_with(|| log.find(a.end_time, a.end).cmp(&log.find(b.end_time, b.end)))
}

/// Several conditions: a match of one is the rule's, if each other has one not after it and within its window before.
pub(super) fn combine(m: &mut Matched, log: &Log, from: i64) {
    let n = m.chains.live().iter().position(|x| x.time >= from).unwrap_or(m.chains.live().len());
    m.chains.truncate(n);
    let mut found: Vec<Match> = Vec::new();
    for (i, part) in m.parts.iter().enumerate() {
        for candidate in part.iter().filter(|c| c.time >= from) {
            let holds = (0..m.parts.len()).filter(|&j| j != i).all(|j| {
                let window = m.info.rule.conditions[j].window();
                latest_before(log, &m.parts[j], candidate).is_some_and(|o| candidate.time - o.time <= window)
            });
            if holds {
                found.push(*candidate);
            }
        }
    }
    found.sort_by(|a, b| order(log, a, b));
    found.dedup();
    found.into_iter().for_each(|f| m.chains.push(f));
}

/// The latest of some matches that isn't after another.
pub(super) fn latest_before<'a>(log: &Log, matches: &'a [Match], at: &Match) -> Option<&'a Match> {
    matches.iter().filter(|o| order(log, o, at).is_le()).max_by(|a, b| order(log, a, b))
}
