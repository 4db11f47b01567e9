//! `absence`: a trigger that is not followed by something within a window.

use std::collections::BTreeMap;

use clawdstrike_rules::plan::Absence;

use crate::span::{Match, Span};

/// All matches of the condition that the final watermark confirms.
pub(crate) fn matches(absence: &Absence, span: &Span<'_>) -> Vec<Match> {
    let trigger = span.filling(&absence.trigger);
    let absent = span.present(&absence.absent);
    (0..span.events.len())
        .filter(|e| trigger[*e])
        .filter(|e| !(e + 1..span.events.len()).any(|x| absent[x] && span.apart(*e, x) <= absence.window))
        .map(|e| Match { time: span.events[e].time + absence.window, end: e, evidence: BTreeMap::from([(e, 1)]) })
        .filter(|found| found.time < span.watermark)
        .collect()
}
