//! Fields by path, and the tests of their values.

use crate::context::Context;
use crate::diagnostic::{Span, quoted};
use crate::pattern;
use crate::plan::{Field, FieldTest, Number, Scalar};
use crate::suggest;
use crate::yaml::{Key, Node, Value};

/// The fields of an event (SPEC §3), and what each holds by name; empty where the names are free or there are none.
const EVENT_FIELDS: [(&str, &[&str]); 11] = [
    ("agent_id", &[]),
    ("session_id", &[]),
    ("timestamp", &[]),
    ("event_type", &[]),
    ("action", &["target", "content_hash", "args"]),
    ("result", &["allowed", "guard", "severity", "message"]),
    ("context", &[]),
    ("event_id", &[]),
    ("schema_version", &[]),
    ("tenant_id", &[]),
    ("seal", &[]),
];
/// The parts of a path whose names are free.
const OPEN_FIELDS: [&str; 3] = ["context", "extra", "seal"];
const OPERATORS: [&str; 12] =
    ["eq", "in", "regex", "contains", "starts_with", "ends_with", "gt", "gte", "lt", "lte", "exists", "not"];
/// The deepest path: events are at most 64 levels deep.
const MAX_PARTS: usize = 64;
/// The longest list of alternatives.
pub(crate) const MAX_ALTERNATIVES: usize = 10_000;

/// Whether a matcher's key is meant as a path: a first part that events have, or any dot.
pub(crate) fn looks_like_path(key: &str) -> bool {
    key.contains('.') || is_first_part(key)
}

fn is_first_part(part: &str) -> bool {
    part == "extra" || EVENT_FIELDS.iter().any(|(name, _)| *name == part)
}

/// Every first part, for hints.
pub(crate) fn first_parts() -> Vec<&'static str> {
    EVENT_FIELDS.iter().map(|(name, _)| *name).chain(["extra"]).collect()
}

/// Reads a field as `by`, `field` and `distinct` name it: `target` is the normalised target.
pub(crate) fn named(cx: &mut Context<'_>, node: &Node, what: &str) -> Option<Field> {
    match cx.text(node, what)? {
        "target" => Some(Field::Target),
        text => checked(cx, text, node.span, Some("target")),
    }
}

/// Reads a dotted path.
pub(crate) fn path(cx: &mut Context<'_>, text: &str, at: Span) -> Option<Field> {
    checked(cx, text, at, None)
}

/// `besides` is a name that is allowed here besides those of fields, for the hint.
fn checked(cx: &mut Context<'_>, text: &str, at: Span, besides: Option<&str>) -> Option<Field> {
    let parts: Vec<&str> = text.split('.').collect();
    if parts.iter().any(|part| part.is_empty()) || parts.len() > MAX_PARTS {
        cx.error(at, "E051", format!("{} is no path", quoted(text)))
            .hint(format!("write names with one dot between them, at most {MAX_PARTS}"));
        return None;
    }
    let (first, rest) = (parts[0], &parts[1..]);
    if !is_first_part(first) {
        let hint = match first {
            "target" => "use target_glob for the normalised target, action.target for the raw one".to_owned(),
            _ => match suggest::nearest(first, first_parts().into_iter().chain(besides)) {
                Some(name) => format!("did you mean \"{name}\"?"),
                None => format!("a field that only some records have is written `extra.{first}`"),
            },
        };
        cx.error(at, "E050", format!("{} is no field of an event", quoted(first))).hint(hint);
        return None;
    }
    if first == "extra" {
        return extra(cx, text, rest, at);
    }
    doubt(cx, text, first, rest, at);
    Some(Field::Path(parts.into_iter().map(str::to_owned).collect()))
}

fn extra(cx: &mut Context<'_>, text: &str, rest: &[&str], at: Span) -> Option<Field> {
    match rest.first() {
        None => {
            cx.error(at, "E051", "\"extra\" alone names no field").hint("write `extra.<name>`");
            None
        }
        Some(name) if EVENT_FIELDS.iter().any(|(field, _)| field == name) => {
            cx.error(
                at,
                "E050",
                format!("{} is never there: {} is a field of every event", quoted(text), quoted(name)),
            )
            .hint(format!("write `{}`", rest.join(".")));
            None
        }
        Some(_) => Some(Field::Path(rest.iter().map(|&part| part.to_owned()).collect())),
    }
}

/// Warns of a path that no event of our own SDK holds.
fn doubt(cx: &mut Context<'_>, text: &str, first: &str, rest: &[&str], at: Span) {
    let names = EVENT_FIELDS.iter().find(|(name, _)| *name == first).map_or(&[][..], |(_, names)| names);
    let hint = match rest {
        [] if names.is_empty() => return,
        [] => format!("it is an object; name a part of it: {}", names.join(", ")),
        [..] if OPEN_FIELDS.contains(&first) => return,
        [_, ..] if names.is_empty() => format!("\"{first}\" has no parts"),
        ["args", ..] => return,
        [name] if names.contains(name) => return,
        [name, ..] if names.contains(name) => format!("\"{first}.{name}\" has no parts"),
        [name, ..] => suggest::hint(name, names),
    };
    cx.warn(at, "W004", format!("{} is in no event as this engine defines them", quoted(text))).hint(hint);
}

/// Reads what stands behind a path: a scalar, a list, or operators.
pub(crate) fn test(cx: &mut Context<'_>, field: &Field, node: &Node) -> Option<FieldTest> {
    // Severities are kept lower case and read without regard to case.
    let fold = matches!(field, Field::Path(parts) if *parts == ["result", "severity"]);
    Values { fold }.any(cx, node)
}

