//! `new_value`: a value not seen before.

use super::{field, matcher, window};
use crate::context::{Context, Keys};
use crate::duration;
use crate::plan::NewValue;

const OWN_KEYS: [&str; 4] = ["type", "window", "field", "learn"];

pub(super) fn resolve(cx: &mut Context<'_>, mut keys: Keys<'_>) -> Option<NewValue> {
    let window = window::window(cx, &mut keys, "a new_value");
    let field = keys.require(cx, "field", "a new_value", "target");
    let field = field.and_then(|node| field::named(cx, node, "\"field\""));
    let learn_node = keys.take("learn");
    let learn = match learn_node {
        Some(node) => window::duration(cx, node, "\"learn\"", (0, window::WINDOW.1)),
        None => Some(0),
    };
    let matcher = matcher::inline(cx, &mut keys, "a new_value", &OWN_KEYS);
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
