//! Tests of rules: the file beside a pack, from YAML to records and what they should raise (docs/rules/tests.md).
//!
//! Knows nothing of how tests are run.

use std::collections::HashSet;

use serde_json::{Map, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::context::Context;
use crate::diagnostic::{Errors, Level, Span, quoted};
use crate::plan::EventTypes;
use crate::schema::value;
use crate::shape::{KeyShape, Mapping, Needs, Rest, Shape};
use crate::yaml::{Node, Value};
use crate::{SourceFile, duration, resolve, yaml};

/// When every test begins: 2024-01-01T00:00:00Z, in microseconds since 1970.
pub const START: i64 = 1_704_067_200_000_000;
/// Most tests of a file.
const MAX_TESTS: usize = 10_000;
/// Most events of a test, repeated ones included.
const MAX_EVENTS: usize = 1_000_000;
/// The latest that an event of a test may be.
const MAX_AT: i64 = 60 * duration::DAY;

pub(crate) static FILE: Shape = Shape {
    name: "file",
    what: "a file of tests",
    doc: "The tests of the rule file beside it: events, and the alerts they must raise.",
    keys: &[
        KeyShape::optional("with", "Further rule files, by paths relative to this file.", || {
            value::texts(value::text(), 1, MAX_TESTS)
        }),
        KeyShape::optional("defaults", "Keys that events of this file leave out.", || value::of(&DEFAULTS)),
        KeyShape::required("tests", "[{name: ..., events: [...], expect: []}]", "The tests.", || {
            value::list(value::of(&TEST), 1, MAX_TESTS)
        }),
    ],
    rest: Rest::Unknown,
    needs: Needs::Nothing,
};

pub(crate) static TEST: Shape = Shape {
    name: "test",
    what: "a test",
    doc: "Events, and everything that they may raise.",
    keys: &[
        KeyShape::required("name", "reads a key, then calls an unknown host", "For people.", value::word),
        KeyShape::optional("defaults", "Keys that events of this test leave out.", || value::of(&DEFAULTS)),
        KeyShape::required(
            "events",
            "[{at: 0s, event_type: file_access, target: /etc/passwd}]",
            "What happens; the order is that of their times.",
            || value::list(value::of(&EVENT), 1, MAX_EVENTS),
        ),
        KeyShape::required(
            "expect",
            "[] (silence), or [{rule: RULE_ID}]",
            "All alerts that the events may raise; an empty list is silence.",
            || value::list(value::of(&EXPECTED), 0, usize::MAX),
        ),
    ],
    rest: Rest::Unknown,
    needs: Needs::Nothing,
};

pub(crate) static EXPECTED: Shape = Shape {
    name: "expectation",
    what: "an expectation",
    doc: "Alerts of one rule.",
    keys: &[
        KeyShape::required("rule", "RULE_ID", "The rule's id.", value::word),
        KeyShape::optional("alerts", "How many alerts; 1 if it is left out.", || value::whole(1, u64::MAX)),
        KeyShape::optional("at", "When the first alert's first match is.", offset_schema),
        KeyShape::optional("matches", "How many matches all alerts have together.", || value::whole(1, u64::MAX)),
        KeyShape::optional("evidence", "How many events the first alert shows.", || value::whole(1, u64::MAX)),
    ],
    rest: Rest::Unknown,
    needs: Needs::Nothing,
};

/// An event; those of its keys that stand in for a field may be defaults.
pub(crate) static EVENT: Shape = Shape {
    name: "event",
    what: "an event",
    doc: "An event, or several alike. Any other key is a field by its path.",
    keys: &[
        KeyShape::optional("at", "When, counted from the start of the test; 0s if it is left out.", offset_schema),
        KeyShape::optional("every", "Time between repeated events; 1s if it is left out.", offset_schema),
        KeyShape::optional("repeat", "So many events; `{n}` in a text is the event's number, from 0.", || {
            value::whole(1, MAX_EVENTS as u64)
        }),
        EVENT_TYPE,
        TARGET,
        ALLOWED,
        AGENT,
        SESSION,
        TENANT,
    ],
    rest: Rest::Paths,
    needs: Needs::Nothing,
};

pub(crate) static DEFAULTS: Shape = Shape {
    name: "defaults",
    what: "\"defaults\"",
    doc: "Keys that stand in for what an event leaves out. Any other key is a field by its path.",
    keys: &[EVENT_TYPE, TARGET, ALLOWED, AGENT, SESSION, TENANT],
    rest: Rest::Paths,
    needs: Needs::Nothing,
};

const EVENT_TYPE: KeyShape = KeyShape::optional("event_type", "The event's type.", resolve::event_types_schema);
const TARGET: KeyShape = KeyShape::optional("target", "`action.target`; empty if it is left out.", || json!({}));
const ALLOWED: KeyShape = KeyShape::optional("allowed", "`result.allowed`; true if it is left out.", || json!({}));
const AGENT: KeyShape = KeyShape::optional("agent_id", "Whose event; `agent` if it is left out.", || json!({}));
const SESSION: KeyShape =
    KeyShape::optional("session_id", "Of which session; `session` if it is left out.", || json!({}));
const TENANT: KeyShape = KeyShape::optional("tenant_id", "Of which tenant; none if it is left out.", || json!({}));

fn offset_schema() -> serde_json::Value {
    let units = UNITS.map(|(name, _)| name).join("|");
    json!({"type": "string", "pattern": format!("^(?:[0-9]+(?:{units}))+$"), "examples": ["90s"]})
}

/// A file of tests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TestFile {
    /// Further rule files, by paths relative to this file.
    pub with: Vec<String>,
    /// The tests, in the order of the file.
    pub tests: Vec<RuleTest>,
}

