//! Fields by path, and the tests of their values.

use serde_json::{Map, Value as Json, json};

use crate::context::Context;
use crate::diagnostic::{Span, quoted};
use crate::pattern;
use crate::plan::{Field, FieldTest, Number, Scalar};
use crate::schema::value;
use crate::suggest;
use crate::yaml::{Key, Node, Value};

/// The fields of an event (SPEC §3), and what each holds by name; empty where the names are free or there are none.
const EVENT_FIELDS: [(&str, &[&str]); 11] = [
    ("agent_id", &[]),
    ("session_id", &[]),
    ("timestamp", &[]),
    (EVENT_TYPE, &[]),
    ("action", &["target", "content_hash", "args"]),
    ("result", &["allowed", "guard", "severity", "message"]),
    ("context", &[]),
    ("event_id", &[]),
    ("schema_version", &[]),
    ("tenant_id", &[]),
    ("seal", &[]),
];
/// A matcher reads this field as a set of types, not as a text.
pub(crate) const EVENT_TYPE: &str = "event_type";
/// What unknown top-level fields of a record stand below.
const EXTRA: &str = "extra";
/// The normalised target, where a field is named by itself.
const TARGET: &str = "target";
/// The parts of a path whose names are free.
const OPEN_FIELDS: [&str; 3] = ["context", "extra", "seal"];
/// The deepest path: events are at most 64 levels deep.
const MAX_PARTS: usize = 64;
/// The longest list of alternatives.
pub(crate) const MAX_ALTERNATIVES: usize = 10_000;

/// Whether a matcher's key is meant as a path: a first part that events have, or any dot.
pub(crate) fn looks_like_path(key: &str) -> bool {
    key.contains('.') || is_first_part(key)
}

fn is_first_part(part: &str) -> bool {
    part == EXTRA || EVENT_FIELDS.iter().any(|(name, _)| *name == part)
}

/// Every first part, for hints.
pub(crate) fn first_parts() -> Vec<&'static str> {
    EVENT_FIELDS.iter().map(|(name, _)| *name).chain([EXTRA]).collect()
}

