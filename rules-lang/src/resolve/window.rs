//! Durations of rules, within their bounds.

use crate::context::Context;
use crate::diagnostic::quoted;
use crate::duration::{self, DAY, SECOND};
use crate::schema::value;
use crate::shape::{KeyShape, Mapping};
use crate::yaml::{Node, Value};

/// The shortest and the longest window (SPEC §4, "Bounds"): what keeps every rule's state bounded.
pub(crate) const WINDOW: (i64, i64) = (SECOND, 7 * DAY);

/// A condition's `window`.
pub(crate) const KEY: KeyShape = KeyShape::required(
    "window",
    "5m",
    "How far the events of one match may lie apart, both ends included: a whole number and s, m, h or d.",
    || value::duration(WINDOW),
);

/// Reads a condition's `window`.
pub(crate) fn window(cx: &mut Context<'_>, keys: &mut Mapping<'_>) -> Option<i64> {
    let node = keys.require(cx, "window")?;
    duration(cx, node, "\"window\"", WINDOW)
}

/// Reads a duration within bounds, both allowed, in microseconds.
pub(crate) fn duration(cx: &mut Context<'_>, node: &Node, what: &str, (least, most): (i64, i64)) -> Option<i64> {
    let text = match &node.value {
        Value::Text(text) => text,
        Value::Number(number) => {
            cx.error(node.span, "E030", format!("{what} has no unit")).hint(format!("write `{number}s`, or m, h, d"));
            return None;
        }
        _ => {
            cx.mistyped(node, what, "a duration such as 5m");
            return None;
        }
    };
    let well_formed =
        text.strip_suffix(['s', 'm', 'h', 'd']).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    if !well_formed {
        cx.error(node.span, "E030", format!("{what} {} is no duration", quoted(text)))
            .hint("write a whole number and s, m, h or d: 30s, 5m, 1h, 7d");
        return None;
    }
    match duration::parse(text) {
        Some(micros) if (least..=most).contains(&micros) => Some(micros),
        _ => {
            let (least, most) = (duration::format(least), duration::format(most));
            cx.error(node.span, "E031", format!("{what} must be from {least} to {most}, found {}", quoted(text)))
                .hint("state is kept for as long as a window, so it has a bound");
            None
        }
    }
}
