//! Comparisons of counts: `>= k`, `> k` or k, all normalised to "at least".

use serde_json::{Value as Json, json};

use crate::context::Context;
use crate::diagnostic::quoted;
use crate::yaml::{Node, Value};

/// The largest count: more hits than that in one group's window aren't kept.
pub const MAX_COUNT: u64 = 10_000_000;

/// The schema of what [`at_least`] reads.
pub(crate) fn schema() -> Json {
    json!({
        "type": ["string", "integer"],
        "pattern": r"^\s*(>=?\s*)?\+?[0-9]+\s*$",
        "minimum": 1,
        "maximum": MAX_COUNT,
        "examples": [">= 3", "> 100", 3],
    })
}

/// Reads a count's comparison to the least number that satisfies it, from 1 to [`MAX_COUNT`].
pub(crate) fn at_least(cx: &mut Context<'_>, node: &Node, what: &str) -> Option<u64> {
    let written = match &node.value {
        Value::Number(number) => number.to_string(),
        Value::Text(text) => text.clone(),
        Value::Null => {
            cx.error(node.span, "E060", format!("{what} can't be compared with null")).hint("write `\">= 3\"`");
            return None;
        }
        _ => {
            cx.mistyped(node, what, "a comparison such as \">= 3\"");
            return None;
        }
    };
    let text = written.trim();
    let split = text.find(|c: char| !matches!(c, '<' | '>' | '=' | '!')).unwrap_or(text.len());
    let (operator, operand) = (&text[..split], text[split..].trim());
    if !matches!(operator, "" | ">" | ">=") {
        cx.error(node.span, "E041", format!("{what} takes \">\" and \">=\" only, found {}", quoted(operator)))
            .label("not one that stays true as events come")
            .hint("a match ends at an event, and further events only add to a count: use \">\" or \">=\", or `absence` for what doesn't happen");
        return None;
    }
    let all_digits = !operand.is_empty() && operand.bytes().all(|b| b.is_ascii_digit());
    let parsed = operand.parse::<i128>().ok().or(all_digits.then_some(i128::MAX));
    let Some(number) = parsed else {
        cx.error(node.span, "E040", format!("{what} {} is no comparison with a whole number", quoted(text)))
            .hint("write `\">= 3\"`, `\"> 3\"`, or `3` for at least 3");
        return None;
    };
    let least = number.saturating_add(i128::from(operator == ">"));
    if least < 1 {
        cx.error(node.span, "E042", format!("{what} {} always holds", quoted(text)))
            .hint("write `\">= 1\"` for at least one, or leave it out");
        return None;
    }
    match u64::try_from(least) {
        Ok(least) if least <= MAX_COUNT => Some(least),
        _ => {
            cx.error(
                node.span,
                "E043",
                format!("{what} {} is more than the {MAX_COUNT} that are kept in a window", quoted(text)),
            )
            .hint("use a smaller number and a shorter window");
            None
        }
    }
}
