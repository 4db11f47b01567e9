//! The naive evaluator: reads all records, sorts all events, and applies every definition of the contract by
//! scanning lists. It is the judge of the engine in property tests, so it is written for obviousness, not for speed
//! (quadratic and worse), and must never share code with the engine beyond decoding and the compiled plan.
//!
//! [`generate`] makes random rule sets and streams for such tests.

mod absence;
mod allowlist;
mod event;
pub mod generate;
mod ingest;
mod matcher;
mod new_value;
mod pattern;
mod rule;
mod sequence;
mod session;
mod span;
#[cfg(test)]
mod testing;
mod threshold;

use std::collections::BTreeMap;

use clawdstrike_rules::plan::{Rule, RuleSet};
use serde_json::Value;

/// What the outcome depends on besides rules and records. Durations and times are microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How far behind its reference time a record's timestamp may lie.
    pub max_lateness: i64,
    /// How far ahead of it.
    pub max_skew: i64,
    /// How long copies are recognised (never less than `max_lateness`).
    pub dedup_window: i64,
    /// The wall clock, since 1970 UTC.
    pub now: i64,
    /// A session starts a new life after a longer gap.
    pub session_retention: i64,
    /// Of more events the first and the latest `evidence_limit - 1` are kept.
    pub evidence_limit: usize,
}

/// One second in microseconds.
pub const SECOND: i64 = 1_000_000;

impl Default for Options {
    /// The contract's defaults; the wall clock is 2026-01-01.
    fn default() -> Options {
        Options {
            max_lateness: 60 * SECOND,
            max_skew: 5 * SECOND,
            dedup_window: 600 * SECOND,
            now: 1_767_225_600 * SECOND,
            session_retention: 24 * 3600 * SECOND,
            evidence_limit: 50,
        }
    }
}

/// All that a replay ends with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Sorted by (first_seen, rule_id, tenant_id, group).
    pub alerts: Vec<Alert>,
    /// Every life, sorted by (first_seen, agent_id, session_id, tenant_id).
    pub sessions: Vec<Session>,
    /// Valid events, copies left out.
    pub events: u64,
    /// Records recognised as copies of an event.
    pub copies: u64,
    /// Records that are no event, by reason code.
    pub dead: BTreeMap<String, u64>,
    /// Events whose time is their reference time, not their timestamp.
    pub retimed: u64,
}

/// A final alert.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// The rule.
    pub rule_id: String,
    /// Empty if none.
    pub tenant_id: String,
    /// The `by` fields in their order, with their values (whole doubles up to 2^53 as integers).
    pub group: Vec<(String, Value)>,
    /// Of the first match's ending event.
    pub agent_id: String,
    /// Of the first match's ending event.
    pub session_id: String,
    /// Time of the first match.
    pub first_seen: i64,
    /// Time of the last match.
    pub last_seen: i64,
    /// Matches in the chain.
    pub match_count: u64,
    /// The first match's events in order: the event_id, else `partition:offset` (both from 0), and the step, matcher
    /// or condition part it fills, from 1 (the least, if several).
    pub evidence: Vec<(String, u32)>,
}

/// One life of a session.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// Empty if none.
    pub tenant_id: String,
    /// Whose.
    pub agent_id: String,
    /// Which.
    pub session_id: String,
    /// Not the first life of this id.
    pub resumed: bool,
    /// Events of this life.
    pub events: u64,
    /// Events that weren't allowed.
    pub violations: u64,
    /// Events by the name of their type; types without events are left out.
    pub by_type: BTreeMap<String, u64>,
    /// Distinct normalised targets, exact.
    pub unique_targets: u64,
    /// Time of the first event.
    pub first_seen: i64,
    /// Time of the last event.
    pub last_seen: i64,
    /// 0 to 100, with the default weights.
    pub risk_score: u64,
}

/// Evaluates a rule set over files of JSON lines, read one after the other in this order.
///
/// # Panics
/// If a regex or a time zone of the plan can't be read: such a plan was not made by the compiler.
pub fn evaluate(set: &RuleSet, files: &[Vec<u8>], options: &Options) -> Outcome {
    evaluate_from(set, files, options, |_| i64::MIN)
}

/// As [`evaluate`], where each rule sees only events from a time on.
///
/// # Panics
/// As [`evaluate`].
pub fn evaluate_from(set: &RuleSet, files: &[Vec<u8>], options: &Options, from: impl Fn(&Rule) -> i64) -> Outcome {
    let read = ingest::read(files, options);
    let patterns = matcher::Patterns::default();
    let mut alerts: Vec<_> = set
        .rules
        .iter()
        .flat_map(|rule| rule::alerts(rule, &set.allowlist, &read, from(rule), &patterns, options))
        .collect();
    alerts.sort_by(|a, b| a.order().cmp(&b.order()));
    Outcome {
        alerts: alerts.into_iter().map(|keyed| keyed.alert).collect(),
        sessions: session::sessions(&read.events, options),
        events: read.events.len() as u64,
        copies: read.copies,
        dead: read.dead,
        retimed: read.retimed,
    }
}

/// The valid events in the total order, copies left out: event time and record. Files are read as by [`evaluate`].
pub fn events(files: &[Vec<u8>], options: &Options) -> Vec<(i64, Vec<u8>)> {
    ingest::read(files, options).events.into_iter().map(|event| (event.time, event.raw)).collect()
}