/// One test.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleTest {
    /// Its name.
    pub name: String,
    /// Where it stands in the file, from 1.
    pub line: u32,
    /// Records in the order of their times, which are microseconds since 1970.
    pub events: Vec<(i64, serde_json::Value)>,
    /// All that they should raise.
    pub expect: Vec<Expected>,
}

/// Alerts of one rule that a test expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The rule's id.
    pub rule: String,
    /// Where it stands in the file, from 1.
    pub line: u32,
    /// How many alerts.
    pub alerts: u64,
    /// The first one's first match, microseconds after [`START`].
    pub at: Option<i64>,
    /// Matches of all of them together.
    pub matches: Option<u64>,
    /// Events that the first one shows.
    pub evidence: Option<u64>,
}

/// Reads a file of tests.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse_tests(file: &SourceFile) -> Result<TestFile, Errors> {
    let mut compiled = HashSet::new();
    let mut cx = Context::new(&file.name, &file.text, &mut compiled);
    let mut out = TestFile::default();
    for document in &yaml::documents(&mut cx, &file.text) {
        read_document(&mut cx, document, &mut out);
    }
    let (errors, warnings): (Vec<_>, Vec<_>) =
        cx.into_diagnostics().into_iter().partition(|d| d.severity == Level::Error);
    if errors.is_empty() { Ok(out) } else { Err(Errors { errors, warnings }) }
}

fn read_document(cx: &mut Context<'_>, document: &Node, out: &mut TestFile) {
    let Some(mut keys) = cx.mapping(document, &FILE) else { return };
    if let Some(with) = keys.take("with") {
        let names = cx.texts(with, "\"with\"", MAX_TESTS).unwrap_or_default();
        out.with.extend(names.into_iter().map(|(name, _)| name.to_owned()));
    }
    let defaults = read_defaults(cx, &mut keys);
    if let Some(tests) = keys.require(cx, "tests") {
        for node in cx.list(tests, "\"tests\"", MAX_TESTS).unwrap_or_default() {
            out.tests.extend(read_test(cx, node, &defaults));
        }
    }
    keys.finish(cx);
}

/// Keys that stand in for what an event leaves out.
type Defaults<'n> = Vec<(&'n str, &'n Node)>;

fn read_defaults<'n>(cx: &mut Context<'_>, keys: &mut Mapping<'n>) -> Defaults<'n> {
    let Some(node) = keys.take("defaults") else { return Vec::new() };
    let Some(mut keys) = cx.mapping(node, &DEFAULTS) else { return Vec::new() };
    keys.rest().into_iter().map(|(key, value)| (key.name.as_str(), value)).collect()
}

fn read_test(cx: &mut Context<'_>, node: &Node, file_defaults: &Defaults<'_>) -> Option<RuleTest> {
    let mut keys = cx.mapping(node, &TEST)?;
    let name = keys.require(cx, "name");
    let name = name.and_then(|n| cx.word(n, "\"name\"")).map(str::to_owned);
    // The test's own come first, and the first one counts.
    let mut defaults = read_defaults(cx, &mut keys);
    defaults.extend(file_defaults.iter().copied());
    let mut events = Vec::new();
    if let Some(list) = keys.require(cx, "events") {
        for node in cx.list(list, "\"events\"", MAX_EVENTS).unwrap_or_default() {
            read_event(cx, node, &defaults, &mut events);
        }
    }
    events.sort_by_key(|(time, _)| *time);
    let expect = keys.require(cx, "expect");
    let expect = match expect.map(|n| &n.value) {
        Some(Value::List(items)) => items.iter().filter_map(|item| read_expected(cx, item)).collect(),
        Some(_) => {
            expect.into_iter().for_each(|n| cx.mistyped(n, "\"expect\"", "a list"));
            Vec::new()
        }
        None => Vec::new(),
    };
    keys.finish(cx);
    Some(RuleTest { name: name?, line: node.span.line, events, expect })
}

