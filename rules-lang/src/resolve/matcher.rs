//! Matchers: which events fill a step, a trigger or a count.

use super::field;
use crate::context::{Context, Keys, unknown_key};
use crate::diagnostic::{Span, quoted};
use crate::pattern;
use crate::plan::{EventTypes, Matcher, TargetPattern, Test};
use crate::suggest;
use crate::yaml::{Key, Node};

const MATCHER_KEYS: [&str; 7] =
    ["event_type", "target_pattern", "target_in", "target_not_in", "target_glob", "target_regex", "target_indicator"];

/// Reads a matcher that stands alone, as `what`.
pub(crate) fn alone(cx: &mut Context<'_>, node: &Node, what: &str) -> Option<Matcher> {
    let mut keys = cx.keys(node, what)?;
    inline(cx, &mut keys, what, &[])
}

/// Reads what is left of a mapping as a matcher; `own` are the keys that the mapping takes besides.
pub(crate) fn inline(cx: &mut Context<'_>, keys: &mut Keys<'_>, what: &str, own: &[&str]) -> Option<Matcher> {
    let rest = keys.rest();
    if rest.is_empty() {
        cx.warn(keys.span, "W003", format!("{what} names no property, so every event satisfies it"))
            .hint("write `event_type: any` if that is meant");
    }
    let mut event_types = Some(EventTypes::ANY);
    let mut tests = Vec::with_capacity(rest.len());
    for (key, value) in &rest {
        if key.name == "event_type" {
            event_types = self::event_types(cx, value, "event_type");
            tests.push(None);
        } else {
            tests.push(test(cx, key, value, what, own));
        }
    }
    let failed = tests.iter().zip(&rest).any(|(test, (key, _))| test.is_none() && key.name != "event_type");
    let mut tests: Vec<Test> = tests.into_iter().flatten().collect();
    tests.sort();
    tests.dedup();
    let event_types = event_types?;
    (!failed).then_some(Matcher { event_types, tests })
}

fn test(cx: &mut Context<'_>, key: &Key, value: &Node, what: &str, own: &[&str]) -> Option<Test> {
    Some(match key.name.as_str() {
        "target_pattern" => {
            let text = pattern_text(cx, value, key)?;
            Test::Target(pattern::alternatives(cx, text, value.span)?)
        }
        "target_in" | "target_glob" => Test::Target(globs(cx, value, &key.name)?),
        "target_not_in" => Test::NotTarget(globs(cx, value, &key.name)?),
        "target_regex" => {
            let text = pattern_text(cx, value, key)?;
            Test::TargetRegex(pattern::search(cx, text, value.span, false)?)
        }
        "target_indicator" => {
            cx.error(key.span, "E024", "\"target_indicator\" is not supported yet")
                .hint("list the targets with target_in until indicator feeds are");
            return None;
        }
        "count" => {
            cx.error(key.span, "E044", format!("\"count\" may not stand in {what}"))
                .hint("only sequence steps and thresholds count events");
            return None;
        }
        "without" => {
            cx.error(key.span, "E044", format!("\"without\" may not stand in {what}"))
                .hint("only sequence steps, from the second on, take \"without\"");
            return None;
        }
        name if field::looks_like_path(name) => {
            let field = field::path(cx, name, key.span)?;
            Test::Field(field.clone(), field::test(cx, &field, value)?)
        }
        _ => {
            let known: Vec<&str> = own.iter().copied().chain(MATCHER_KEYS).chain(field::first_parts()).collect();
            if key.name == "target" {
                cx.error(key.span, "E011", format!("{what} has no key \"target\""))
                    .hint("use target_glob for the normalised target, action.target for the raw one");
            } else {
                unknown_key(cx, key, what, &known);
            }
            return None;
        }
    })
}

fn pattern_text<'n>(cx: &mut Context<'_>, node: &'n Node, key: &Key) -> Option<&'n str> {
    if matches!(node.value, crate::yaml::Value::Null) {
        cx.error(node.span, "E060", format!("\"{}\" can't be compared with null", key.name)).hint("give it a pattern");
        return None;
    }
    cx.text(node, &format!("\"{}\"", key.name))
}

/// A list of globs, or one.
fn globs(cx: &mut Context<'_>, node: &Node, key: &str) -> Option<Vec<TargetPattern>> {
    let texts = cx.texts(node, &format!("\"{key}\""), field::MAX_ALTERNATIVES)?;
    let mut patterns: Vec<_> = texts.iter().filter_map(|(text, at)| pattern::glob(cx, text, *at)).collect();
    let complete = patterns.len() == texts.len();
    patterns.dedup();
    complete.then_some(patterns)
}

/// Reads one event type, a list of them, or `any`.
pub(crate) fn event_types(cx: &mut Context<'_>, node: &Node, what: &str) -> Option<EventTypes> {
    let names = cx.texts(node, &format!("\"{what}\""), EventTypes::NAMES.len() + 1)?;
    let bits: Vec<_> = names.iter().filter_map(|(name, at)| event_type(cx, name, *at)).collect();
    (bits.len() == names.len()).then(|| EventTypes(bits.iter().fold(0, |all, bit| all | bit)))
}

fn event_type(cx: &mut Context<'_>, name: &str, at: Span) -> Option<u8> {
    if name == "any" {
        return Some(EventTypes::ANY.0);
    }
    if let Some(index) = EventTypes::NAMES.iter().position(|known| *known == name) {
        return Some(1 << index);
    }
    let known: Vec<&str> = EventTypes::NAMES.into_iter().chain(["any"]).collect();
    cx.error(at, "E025", format!("{} is no event type", quoted(name))).hint(suggest::hint(name, &known));
    None
}
