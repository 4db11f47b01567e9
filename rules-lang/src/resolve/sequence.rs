//! `sequence`: steps in order within a window.

use serde_json::json;

use super::rule::TYPE;
use super::{comparison, matcher, window};
use crate::context::Context;
use crate::plan::{Sequence, Step};
use crate::schema::value;
use crate::shape::{KeyShape, Mapping, Needs, Rest, Shape};
use crate::yaml::Node;

/// The most steps of a sequence; a group keeps one start for each.
pub const MAX_STEPS: usize = 64;

pub(crate) static SEQUENCE: Shape = Shape {
    name: "sequence",
    what: "a sequence",
    doc: "Steps in order, from the first event to the last within the window.",
    keys: &[
        TYPE,
        window::KEY,
        KeyShape::required(
            "events",
            "[{event_type: file_access}, {event_type: network_egress}]",
            "The steps, in order.",
            || {
                let mut steps = value::list(value::of(&STEP), 1, MAX_STEPS);
                // Nothing stands before the first step.
                steps["prefixItems"] = json!([{"properties": {"without": false}}]);
                steps
            },
        ),
        KeyShape::optional("until", "No such event between the first and the last one.", || {
            value::of(&matcher::MATCHER)
        }),
    ],
    rest: Rest::Unknown,
    needs: Needs::Nothing,
};

pub(crate) static STEP: Shape = Shape {
    name: "step",
    what: "a step",
    doc: "One step of a sequence. The keys of a matcher say which events fill it.",
    keys: &[
        KeyShape::optional(
            "count",
            "How many distinct events the step takes; 1 if it is left out.",
            comparison::schema,
        ),
        KeyShape::optional(
            "without",
            "No such event between the step before and this one; not on the first step.",
            || value::of(&matcher::MATCHER),
        ),
    ],
    rest: Rest::Matcher,
    needs: Needs::Nothing,
};

pub(super) fn resolve(cx: &mut Context<'_>, mut keys: Mapping<'_>) -> Option<Sequence> {
    let window = window::window(cx, &mut keys);
    let events = keys.require(cx, "events");
    let until = keys.take("until");
    keys.finish(cx);
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
    let mut keys = cx.mapping(node, &STEP)?;
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
    let matcher = matcher::inline(cx, &mut keys);
    Some(Step { matcher: matcher?, count: count?, without: without? })
}
