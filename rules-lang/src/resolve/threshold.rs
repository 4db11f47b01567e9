//! `threshold`: so many events, targets or values within a window.

use super::rule::TYPE;
use super::{comparison, field, matcher, window};
use crate::context::Context;
use crate::plan::{Distinct, Threshold};
use crate::schema::value;
use crate::shape::{KeyShape, Mapping, Needs, Rest, Shape};
use crate::yaml::Node;

pub(crate) static THRESHOLD: Shape = Shape {
    name: "threshold",
    what: "a threshold",
    doc: "So many events, targets or values within the window. The keys of a matcher say which events count.",
    keys: &[
        TYPE,
        window::KEY,
        KeyShape::optional("count", "How many events.", comparison::schema),
        KeyShape::optional("unique_targets", "How many distinct normalised targets.", comparison::schema),
        KeyShape::optional("distinct", "How many distinct values of a field.", || value::of(&DISTINCT)),
    ],
    rest: Rest::Matcher,
    needs: Needs::AnyOf(&["count", "unique_targets", "distinct"]),
};

pub(crate) static DISTINCT: Shape = Shape {
    name: "distinct",
    what: "\"distinct\"",
    doc: "A number of distinct values of a field.",
    keys: &[
        KeyShape::required("field", "action.args.user", "Whose values: a path, or `target`.", field::schema),
        KeyShape::required("op", "\"> 5\"", "How many values.", comparison::schema),
    ],
    rest: Rest::Unknown,
    needs: Needs::Nothing,
};

pub(super) fn resolve(cx: &mut Context<'_>, mut keys: Mapping<'_>) -> Option<Threshold> {
    let window = window::window(cx, &mut keys);
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
    let matcher = matcher::inline(cx, &mut keys);
    Some(Threshold {
        window: window?,
        matcher: matcher?,
        count: count?,
        unique_targets: unique_targets?,
        distinct: distinct?,
    })
}

fn distinct(cx: &mut Context<'_>, node: &Node) -> Option<Distinct> {
    let mut keys = cx.mapping(node, &DISTINCT)?;
    let field = keys.require(cx, "field");
    let op = keys.require(cx, "op");
    keys.finish(cx);
    let field = field.and_then(|node| field::named(cx, node, "\"field\""));
    let at_least = op.and_then(|node| comparison::at_least(cx, node, "\"op\""));
    Some(Distinct { field: field?, at_least: at_least? })
}
