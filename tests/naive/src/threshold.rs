//! `threshold`: so many matching events, targets or values within a window that slides exactly.

use std::collections::BTreeSet;

use clawdstrike_rules::plan::Threshold;

use crate::event::distinct_targets;
use crate::span::{Match, Span};

/// All matches of the condition.
pub(crate) fn matches(threshold: &Threshold, span: &Span<'_>) -> Vec<Match> {
    let filling = span.filling(&threshold.matcher);
    (0..span.events.len())
        .filter(|e| filling[*e])
        .filter_map(|e| {
            let seen: Vec<usize> = span.window(e, threshold.window).filter(|x| filling[*x]).collect();
            satisfied(threshold, &seen, span).then(|| span.ends_at(e, seen.into_iter().map(|x| (x, 1)).collect()))
        })
        .collect()
}

fn satisfied(threshold: &Threshold, seen: &[usize], span: &Span<'_>) -> bool {
    let events = || seen.iter().map(|x| span.events[*x]);
    let count = threshold.count.is_none_or(|k| seen.len() as u64 >= k);
    let targets = threshold.unique_targets.is_none_or(|k| distinct_targets(events()) >= k);
    let values = threshold.distinct.as_ref().is_none_or(|distinct| {
        let values: BTreeSet<_> = events().filter_map(|event| event.scalar(&distinct.field)).collect();
        values.len() as u64 >= distinct.at_least
    });
    count && targets && values
}
