//! Matchers: which events fill a step, a trigger or a count.

use super::field;
use crate::context::{Context, Keys, unknown_key};
use crate::diagnostic::{Span, quoted};
use crate::lint;
use crate::pattern::{self, Kind, Targets};
use crate::plan::{EventTypes, Matcher, TargetPattern, Test};
use crate::suggest;
use crate::yaml::{Key, Node, Value};

const MATCHER_KEYS: [&str; 7] =
    ["event_type", "target_pattern", "target_in", "target_not_in", "target_glob", "target_regex", "target_indicator"];

/// Keys that belong elsewhere, and where.
const MISPLACED: [(&str, &str); 5] = [
    ("until", "only a sequence as a whole takes \"until\""),
    ("count", "only sequence steps and thresholds count events"),
    ("unique_targets", "only thresholds count targets"),
    ("distinct", "only thresholds count values"),
    ("without", "only sequence steps, from the second on, take \"without\""),
];

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
    let (types, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(|(key, _)| key.name == "event_type");
    let event_types = match types.first() {
        Some((_, value)) => event_types(cx, value, "event_type"),
        None => Some(EventTypes::ANY),
    };
    let types = event_types.unwrap_or(EventTypes::ANY);
    let mut tests: Vec<_> = others.iter().filter_map(|(key, value)| test(cx, key, value, types, what, own)).collect();
    let complete = tests.len() == others.len();
    if complete && event_types.is_some() {
        let placed: Vec<_> =
            others.iter().zip(&tests).map(|((key, value), test)| (key.name.as_str(), value.span, test)).collect();
        lint::contradiction(cx, what, types, &placed);
    }
    tests.sort();
    tests.dedup();
    let event_types = event_types?;
    complete.then_some(Matcher { event_types, tests })
}

fn test(cx: &mut Context<'_>, key: &Key, value: &Node, types: EventTypes, what: &str, own: &[&str]) -> Option<Test> {
    if let Some((name, hint)) = MISPLACED.iter().find(|(name, _)| *name == key.name) {
        cx.error(key.span, "E044", format!("\"{name}\" may not stand in {what}")).hint(*hint);
        return None;
    }
    Some(match key.name.as_str() {
        "target_pattern" => {
            let text = pattern_text(cx, value, key)?;
            let patterns = pattern::alternatives(cx, text, value.span, Targets::of(types))?;
            let placed: Vec<_> =
                patterns.iter().map(|pattern| (pattern, cx.within(value.span, &pattern.text))).collect();
            lint::shadowed(cx, &placed, &Kind::of(types));
            Test::Target(patterns)
        }
        "target_in" | "target_glob" => Test::Target(globs(cx, value, key, types)?),
        "target_not_in" => Test::NotTarget(globs(cx, value, key, types)?),
        "target_regex" => {
            let text = pattern_text(cx, value, key)?;
            let regex = pattern::search(cx, text, value.span, false)?;
            pattern::doubt_regex(cx, text, &regex, value.span, Targets::of(types));
            Test::TargetRegex(regex)
        }
        "target_indicator" => {
            cx.error(key.span, "E024", "\"target_indicator\" is not supported yet")
                .hint("list the targets with target_in until indicator feeds are");
            return None;
        }
        name if field::looks_like_path(name) => {
            let field = field::path(cx, name, key.span)?;
            let test = field::test(cx, &field, value)?;
            if let Some((message, hint)) = lint::never(name, &field, &test) {
                cx.warn(key.span, "W013", message).hint(hint);
            }
            Test::Field(field, test)
        }
        _ => {
            let known: Vec<&str> = own
                .iter()
                .copied()
                .chain(MATCHER_KEYS)
                .chain(field::first_parts().into_iter().filter(|part| *part != "event_type"))
                .collect();
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
    not_null(cx, node, key)?;
    if matches!(node.value, Value::List(_)) {
        cx.error(node.span, "E010", format!("\"{}\" must be a text, found a list", key.name))
            .hint("target_in takes a list of globs; target_pattern separates alternatives by \"|\"");
        return None;
    }
    cx.text(node, &format!("\"{}\"", key.name))
}

fn not_null(cx: &mut Context<'_>, node: &Node, key: &Key) -> Option<()> {
    if matches!(node.value, Value::Null) {
        cx.error(node.span, "E060", format!("\"{}\" can't be compared with null", key.name)).hint("give it a pattern");
        return None;
    }
    Some(())
}

/// A list of globs, or one.
fn globs(cx: &mut Context<'_>, node: &Node, key: &Key, types: EventTypes) -> Option<Vec<TargetPattern>> {
    not_null(cx, node, key)?;
    let texts = cx.texts(node, &format!("\"{}\"", key.name), field::MAX_ALTERNATIVES)?;
    let targets = Targets::of(types);
    let patterns: Vec<_> = texts.iter().filter_map(|(text, at)| pattern::glob(cx, text, *at, targets)).collect();
    if patterns.len() < texts.len() {
        return None;
    }
    let placed: Vec<_> = patterns.iter().zip(&texts).map(|(pattern, (_, at))| (pattern, *at)).collect();
    lint::shadowed(cx, &placed, &Kind::of(types));
    Some(patterns)
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
