//! Matchers: which events fill a step, a trigger or a count.

use serde_json::{Value as Json, json};

use super::field;
use crate::context::{Context, unknown_key};
use crate::diagnostic::{Span, quoted};
use crate::lint;
use crate::pattern::{self, Kind, Targets};
use crate::plan::{EventTypes, Matcher, TargetPattern, Test};
use crate::schema::value;
use crate::shape::{KeyShape, Mapping, Needs, Rest, Shape};
use crate::suggest;
use crate::yaml::{Key, Node, Value};

/// A matcher by itself.
pub(crate) static MATCHER: Shape = Shape {
    name: "matcher",
    what: "a matcher",
    doc: "Which events: all of its keys must hold.",
    keys: &[],
    rest: Rest::Matcher,
    needs: Needs::Nothing,
};

/// A matcher's set of types.
pub(crate) const EVENT_TYPE: KeyShape =
    KeyShape::optional(field::EVENT_TYPE, "The event is of such a type.", event_types_schema);

/// A matcher's key about the target.
pub(crate) struct TargetKey {
    pub(crate) key: KeyShape,
    read: fn(&mut Context<'_>, &Key, &Node, EventTypes) -> Option<Test>,
}

/// The keys of every matcher besides `event_type` and paths.
pub(crate) static TARGET_KEYS: [TargetKey; 5] = [
    TargetKey {
        key: KeyShape::optional(
            "target_pattern",
            "Alternatives separated by `|`: regexes if they begin with `.*`, `^` or `(` or end with `$`, else globs.",
            pattern::schema,
        ),
        read: |cx, key, value, types| {
            let text = pattern_text(cx, value, key)?;
            let patterns = pattern::alternatives(cx, text, value.span, Targets::of(types))?;
            let placed: Vec<_> =
                patterns.iter().map(|pattern| (pattern, cx.within(value.span, &pattern.text))).collect();
            lint::shadowed(cx, &placed, &Kind::of(types));
            Some(Test::Target(patterns))
        },
    },
    TargetKey {
        key: KeyShape::optional("target_in", "The normalised target matches one of these globs.", globs_schema),
        read: |cx, key, value, types| Some(Test::Target(globs(cx, value, key, types)?)),
    },
    TargetKey {
        key: KeyShape::optional("target_not_in", "The normalised target matches none of these globs.", globs_schema),
        read: |cx, key, value, types| Some(Test::NotTarget(globs(cx, value, key, types)?)),
    },
    TargetKey {
        key: KeyShape::optional(
            "target_glob",
            "The normalised target matches this glob, or one of the list. In paths `*` stays within a component.",
            globs_schema,
        ),
        read: |cx, key, value, types| Some(Test::Target(globs(cx, value, key, types)?)),
    },
    TargetKey {
        key: KeyShape::optional("target_regex", "The regex is found in the normalised target.", pattern::schema),
        read: |cx, key, value, types| {
            let text = pattern_text(cx, value, key)?;
            let regex = pattern::search(cx, text, value.span, false)?;
            pattern::doubt_regex(cx, text, &regex, value.span, Targets::of(types));
            Some(Test::TargetRegex(regex))
        },
    },
];

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
    let mut keys = cx.mapping_called(node, &MATCHER, what)?;
    inline(cx, &mut keys)
}

/// Reads what is left of a mapping as a matcher.
pub(crate) fn inline(cx: &mut Context<'_>, keys: &mut Mapping<'_>) -> Option<Matcher> {
    let rest = keys.rest();
    let what = &keys.what;
    let own = keys.shape.names();
    if rest.is_empty() {
        cx.warn(keys.span, "W003", format!("{what} names no property, so every event satisfies it"))
            .hint("write `event_type: any` if that is meant");
    }
    let (types, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(|(key, _)| key.name == EVENT_TYPE.name);
    let event_types = match types.first() {
        Some((_, value)) => event_types(cx, value, EVENT_TYPE.name),
        None => Some(EventTypes::ANY),
    };
    let types = event_types.unwrap_or(EventTypes::ANY);
    let mut tests: Vec<_> = others.iter().filter_map(|(key, value)| test(cx, key, value, types, what, &own)).collect();
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
    if let Some(target) = TARGET_KEYS.iter().find(|target| target.key.name == key.name) {
        return (target.read)(cx, key, value, types);
    }
    Some(match key.name.as_str() {
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
                .chain([EVENT_TYPE.name])
                .chain(TARGET_KEYS.iter().map(|target| target.key.name))
                .chain(field::first_parts().into_iter().filter(|part| *part != EVENT_TYPE.name))
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

/// Globs, or one of them.
fn globs_schema() -> Json {
    value::texts(pattern::schema(), 1, field::MAX_ALTERNATIVES)
}

/// The most event types in a list: each, and `any`.
const MAX_EVENT_TYPES: usize = EventTypes::NAMES.len() + 1;

/// The names that [`event_type`] reads.
fn event_type_names() -> Vec<&'static str> {
    EventTypes::NAMES.into_iter().chain([ANY]).collect()
}

/// Every type.
const ANY: &str = "any";

/// The schema of what [`event_types`] reads.
pub(crate) fn event_types_schema() -> Json {
    let mut types = value::names_or_list(&event_type_names(), MAX_EVENT_TYPES);
    types["description"] = json!("One type, a list of them, or `any`.");
    types
}

/// Reads one event type, a list of them, or `any`.
pub(crate) fn event_types(cx: &mut Context<'_>, node: &Node, what: &str) -> Option<EventTypes> {
    let names = cx.texts(node, &format!("\"{what}\""), MAX_EVENT_TYPES)?;
    let bits: Vec<_> = names.iter().filter_map(|(name, at)| event_type(cx, name, *at)).collect();
    (bits.len() == names.len()).then(|| EventTypes(bits.iter().fold(0, |all, bit| all | bit)))
}

fn event_type(cx: &mut Context<'_>, name: &str, at: Span) -> Option<u8> {
    if name == ANY {
        return Some(EventTypes::ANY.0);
    }
    if let Some(index) = EventTypes::NAMES.iter().position(|known| *known == name) {
        return Some(1 << index);
    }
    cx.error(at, "E025", format!("{} is no event type", quoted(name))).hint(suggest::hint(name, &event_type_names()));
    None
}
