//! One group's events as a condition sees them, and what a condition gives back: matches.

use std::collections::BTreeMap;

use clawdstrike_rules::plan::Matcher;

use crate::event::Event;
use crate::matcher::Patterns;

/// All events of one group of one rule, in the total order.
pub(crate) struct Span<'a> {
    pub(crate) events: Vec<&'a Event>,
    /// Which of them are allowlisted for the rule.
    pub(crate) allowlisted: Vec<bool>,
    pub(crate) patterns: &'a Patterns,
    /// The final watermark.
    pub(crate) watermark: i64,
}

/// A match of a condition or of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Match {
    pub(crate) time: i64,
    /// The ending event's index in the span; indexes follow the total order.
    pub(crate) end: usize,
    /// The least step that each event of the evidence fills, by the event's index.
    pub(crate) evidence: BTreeMap<usize, u32>,
}

impl Match {
    /// Matches of one group are ordered by time, then by their ending event.
    pub(crate) fn order(&self) -> (i64, usize) {
        (self.time, self.end)
    }
}

impl Span<'_> {
    /// Which events satisfy the matcher, allowlisted or not: those whose presence prevents something.
    pub(crate) fn present(&self, matcher: &Matcher) -> Vec<bool> {
        self.events.iter().map(|event| self.patterns.satisfies(event, matcher)).collect()
    }

    /// Which events satisfy the matcher and aren't allowlisted: those that fill something.
    pub(crate) fn filling(&self, matcher: &Matcher) -> Vec<bool> {
        self.present(matcher)
            .into_iter()
            .zip(&self.allowlisted)
            .map(|(satisfied, allowlisted)| satisfied && !allowlisted)
            .collect()
    }

    /// Time from the event `x` to the event `e`.
    pub(crate) fn apart(&self, x: usize, e: usize) -> i64 {
        self.events[e].time - self.events[x].time
    }

    /// The events of e's window: not after e, and at most `window` before it.
    pub(crate) fn window(&self, e: usize, window: i64) -> impl DoubleEndedIterator<Item = usize> {
        (0..=e).filter(move |x| self.apart(*x, e) <= window)
    }

    /// A match whose time is that of its ending event.
    pub(crate) fn ends_at(&self, end: usize, evidence: BTreeMap<usize, u32>) -> Match {
        Match { time: self.events[end].time, end, evidence }
    }
}
