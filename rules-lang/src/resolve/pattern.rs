//! `pattern`: matchers satisfied in any order within a window.

use serde_json::Value as Json;

use super::rule::TYPE;
use super::{matcher, window};
use crate::context::Context;
use crate::plan::{Matcher, Pattern};
use crate::schema::value;
use crate::shape::{KeyShape, Mapping, Needs, Rest, Shape};
use crate::yaml::{Node, Value};

/// The most matchers of a pattern; a group keeps one time for each.
const MAX_MATCHERS: usize = 64;

pub(crate) static PATTERN: Shape = Shape {
    name: "pattern",
    what: "a pattern",
    doc: "Matchers satisfied in any order within the window; one event may satisfy several.",
    keys: &[
        TYPE,
        window::KEY,
        KeyShape::optional("all_of", "Each of these matchers is satisfied.", matchers_schema),
        KeyShape::optional("any_of", "Enough of some matchers are satisfied.", || value::of(&ANY_OF)),
    ],
    rest: Rest::Unknown,
    needs: Needs::OneOf(&["all_of", "any_of"]),
};

pub(crate) static ANY_OF: Shape = Shape {
    name: "any_of",
    what: "\"any_of\"",
    doc: "So many of these matchers.",
    keys: &[
        KeyShape::required("at_least", "2", "How many of them.", || value::whole(1, MAX_MATCHERS as u64)),
        KeyShape::required(
            "matchers",
            "[{event_type: file_write}, {event_type: mcp_tool}]",
            "The matchers.",
            matchers_schema,
        ),
    ],
    rest: Rest::Unknown,
    needs: Needs::Nothing,
};

fn matchers_schema() -> Json {
    value::list(value::of(&matcher::MATCHER), 1, MAX_MATCHERS)
}

pub(super) fn resolve(cx: &mut Context<'_>, mut keys: Mapping<'_>) -> Option<Pattern> {
    let window = window::window(cx, &mut keys);
    let (all_of, any_of) = (keys.take("all_of"), keys.entry("any_of"));
    let span = keys.span;
    keys.finish(cx);
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
    let mut keys = cx.mapping(node, &ANY_OF)?;
    let least = keys.require(cx, "at_least");
    let list = keys.require(cx, "matchers");
    keys.finish(cx);
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