fn read_expected(cx: &mut Context<'_>, node: &Node) -> Option<Expected> {
    let mut keys = cx.mapping(node, &EXPECTED)?;
    let rule = keys.require(cx, "rule").and_then(|n| cx.word(n, "\"rule\"")).map(str::to_owned);
    let alerts = whole(cx, &mut keys, "alerts", 1..=u64::MAX);
    let at = keys.take("at").and_then(|n| offset(cx, n, "\"at\""));
    let matches = whole(cx, &mut keys, "matches", 1..=u64::MAX);
    let evidence = whole(cx, &mut keys, "evidence", 1..=u64::MAX);
    keys.finish(cx);
    Some(Expected { rule: rule?, line: node.span.line, alerts: alerts.unwrap_or(1), at, matches, evidence })
}

fn whole(
    cx: &mut Context<'_>,
    keys: &mut Mapping<'_>,
    name: &str,
    range: std::ops::RangeInclusive<u64>,
) -> Option<u64> {
    let node = keys.take(name)?;
    match node.value {
        Value::Number(n) if n.fract() == 0.0 && n >= 0.0 && range.contains(&(n as u64)) => Some(n as u64),
        _ => {
            let message = format!("\"{name}\" must be a whole number of at least {}", range.start());
            cx.error(node.span, "E010", message).hint(format!("write `{name}: {}`", range.start()));
            None
        }
    }
}

fn read_event(cx: &mut Context<'_>, node: &Node, defaults: &Defaults<'_>, out: &mut Vec<(i64, serde_json::Value)>) {
    let Some(mut keys) = cx.mapping(node, &EVENT) else { return };
    let at = keys.take("at").map_or(Some(0), |n| offset(cx, n, "\"at\""));
    let every = keys.take("every").map_or(Some(duration::SECOND), |n| offset(cx, n, "\"every\""));
    let repeat = whole(cx, &mut keys, "repeat", 1..=MAX_EVENTS as u64).unwrap_or(1) as usize;
    let own: Vec<(&str, &Node)> = keys.rest().into_iter().map(|(key, value)| (key.name.as_str(), value)).collect();
    let mut record = Record { fields: Map::new(), span: node.span };
    for (path, default) in [
        ("agent_id", json!("agent")),
        ("session_id", json!("session")),
        ("action.target", json!("")),
        ("result.allowed", json!(true)),
    ] {
        record.set(cx, path, default);
    }
    let left_out = defaults.iter().filter(|(name, _)| !own.iter().any(|(key, _)| key == name));
    for (name, value) in left_out.chain(&own) {
        let path = match *name {
            "target" => "action.target",
            "allowed" => "result.allowed",
            "event_type" => {
                // Also says what is wrong with it.
                resolve::event_types(cx, value, "event_type");
                "event_type"
            }
            path => path,
        };
        record.set(cx, path, value.to_json());
    }
    if !record.fields.contains_key("event_type") {
        cx.error(node.span, "E012", "an event has no \"event_type\"")
            .hint(format!("one of: {}", EventTypes::NAMES.join(", ")));
    }
    if out.len() + repeat > MAX_EVENTS {
        cx.error(node.span, "E014", format!("a test may have {MAX_EVENTS} events")).hint("repeat fewer");
        return;
    }
    let (Some(at), Some(every)) = (at, every) else { return };
    for n in 0..repeat {
        let time = START.saturating_add(at).saturating_add(every.saturating_mul(n as i64));
        let mut fields = record.fields.clone();
        fields.entry("event_id").or_insert_with(|| json!(format!("event-{}", out.len())));
        fields.insert("timestamp".to_owned(), json!(timestamp(time)));
        let mut record = serde_json::Value::Object(fields);
        number(&mut record, n);
        out.push((time, record));
    }
}

/// A record under construction.
struct Record {
    fields: Map<String, serde_json::Value>,
    span: Span,
}

impl Record {
    /// Puts a value at a path of names.
    fn set(&mut self, cx: &mut Context<'_>, path: &str, value: serde_json::Value) {
        let mut names: Vec<&str> = path.split('.').collect();
        // In rules, unknown fields of the record have this prefix.
        if names.len() > 1 && names[0] == "extra" {
            names.remove(0);
        }
        let Some((last, outer)) = names.split_last() else { return };
        let mut object = &mut self.fields;
        for name in outer {
            let inner = object.entry(*name).or_insert_with(|| json!({}));
            match inner.as_object_mut() {
                Some(inner) => object = inner,
                None => {
                    cx.error(
                        self.span,
                        "E010",
                        format!("{} goes into {}, which is no mapping", quoted(path), quoted(name)),
                    )
                    .hint(format!(
                        "leave one of the two out; keys besides {} are fields by their paths",
                        EVENT.names().join(", ")
                    ));
                    return;
                }
            }
        }
        object.insert((*last).to_owned(), value);
    }
}