struct Values {
    fold: bool,
}

impl Values {
    fn any(&self, cx: &mut Context<'_>, node: &Node) -> Option<FieldTest> {
        match &node.value {
            Value::List(_) => self.one_of(cx, node),
            Value::Map(entries) => self.operators(cx, node, entries),
            _ => Some(FieldTest::In(vec![self.scalar(cx, node)?])),
        }
    }

    fn operators(&self, cx: &mut Context<'_>, node: &Node, entries: &[(Key, Node)]) -> Option<FieldTest> {
        if entries.is_empty() {
            cx.error(node.span, "E061", "there is no operator in this mapping")
                .hint(format!("one of: {}", OPERATORS.join(", ")));
            return None;
        }
        let tests: Vec<_> = entries.iter().filter_map(|(key, value)| self.operator(cx, key, value)).collect();
        if tests.len() < entries.len() {
            return None;
        }
        Some(if tests.len() == 1 { tests.into_iter().next()? } else { FieldTest::All(sorted(tests)) })
    }

    fn operator(&self, cx: &mut Context<'_>, key: &Key, node: &Node) -> Option<FieldTest> {
        Some(match key.name.as_str() {
            "eq" => FieldTest::In(vec![self.scalar(cx, node)?]),
            "in" => self.one_of(cx, node)?,
            "regex" => {
                let text = self.operand(cx, key, node)?;
                FieldTest::Regex(pattern::search(cx, text, node.span, self.fold)?)
            }
            "contains" => FieldTest::Contains(self.part(cx, key, node)?),
            "starts_with" => FieldTest::StartsWith(self.part(cx, key, node)?),
            "ends_with" => FieldTest::EndsWith(self.part(cx, key, node)?),
            "gt" => FieldTest::Gt(number(cx, key, node)?),
            "gte" => FieldTest::Gte(number(cx, key, node)?),
            "lt" => FieldTest::Lt(number(cx, key, node)?),
            "lte" => FieldTest::Lte(number(cx, key, node)?),
            "exists" => match node.value {
                Value::Bool(flag) => FieldTest::Exists(flag),
                _ => return operand_error(cx, key, node, "true or false"),
            },
            "not" => FieldTest::Not(Box::new(self.any(cx, node)?)),
            name => {
                cx.error(key.span, "E061", format!("{} is no operator", quoted(name)))
                    .hint(suggest::hint(name, &OPERATORS));
                return None;
            }
        })
    }

    fn one_of(&self, cx: &mut Context<'_>, node: &Node) -> Option<FieldTest> {
        let items = cx.list(node, "a list of values", MAX_ALTERNATIVES)?;
        let scalars: Vec<_> = items.iter().filter_map(|item| self.scalar(cx, item)).collect();
        (scalars.len() == items.len()).then(|| FieldTest::In(sorted(scalars)))
    }

    fn scalar(&self, cx: &mut Context<'_>, node: &Node) -> Option<Scalar> {
        match &node.value {
            Value::Bool(flag) => Some(Scalar::Bool(*flag)),
            Value::Number(number) => Some(Scalar::Number(Number(*number))),
            Value::Text(text) => Some(Scalar::Text(self.folded(text))),
            Value::Null => {
                cx.error(node.span, "E060", "a value can't be compared with null")
                    .hint("null is absent: write `{exists: false}`, or put \"null\" in quotes if the text is meant");
                None
            }
            Value::List(_) | Value::Map(_) => {
                let kind = node.value.kind();
                cx.error(
                    node.span,
                    "E062",
                    format!("a value is compared with a text, number or boolean, not with {kind}"),
                )
                .hint("write a list of scalars for \"one of\", or name a part of the field by its path");
                None
            }
        }
    }

    fn operand<'n>(&self, cx: &mut Context<'_>, key: &Key, node: &'n Node) -> Option<&'n str> {
        match &node.value {
            Value::Text(text) => Some(text),
            _ => operand_error(cx, key, node, "a text"),
        }
    }

    /// A part of a text, which may not be empty: that is in every text.
    fn part(&self, cx: &mut Context<'_>, key: &Key, node: &Node) -> Option<String> {
        let text = self.operand(cx, key, node)?;
        if text.is_empty() {
            cx.error(node.span, "E063", format!("\"{}\" with an empty text holds for every text", key.name))
                .hint("use `exists: true` if any value will do");
            return None;
        }
        Some(self.folded(text))
    }

    fn folded(&self, text: &str) -> String {
        if self.fold { text.to_lowercase() } else { text.to_owned() }
    }
}

fn number(cx: &mut Context<'_>, key: &Key, node: &Node) -> Option<Number> {
    match node.value {
        Value::Number(number) => Some(Number(number)),
        _ => operand_error(cx, key, node, "a number"),
    }
}

fn operand_error<T>(cx: &mut Context<'_>, key: &Key, node: &Node, expected: &str) -> Option<T> {
    let (found, name) = (node.value.kind(), &key.name);
    match node.value {
        Value::Null => cx
            .error(node.span, "E060", format!("\"{name}\" can't be compared with null"))
            .hint("null is absent: write `{exists: false}`"),
        Value::Number(_) | Value::Bool(_) if expected == "a text" => cx
            .error(node.span, "E062", format!("\"{name}\" takes {expected}, found {found}"))
            .hint("put it in quotes; it then holds for texts only"),
        _ => cx
            .error(node.span, "E062", format!("\"{name}\" takes {expected}, found {found}"))
            .hint(format!("write `{name}: ` and {expected}")),
    };
    None
}

fn sorted<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort();
    items.dedup();
    items
}
