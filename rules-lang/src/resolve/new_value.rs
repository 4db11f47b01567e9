//! `new_value`: a value not seen before.

use super::rule::TYPE;
use super::{field, matcher, window};
use crate::context::Context;
use crate::duration;
use crate::plan::NewValue;
use crate::schema::value;
use crate::shape::{KeyShape, Mapping, Needs, Rest, Shape};

/// Bounds of `learn`.
const LEARN: (i64, i64) = (0, window::WINDOW.1);

pub(crate) static NEW_VALUE: Shape = Shape {
    name: "new_value",
    what: "a new_value",
    doc: "A value that the group hasn't had within the window. The keys of a matcher say which events count.",
    keys: &[
        TYPE,
        window::KEY,
        KeyShape::required("field", "target", "Whose value: a path, or `target`.", field::schema),
        KeyShape::optional(
            "learn",
            "Nothing is new before the group has been watched for so long; at most the window.",
            || value::duration(LEARN),
        ),
    ],
    rest: Rest::Matcher,
    needs: Needs::Nothing,
};

pub(super) fn resolve(cx: &mut Context<'_>, mut keys: Mapping<'_>) -> Option<NewValue> {
    let window = window::window(cx, &mut keys);
    let field = keys.require(cx, "field");
    let field = field.and_then(|node| field::named(cx, node, "\"field\""));
    let learn_node = keys.take("learn");
    let learn = match learn_node {
        Some(node) => window::duration(cx, node, "\"learn\"", LEARN),
        None => Some(0),
    };
    let matcher = matcher::inline(cx, &mut keys);
    let (window, learn) = (window?, learn?);
    if let Some(node) = learn_node.filter(|_| learn > window) {
        let (learn, window) = (duration::format(learn), duration::format(window));
        let message = format!("\"learn\" ({learn}) is longer than the window ({window})");
        cx.error(node.span, "E032", message)
            .hint("nothing older than the window is remembered, so the rule could never match");
        return None;
    }
    Some(NewValue { window, matcher: matcher?, field: field?, learn })
}