/// Reads a field as `by`, `field` and `distinct` name it: `target` is the normalised target.
pub(crate) fn named(cx: &mut Context<'_>, node: &Node, what: &str) -> Option<Field> {
    match cx.text(node, what)? {
        TARGET => Some(Field::Target),
        text => checked(cx, text, node.span, Some(TARGET)),
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
            TARGET => "use target_glob for the normalised target, action.target for the raw one".to_owned(),
            _ => match suggest::nearest(first, first_parts().into_iter().chain(besides)) {
                Some(name) => format!("did you mean \"{name}\"?"),
                None => format!("a field that only some records have is written `extra.{first}`"),
            },
        };
        cx.error(at, "E050", format!("{} is no field of an event", quoted(first))).hint(hint);
        return None;
    }
    if first == EXTRA {
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

/// Paths as patterns of texts: of fields that every event has, but for those in `but`; of others.
fn path_patterns(but: &str) -> [String; 2] {
    let names: Vec<&str> = EVENT_FIELDS.iter().map(|(name, _)| *name).collect();
    let alone: Vec<&str> = names.iter().copied().filter(|name| *name != but).collect();
    let (alone, names) = (alone.join("|"), names.join("|"));
    [format!(r"^(?:(?:{alone})|(?:{names}|{EXTRA})(?:\.[^.]+)+)$"), format!(r"^{EXTRA}\.(?:{names})(?:\.|$)")]
}

/// The schema of what [`named`] reads.
pub(crate) fn schema() -> Json {
    value::reference("field")
}

/// What the schema calls `field`: a path, or `target`.
pub(crate) fn fields_schema() -> Json {
    let [fields, never] = path_patterns("");
    json!({
        "description": "A field of the event by its dotted path, or `target`: the normalised target.",
        "type": "string",
        "anyOf": [{"enum": common(TARGET)}, {"pattern": fields}],
        "not": {"pattern": never},
    })
}

/// Paths that an editor should offer, and one name more.
fn common(besides: &'static str) -> Vec<String> {
    let parts = |(name, parts): &(&str, &[&str])| match parts {
        [] => vec![(*name).to_owned()],
        parts => parts.iter().map(|part| format!("{name}.{part}")).collect(),
    };
    std::iter::once(besides.to_owned()).chain(EVENT_FIELDS.iter().flat_map(parts)).collect()
}

/// Adds what a matcher takes by paths to its `properties` and `patternProperties`.
pub(crate) fn path_keys(properties: &mut Map<String, Json>, patterns: &mut Map<String, Json>) {
    for path in common(EVENT_TYPE).into_iter().filter(|path| path != EVENT_TYPE) {
        properties.insert(path, value::reference("test"));
    }
    let [fields, never] = path_patterns(EVENT_TYPE);
    patterns.insert(fields, value::reference("test"));
    patterns.insert(never, json!(false));
}

/// What the schema calls `test`: what [`test`] reads.
pub(crate) fn test_schema() -> Json {
    let mut test = value::reference("operators");
    // Each keyword speaks of one of the kinds, so one schema can say all of them.
    test["description"] = json!("A scalar (equal), a list (one of), or operators that must all hold.");
    test["type"] = json!(["string", "number", "boolean", "array", "object"]);
    for (key, value) in one_of_schema().as_object().into_iter().flatten().filter(|(key, _)| *key != "type") {
        test[key] = value.clone();
    }
    test
}

/// What the schema calls `operators`; speaks of mappings only.
pub(crate) fn operators_schema() -> Json {
    let operators = OPERATORS.iter().map(|operator| {
        let mut value = (operator.value)();
        value["description"] = json!(operator.doc);
        (operator.name.to_owned(), value)
    });
    json!({"properties": operators.collect::<Map<_, _>>(), "additionalProperties": false, "minProperties": 1})
}

fn one_of_schema() -> Json {
    value::list(scalar_schema(), 1, MAX_ALTERNATIVES)
}

fn scalar_schema() -> Json {
    json!({"type": ["string", "number", "boolean"]})
}

fn part_schema() -> Json {
    json!({"type": "string", "minLength": 1})
}

fn number_schema() -> Json {
    json!({"type": "number"})
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

/// An operator of a field's test.
struct Operator {
    name: &'static str,
    /// For who writes one.
    doc: &'static str,
    /// The schema of its operand.
    value: fn() -> Json,
    read: fn(&Values, &mut Context<'_>, &Key, &Node) -> Option<FieldTest>,
}

static OPERATORS: [Operator; 12] = [
    Operator {
        name: "eq",
        doc: "Equal to this value.",
        value: scalar_schema,
        read: |values, cx, _, node| Some(FieldTest::In(vec![values.scalar(cx, node)?])),
    },
    Operator {
        name: "in",
        doc: "Equal to one of these values.",
        value: one_of_schema,
        read: |values, cx, _, node| values.one_of(cx, node),
    },
    Operator {
        name: "regex",
        doc: "A text in which this regex is found.",
        value: pattern::schema,
        read: |values, cx, key, node| {
            let text = values.operand(cx, key, node)?;
            Some(FieldTest::Regex(pattern::search(cx, text, node.span, values.fold)?))
        },
    },
    Operator {
        name: "contains",
        doc: "A text that contains this.",
        value: part_schema,
        read: |values, cx, key, node| Some(FieldTest::Contains(values.part(cx, key, node)?)),
    },
    Operator {
        name: "starts_with",
        doc: "A text that starts with this.",
        value: part_schema,
        read: |values, cx, key, node| Some(FieldTest::StartsWith(values.part(cx, key, node)?)),
    },
    Operator {
        name: "ends_with",
        doc: "A text that ends with this.",
        value: part_schema,
        read: |values, cx, key, node| Some(FieldTest::EndsWith(values.part(cx, key, node)?)),
    },
    Operator {
        name: "gt",
        doc: "A number greater than this.",
        value: number_schema,
        read: |_, cx, key, node| Some(FieldTest::Gt(number(cx, key, node)?)),
    },
    Operator {
        name: "gte",
        doc: "A number at least this.",
        value: number_schema,
        read: |_, cx, key, node| Some(FieldTest::Gte(number(cx, key, node)?)),
    },
    Operator {
        name: "lt",
        doc: "A number less than this.",
        value: number_schema,
        read: |_, cx, key, node| Some(FieldTest::Lt(number(cx, key, node)?)),
    },
    Operator {
        name: "lte",
        doc: "A number at most this.",
        value: number_schema,
        read: |_, cx, key, node| Some(FieldTest::Lte(number(cx, key, node)?)),
    },
    Operator {
        name: "exists",
        doc: "Present (null is absent), or not.",
        value: || json!({"type": "boolean"}),
        read: |_, cx, key, node| match node.value {
            Value::Bool(flag) => Some(FieldTest::Exists(flag)),
            _ => operand_error(cx, key, node, "true or false"),
        },
    },
    Operator {
        name: "not",
        doc: "Holds exactly when this doesn't, for absent fields too.",
        value: || value::reference("test"),
        read: |values, cx, _, node| Some(FieldTest::Not(Box::new(values.any(cx, node)?))),
    },
];

fn operator_names() -> Vec<&'static str> {
    OPERATORS.iter().map(|operator| operator.name).collect()
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
                .hint(format!("one of: {}", operator_names().join(", ")));
            return None;
        }
        let tests: Vec<_> = entries.iter().filter_map(|(key, value)| self.operator(cx, key, value)).collect();
        if tests.len() < entries.len() {
            return None;
        }
        Some(if tests.len() == 1 { tests.into_iter().next()? } else { FieldTest::All(sorted(tests)) })
    }

    fn operator(&self, cx: &mut Context<'_>, key: &Key, node: &Node) -> Option<FieldTest> {
        let Some(operator) = OPERATORS.iter().find(|operator| operator.name == key.name) else {
            cx.error(key.span, "E061", format!("{} is no operator", quoted(&key.name)))
                .hint(suggest::hint(&key.name, &operator_names()));
            return None;
        };
        (operator.read)(self, cx, key, node)
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
