//! `threshold`: so many events, targets or values within a window.

use super::{comparison, field, matcher, window};
use crate::context::{Context, Keys};
use crate::plan::{Distinct, Threshold};
use crate::yaml::Node;

const OWN_KEYS: [&str; 5] = ["type", "window", "count", "unique_targets", "distinct"];

pub(super) fn resolve(cx: &mut Context<'_>, mut keys: Keys<'_>) -> Option<Threshold> {
    let window = window::window(cx, &mut keys, "a threshold");
    let nodes = [keys.take("count"), keys.take("unique_targets")];
    let distinct_node = keys.take("distinct");
    if nodes.iter().all(Option::is_none) && distinct_node.is_none() {
        cx.error(keys.span, "E045", "a threshold needs \"count\", \"unique_targets\" or \"distinct\"")
            .hint("add `count: \"> 100\"`");
        return None;
    }
    let compare = |cx: &mut Context<'_>, node: Option<&Node>, what| match node {
        Some(node) => comparison::at_least(cx, node, what).map(Some),
        None => Some(None),
    };
    let count = compare(cx, nodes[0], "\"count\"");
    let unique_targets = compare(cx, nodes[1], "\"unique_targets\"");
    let distinct = match distinct_node {
        Some(node) => distinct(cx, node).map(Some),
        None => Some(None),
    };
    let matcher = matcher::inline(cx, &mut keys, "a threshold", &OWN_KEYS);
    Some(Threshold {
        window: window?,
        matcher: matcher?,
        count: count?,
        unique_targets: unique_targets?,
        distinct: distinct?,
    })
}

fn distinct(cx: &mut Context<'_>, node: &Node) -> Option<Distinct> {
    let mut keys = cx.keys(node, "\"distinct\"")?;
    let field = keys.require(cx, "field", "\"distinct\"", "action.args.user");
    let op = keys.require(cx, "op", "\"distinct\"", "\"> 5\"");
    keys.finish(cx, "\"distinct\"", &["field", "op"]);
    let field = field.and_then(|node| field::named(cx, node, "\"field\""));
    let at_least = op.and_then(|node| comparison::at_least(cx, node, "\"op\""));
    Some(Distinct { field: field?, at_least: at_least? })
}
