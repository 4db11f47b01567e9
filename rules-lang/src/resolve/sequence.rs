//! `sequence`: steps in order within a window.

use super::{comparison, matcher, window};
use crate::context::{Context, Keys};
use crate::plan::{Sequence, Step};
use crate::yaml::Node;

/// The most steps of a sequence; a group keeps one start for each.
pub const MAX_STEPS: usize = 64;

pub(super) fn resolve(cx: &mut Context<'_>, mut keys: Keys<'_>) -> Option<Sequence> {
    let window = window::window(cx, &mut keys, "a sequence");
    let events = keys.require(cx, "events", "a sequence", "[{event_type: file_access}, {event_type: network_egress}]");
    let until = keys.take("until");
    keys.finish(cx, "a sequence", &["type", "window", "events", "until"]);
    let steps = events.and_then(|events| steps(cx, events));
    let until = match until {
        Some(node) => Some(matcher::alone(cx, node, "\"until\"")?),
        None => None,
    };
    Some(Sequence { window: window?, steps: steps?, until })
}

fn steps(cx: &mut Context<'_>, events: &Node) -> Option<Vec<Step>> {
    let items = cx.list(events, "\"events\"", MAX_STEPS)?;
    let steps: Vec<_> = items.iter().enumerate().filter_map(|(index, item)| step(cx, index, item)).collect();
    (steps.len() == items.len()).then_some(steps)
}

fn step(cx: &mut Context<'_>, index: usize, node: &Node) -> Option<Step> {
    let mut keys = cx.keys(node, "a step")?;
    let count = match keys.take("count") {
        Some(count) => comparison::at_least(cx, count, "\"count\"").and_then(|count| u32::try_from(count).ok()),
        None => Some(1),
    };
    let without = match keys.entry("without") {
        Some((key, _)) if index == 0 => {
            cx.error(key.span, "E046", "the first step can't have \"without\"")
                .label("nothing stands before it")
                .hint("put it on the second step: no such event between the step before and this one");
            None
        }
        Some((_, node)) => matcher::alone(cx, node, "\"without\"").map(Some),
        None => Some(None),
    };
    let matcher = matcher::inline(cx, &mut keys, "a step", &["count", "without"]);
    Some(Step { matcher: matcher?, count: count?, without: without? })
}
