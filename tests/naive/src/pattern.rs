//! `pattern`: matchers satisfied in any order within a window.

use std::collections::BTreeMap;

use clawdstrike_rules::plan::Pattern;

use crate::span::{Match, Span};

/// All matches of the condition.
pub(crate) fn matches(pattern: &Pattern, span: &Span<'_>) -> Vec<Match> {
    let filling: Vec<Vec<bool>> = pattern.matchers.iter().map(|m| span.filling(m)).collect();
    (0..span.events.len())
        .filter(|e| filling.iter().any(|fills| fills[*e]))
        .filter_map(|e| {
            // For each satisfied matcher its latest event; an event that satisfies several fills the first of them.
            let mut satisfied = 0;
            let mut evidence = BTreeMap::new();
            for (fills, number) in filling.iter().zip(1..) {
                if let Some(latest) = span.window(e, pattern.window).rfind(|x| fills[*x]) {
                    satisfied += 1;
                    evidence.entry(latest).or_insert(number);
                }
            }
            (satisfied >= pattern.at_least).then(|| span.ends_at(e, evidence))
        })
        .collect()
}