/// Replaces `{n}` in all texts.
fn number(value: &mut serde_json::Value, n: usize) {
    match value {
        serde_json::Value::String(text) if text.contains("{n}") => *text = text.replace("{n}", &n.to_string()),
        serde_json::Value::Array(items) => items.iter_mut().for_each(|item| number(item, n)),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(|field| number(field, n)),
        _ => {}
    }
}

fn timestamp(micros: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000);
    time.ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

/// A time after the start of the test: `90s`, `1h30m`, `500ms`.
fn offset(cx: &mut Context<'_>, node: &Node, what: &str) -> Option<i64> {
    let text = match &node.value {
        Value::Text(text) => text.as_str(),
        _ => "",
    };
    match parse_offset(text) {
        Some(micros) if micros <= MAX_AT => Some(micros),
        Some(_) => {
            cx.error(node.span, "E031", format!("{what} must be at most {}", duration::format(MAX_AT)))
                .hint("no rule looks back further than 7d");
            None
        }
        None => {
            cx.error(node.span, "E030", format!("{what} is no time after the start"))
                .hint("write numbers with ms, s, m, h or d: 0s, 500ms, 90s, 1h30m");
            None
        }
    }
}

const UNITS: [(&str, i64); 5] = [
    ("ms", 1_000),
    ("s", duration::SECOND),
    ("m", 60 * duration::SECOND),
    ("h", 3_600 * duration::SECOND),
    ("d", duration::DAY),
];

fn parse_offset(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut sum = 0i64;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, behind) = rest.split_at(digits);
        let letters = behind.len() - behind.trim_start_matches(|c: char| c.is_ascii_lowercase()).len();
        let (unit, behind) = behind.split_at(letters);
        let (_, size) = UNITS.iter().find(|(name, _)| *name == unit)?;
        sum = sum.checked_add(number.parse::<i64>().ok()?.checked_mul(*size)?)?;
        rest = behind;
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> SourceFile {
        SourceFile { name: "p.test.yaml".into(), text: text.into() }
    }

    #[test]
    fn reads_offsets() {
        assert_eq!(parse_offset("1h30m"), Some(5_400 * duration::SECOND));
        assert_eq!(parse_offset("500ms"), Some(500_000));
        for wrong in ["", "5", "s", "5 s", "1.5s", "-1s"] {
            assert_eq!(parse_offset(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn repeats_numbers_sorts_and_fills_in() {
        let text = "defaults: {session_id: s1, result.guard: egress}
tests:
  - name: t
    events:
      - {at: 10s, event_type: shell_command, target: ls, allowed: false, session_id: s2, extra.k: 5}
      - {at: 9s, every: 2s, repeat: 2, event_type: file_access, target: '/f/{n}'}
    expect: [{rule: R, at: 1m, alerts: 2}]
";
        let parsed = parse_tests(&file(text)).unwrap();
        let test = &parsed.tests[0];
        let short: Vec<String> = test
            .events
            .iter()
            .map(|(time, e)| {
                let at = (time - START) / duration::SECOND;
                format!("{at} {} {} {} {}", e["session_id"], e["action"]["target"], e["result"], e["k"])
            })
            .collect();
        assert_eq!(
            short,
            [
                r#"9 "s1" "/f/0" {"allowed":true,"guard":"egress"} null"#,
                r#"10 "s2" "ls" {"allowed":false,"guard":"egress"} 5"#,
                r#"11 "s1" "/f/1" {"allowed":true,"guard":"egress"} null"#
            ]
        );
        assert_eq!(test.events[0].1["timestamp"], "2024-01-01T00:00:09Z");
        assert_eq!((test.expect[0].alerts, test.expect[0].at), (2, Some(60 * duration::SECOND)));
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        let text = "tests:
  - name: t
    events: [{at: soon, event_type: file_acess}, {target: x}]
    expect: [{alert: R}]
    wait: 5
";
        let errors = parse_tests(&file(text)).unwrap_err();
        let found: Vec<(u32, &str)> = errors.errors.iter().map(|e| (e.line, e.code)).collect();
        assert_eq!(found, [(3, "E030"), (3, "E025"), (3, "E012"), (4, "E012"), (4, "E011"), (5, "E011")]);
    }
}
