//! A rule: its groups, the matches of its conditions, what they say together, and the alerts they form.

use std::collections::BTreeMap;

use clawdstrike_rules::plan::{AllowEntry, Condition, Field, Rule, Scalar};

use crate::event::{Event, to_json};
use crate::ingest::Read;
use crate::matcher::Patterns;
use crate::span::{Match, Span};
use crate::{Alert, Options, absence, allowlist, new_value, pattern, sequence, threshold};

/// A tenant and the values of the `by` fields.
type Group = (String, Vec<Scalar>);

/// An alert with its group as it compares.
pub(crate) struct Keyed {
    pub(crate) alert: Alert,
    group: Group,
}

impl Keyed {
    /// What an outcome's alerts are sorted by.
    pub(crate) fn order(&self) -> (i64, &str, &Group) {
        (self.alert.first_seen, &self.alert.rule_id, &self.group)
    }
}

/// All alerts of one rule, which sees no event before the time `from`.
pub(crate) fn alerts(
    rule: &Rule,
    list: &[AllowEntry],
    read: &Read,
    from: i64,
    patterns: &Patterns,
    options: &Options,
) -> Vec<Keyed> {
    let mut groups: BTreeMap<Group, Vec<&Event>> = BTreeMap::new();
    for event in read.events.iter().filter(|event| event.time >= from) {
        if let Some(values) = event.group(&rule.by) {
            let group = (event.tenant.clone(), values);
            groups.entry(group).or_default().push(event);
        }
    }
    let mut all = Vec::new();
    for (group, events) in groups {
        let span = Span {
            allowlisted: events.iter().map(|event| allowlist::lists(list, &rule.id, event, patterns)).collect(),
            events,
            patterns,
            watermark: read.watermark,
        };
        for chain in chains(rule_matches(rule, &span), rule.suppress_for) {
            let alert = alert(rule, &group, &chain, &span, options);
            let group = group.clone();
            all.push(Keyed { alert, group });
        }
    }
    all
}

fn condition_matches(condition: &Condition, span: &Span<'_>) -> Vec<Match> {
    let mut matches = match condition {
        Condition::Sequence(condition) => sequence::matches(condition, span),
        Condition::Threshold(condition) => threshold::matches(condition, span),
        Condition::Pattern(condition) => pattern::matches(condition, span),
        Condition::Absence(condition) => absence::matches(condition, span),
        Condition::NewValue(condition) => new_value::matches(condition, span),
    };
    matches.sort_by_key(Match::order);
    matches
}

/// The rule's matches in order: each condition's, where every other condition has one not after it and at most that
/// other condition's window before it.
fn rule_matches(rule: &Rule, span: &Span<'_>) -> Vec<Match> {
    let by_condition: Vec<_> = rule.conditions.iter().map(|condition| condition_matches(condition, span)).collect();
    // Matches with the same time and ending event are one.
    let mut found: BTreeMap<(i64, usize), Match> = BTreeMap::new();
    for one in by_condition.iter().flatten() {
        let parts: Option<Vec<&Match>> = rule
            .conditions
            .iter()
            .zip(&by_condition)
            .map(|(condition, matches)| latest(matches, one, condition.window()))
            .collect();
        if let Some(parts) = parts {
            found.entry(one.order()).or_insert(union(one, &parts));
        }
    }
    found.into_values().collect()
}

/// The latest of the matches that is not after `one` and at most `window` before it. Of `one`'s own condition that is
/// `one` itself.
fn latest<'a>(matches: &'a [Match], one: &Match, window: i64) -> Option<&'a Match> {
    matches.iter().rfind(|other| other.order() <= one.order() && one.time - other.time <= window)
}

fn union(one: &Match, parts: &[&Match]) -> Match {
    let mut evidence = BTreeMap::new();
    for (event, step) in parts.iter().flat_map(|part| &part.evidence) {
        let least = evidence.entry(*event).or_insert(*step);
        *least = (*least).min(*step);
    }
    Match { time: one.time, end: one.end, evidence }
}

/// Suppression: a match at most `suppress_for` after the one before joins its alert, a later one opens a new alert.
fn chains(matches: Vec<Match>, suppress_for: i64) -> Vec<Vec<Match>> {
    let mut chains: Vec<Vec<Match>> = Vec::new();
    for next in matches {
        match chains.last_mut() {
            Some(chain) if next.time - chain[chain.len() - 1].time <= suppress_for => {
                chain.push(next);
            }
            _ => chains.push(vec![next]),
        }
    }
    chains
}

fn alert(rule: &Rule, (tenant, values): &Group, chain: &[Match], span: &Span<'_>, options: &Options) -> Alert {
    let first = &chain[0];
    let ending = span.events[first.end];
    let evidence: Vec<_> = first.evidence.iter().map(|(event, step)| (span.events[*event].name(), *step)).collect();
    Alert {
        rule_id: rule.id.clone(),
        tenant_id: tenant.clone(),
        group: rule.by.iter().map(field_name).zip(values.iter().map(to_json)).collect(),
        agent_id: ending.agent.clone(),
        session_id: ending.session.clone(),
        first_seen: first.time,
        last_seen: chain[chain.len() - 1].time,
        match_count: chain.len() as u64,
        evidence: first_and_latest(evidence, options.evidence_limit),
    }
}

/// Of more than `limit` events the first and the latest `limit - 1`.
fn first_and_latest<T>(mut events: Vec<T>, limit: usize) -> Vec<T> {
    if events.len() > limit {
        let latest = events.len() - limit.saturating_sub(1);
        events.drain(1.min(limit)..latest);
    }
    events
}

/// A `by` field as the rule names it.
fn field_name(field: &Field) -> String {
    match field {
        Field::Target => "target".to_owned(),
        Field::Path(path) => {
            let known = clawdstrike_telemetry::TOP_LEVEL_FIELDS.contains(&path[0].as_str());
            let extra = if known { "" } else { "extra." };
            format!("{extra}{}", path.join("."))
        }
    }
}
