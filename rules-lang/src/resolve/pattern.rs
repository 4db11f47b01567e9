//! `pattern`: matchers satisfied in any order within a window.

use super::{matcher, window};
use crate::context::{Context, Keys};
use crate::plan::{Matcher, Pattern};
use crate::yaml::{Node, Value};

/// The most matchers of a pattern; a group keeps one time for each.
const MAX_MATCHERS: usize = 64;

pub(super) fn resolve(cx: &mut Context<'_>, mut keys: Keys<'_>) -> Option<Pattern> {
    let window = window::window(cx, &mut keys, "a pattern");
    let (all_of, any_of) = (keys.take("all_of"), keys.entry("any_of"));
    let span = keys.span;
    keys.finish(cx, "a pattern", &["type", "window", "all_of", "any_of"]);
    let (matchers, at_least) = match (all_of, any_of) {
        (Some(node), None) => {
            let matchers = matchers(cx, node, "\"all_of\"")?;
            let all = matchers.len() as u32;
            (matchers, all)
        }
        (None, Some((_, node))) => any(cx, node)?,
        (Some(_), Some((key, _))) => {
            cx.error(key.span, "E048", "a pattern has \"all_of\" or \"any_of\", not both")
                .hint("write two conditions: both must hold then");
            return None;
        }
        (None, None) => {
            cx.error(span, "E012", "a pattern has no \"all_of\" and no \"any_of\"")
                .hint("add `all_of: [{event_type: file_access}, {event_type: shell_command}]`");
            return None;
        }
    };
    Some(Pattern { window: window?, matchers, at_least })
}

fn matchers(cx: &mut Context<'_>, node: &Node, what: &str) -> Option<Vec<Matcher>> {
    let items = cx.list(node, what, MAX_MATCHERS)?;
    let matchers: Vec<_> = items.iter().filter_map(|item| matcher::alone(cx, item, "a pattern's matcher")).collect();
    (matchers.len() == items.len()).then_some(matchers)
}

fn any(cx: &mut Context<'_>, node: &Node) -> Option<(Vec<Matcher>, u32)> {
    let mut keys = cx.keys(node, "\"any_of\"")?;
    let least = keys.require(cx, "at_least", "\"any_of\"", "2");
    let list = keys.require(cx, "matchers", "\"any_of\"", "[{event_type: file_write}, {event_type: mcp_tool}]");
    keys.finish(cx, "\"any_of\"", &["at_least", "matchers"]);
    let matchers = list.and_then(|node| matchers(cx, node, "\"matchers\""));
    let least = least?;
    let Value::Number(number) = least.value else {
        cx.mistyped(least, "\"at_least\"", "a whole number");
        return None;
    };
    let matchers = matchers?;
    if number.fract() != 0.0 || number < 1.0 || number > matchers.len() as f64 {
        cx.error(
            least.span,
            "E047",
            format!("\"at_least\" must be a whole number from 1 to {}, the number of matchers", matchers.len()),
        )
        .hint("1 is any of them, their number is all of them");
        return None;
    }
    // In range, as just seen.
    Some((matchers, number as u32))
}
