//! Spanned YAML to the typed plan. One file for each part of the language; all report to the same context.
//!
//! Knows the language and nothing of how a plan runs. A part that doesn't resolve is `None` and has been reported.

mod absence;
mod action;
mod allowlist;
mod comparison;
mod field;
mod matcher;
mod new_value;
mod pattern;
mod rule;
mod sequence;
mod threshold;
mod window;

pub use allowlist::time_of_day;
pub use comparison::MAX_COUNT;
pub use rule::{MAX_CONDITIONS, MAX_ITEMS};
pub use sequence::MAX_STEPS;

pub(crate) use action::schema as action_schema;
pub(crate) use allowlist::{ENTRY, Entry, TIMES};
pub(crate) use field::{fields_schema, operators_schema, path, path_keys, test_schema};
pub(crate) use matcher::{EVENT_TYPE, MATCHER, TARGET_KEYS, event_types, event_types_schema};
pub(crate) use pattern::ANY_OF;
pub(crate) use rule::{CONDITIONS, RULE, Resolved, session};
pub(crate) use sequence::STEP;
pub(crate) use threshold::DISTINCT;
pub(crate) use window::WINDOW;

use crate::context::Context;
use crate::schema::value;
use crate::shape::{KeyShape, Needs, Rest, Shape};
use crate::yaml::{Node, Value};

/// A rule file.
pub(crate) static FILE: Shape = Shape {
    name: "file",
    what: "a rule file",
    doc: "Rules, an allowlist, or both.",
    keys: &[
        KeyShape::optional("rules", "Detection rules; ids are unique in a set of files.", || {
            value::list_or_null(value::of(&rule::RULE))
        }),
        KeyShape::optional("allowlist", "Events that fill no step, matcher, trigger or count.", || {
            value::list_or_null(value::of(&allowlist::ENTRY))
        }),
    ],
    rest: Rest::Unknown,
    needs: Needs::Nothing,
};

/// What one file says.
#[derive(Default)]
pub(crate) struct File {
    /// Every rule whose id could be read, with its plan if it is sound.
    pub(crate) rules: Vec<Resolved>,
    /// Sound entries.
    pub(crate) allowlist: Vec<Entry>,
}

/// Resolves one document of a file.
pub(crate) fn document(cx: &mut Context<'_>, document: &Node, file: &mut File) {
    if matches!(document.value, Value::Null) {
        return;
    }
    let Some(mut keys) = cx.mapping(document, &FILE) else {
        return;
    };
    if let Some(rules) = keys.take("rules") {
        for node in items(cx, rules, "\"rules\"") {
            file.rules.extend(rule::resolve(cx, node));
        }
    }
    if let Some(entries) = keys.take("allowlist") {
        for node in items(cx, entries, "\"allowlist\"") {
            file.allowlist.extend(allowlist::resolve(cx, node));
        }
    }
    keys.finish(cx);
}

/// A list that may be empty; null is none.
fn items<'n>(cx: &mut Context<'_>, node: &'n Node, what: &str) -> &'n [Node] {
    match &node.value {
        Value::List(items) => items,
        Value::Null => &[],
        _ => {
            cx.mistyped(node, what, "a list");
            &[]
        }
    }
}
