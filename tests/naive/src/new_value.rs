//! `new_value`: a value not seen before within a window.

use std::collections::BTreeMap;

use clawdstrike_rules::plan::NewValue;

use crate::span::{Match, Span};

/// All matches of the condition.
pub(crate) fn matches(new_value: &NewValue, span: &Span<'_>) -> Vec<Match> {
    let present = span.present(&new_value.matcher);
    let filling = span.filling(&new_value.matcher);
    let value = |x: usize| span.events[x].scalar(&new_value.field);
    (0..span.events.len())
        .filter(|e| filling[*e])
        .filter(|e| {
            let Some(new) = value(*e) else { return false };
            let window = || span.window(*e, new_value.window);
            let seen = window().any(|x| x != *e && present[x] && value(x).as_ref() == Some(&new));
            let learnt = new_value.learn == 0 || window().any(|x| filling[x] && span.apart(x, *e) >= new_value.learn);
            !seen && learnt
        })
        .map(|e| span.ends_at(e, BTreeMap::from([(e, 1)])))
        .collect()
}
