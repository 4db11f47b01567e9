//! What lints say holds for every event: what "can never match" never does, and a pattern that "does nothing" can go.
//!
//! Judged by the plan's regexes and by the language's definition of tests, not by the lints' own reasoning.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use clawdstrike_rules::plan::{Condition, FieldTest, HostPart, Matcher, Scalar, TargetPattern, Test};
use clawdstrike_rules::{Compiled, SourceFile, compile};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use regex::Regex;
use serde_json::{Value, json};

const KINDS: [&str; 3] = ["file_access", "network_egress", "shell_command"];
const PIECES: [&str; 16] =
    ["/", "/", ".", "a", "b", "A", "*", "*", "**", "**/", "/**", "*.", "?", "{a,b}", "[a-b]", ":80"];
const PLAIN: [&str; 8] = ["/", "/", ".", ".", "a", "b", "c", "-"];

const COMMON: [&str; 17] = [
    "/a/**", "/a/b", "**/b", "**/a/**", "/*/a/b", "*.a", "b.a", "b.a:80", "*.b.a", "*", "**", "a", "*:80", "/a*/b",
    "/aa/*", "/*/ab", "*b.a",
];

/// A glob or a regex of a few pieces; many cover each other.
fn pattern() -> impl Strategy<Value = String> {
    let pieces = |pieces: &'static [&'static str]| {
        proptest::collection::vec(select(pieces), 1..6).prop_map(|pieces| pieces.concat())
    };
    prop_oneof![3 => select(&COMMON[..]).prop_map(str::to_owned), 2 => pieces(&PIECES), 2 => pieces(&PLAIN)]
}

/// A target as it might be normalised, with a port if it is a host.
fn target() -> impl Strategy<Value = (String, Option<u16>)> {
    let labels = proptest::collection::vec(select(&["a", "b", "c", "ab", "aa"][..]), 1..5);
    let text = prop_oneof![
        select(&["b.a", "a.b.a", "/a/b", "/ab/b", "/aa/b", "/c/ab", "bb.a"][..]).prop_map(str::to_owned),
        labels.clone().prop_map(|labels| labels.join(".")),
        labels.clone().prop_map(|labels| labels.join("/")),
        labels.prop_map(|labels| format!("/{}", labels.join("/"))),
        proptest::collection::vec(select(&PLAIN[..]), 0..7).prop_map(|pieces| pieces.concat()),
    ];
    (text, select(&[None, Some(80), Some(443)][..]))
}

/// Compiles a threshold with these keys, each on a line of its own. None if it doesn't compile.
fn threshold(keys: &[String]) -> Option<(Compiled, Matcher)> {
    let head = "rules:\n- id: R\n  name: n\n  severity: low\n  conditions:\n  - type: threshold\n    window: 1m\n    count: 1\n";
    let text = format!("{head}{}", keys.iter().map(|key| format!("    {key}\n")).collect::<String>());
    let compiled = compile(&[SourceFile { name: "r.yaml".into(), text }]).ok()?;
    let matcher = match &compiled.set.rules[0].conditions[0] {
        Condition::Threshold(threshold) => threshold.matcher.clone(),
        other => panic!("{other:?}"),
    };
    Some((compiled, matcher))
}

/// The line of the first key that `threshold` is given.
const FIRST: usize = 9;

fn says(compiled: &Compiled, code: &str) -> bool {
    compiled.warnings.iter().any(|warning| warning.code == code)
}

thread_local! {
    /// The plan's regexes, each compiled once.
    static REGEXES: RefCell<HashMap<String, Regex>> = RefCell::default();
}

fn found(regex: &str, text: &str) -> bool {
    REGEXES.with_borrow_mut(|compiled| {
        let new = || Regex::new(regex).expect("a plan's regex");
        compiled.entry(regex.to_owned()).or_insert_with(new).is_match(text)
    })
}

fn matches(pattern: &TargetPattern, kind: usize, (text, port): &(String, Option<u16>)) -> bool {
    match kind {
        0 => pattern.path.as_ref().is_some_and(|regex| found(regex, text)),
        1 => pattern.host.as_ref().is_some_and(|host| {
            let whole = port.is_some_and(|port| found(&host.regex, &format!("{text}:{port}")));
            host.on != HostPart::HostPort && found(&host.regex, text) || host.on != HostPart::Host && whole
        }),
        _ => pattern.other.as_ref().is_some_and(|regex| found(regex, text)),
    }
}

fn satisfies(matcher: &Matcher, kind: usize, target: &(String, Option<u16>)) -> bool {
    matcher.tests.iter().all(|test| match test {
        Test::Target(patterns) => patterns.iter().any(|pattern| matches(pattern, kind, target)),
        Test::NotTarget(patterns) => !patterns.iter().any(|pattern| matches(pattern, kind, target)),
        Test::TargetRegex(regex) => {
            let (text, port) = target;
            let whole = port.filter(|_| kind == 1).map(|port| format!("{text}:{port}"));
            found(regex, text) || whole.is_some_and(|whole| found(regex, &whole))
        }
        Test::Field(..) => true,
    })
}

/// Runs cases until the lint has spoken often enough for its silence to be no explanation.
fn run<S: Strategy>(strategy: &S, least: u32, judge: impl Fn(S::Value) -> Result<bool, TestCaseError>) {
    let spoken = Cell::new(0);
    let config = Config { cases: 3_000, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(strategy, |case| {
        spoken.set(spoken.get() + u32::from(judge(case)?));
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(spoken.get() >= least, "the lint spoke of {} cases only", spoken.get());
}

fn lists(name: &str, patterns: &[String]) -> String {
    format!("{name}: {}", json!(patterns))
}

#[test]
fn a_matcher_that_is_called_unsatisfiable_has_no_targets() {
    let patterns = || proptest::collection::vec(pattern(), 1..3);
    let regex = select(&[None, Some("a$"), Some("^/a/b$"), Some(":80$")][..]);
    let targets = proptest::collection::vec(target(), 40);
    run(&(0..4usize, patterns(), patterns(), pattern(), regex, targets), 200, |case| {
        let (kind, within, without, glob, regex, targets) = case;
        let types = KINDS.get(kind).copied().unwrap_or("any");
        let mut keys =
            vec![format!("event_type: {types}"), lists("target_in", &within), lists("target_not_in", &without)];
        match regex {
            Some(regex) => keys.push(format!("target_regex: {}", json!(regex))),
            None => keys.push(format!("target_glob: {}", json!(glob))),
        }
        let Some((compiled, matcher)) = threshold(&keys) else {
            return Ok(false);
        };
        if !says(&compiled, "W012") {
            return Ok(false);
        }
        // What the patterns name, too: random targets seldom are it.
        let named = within.iter().chain([&glob]).map(|text| (text.trim_end_matches(":80").to_owned(), Some(80)));
        for target in targets.into_iter().chain(named) {
            for kind in (0..KINDS.len()).filter(|&k| kind == k || kind == KINDS.len()) {
                prop_assert!(!satisfies(&matcher, kind, &target), "{keys:?} has {target:?}");
            }
        }
        Ok(true)
    });
}

#[test]
fn a_pattern_that_is_called_idle_changes_nothing_when_it_goes() {
    let patterns = proptest::collection::vec(pattern(), 2..5);
    let targets = proptest::collection::vec(target(), 40);
    run(&(0..4usize, patterns, targets), 300, |(kind, patterns, targets)| {
        let types = KINDS.get(kind).copied().unwrap_or("any");
        let mut keys = vec![format!("event_type: {types}"), "target_in:".to_owned()];
        keys.extend(patterns.iter().map(|pattern| format!("- {}", json!(pattern))));
        let Some((compiled, matcher)) = threshold(&keys) else {
            return Ok(false);
        };
        let [Test::Target(all)] = &matcher.tests[..] else {
            panic!("{matcher:?}");
        };
        let idle: Vec<_> = compiled.warnings.iter().filter(|warning| warning.code == "W014").collect();
        for warning in &idle {
            let index = warning.line as usize - FIRST - 2;
            let named = targets.iter().cloned().chain([(patterns[index].trim_end_matches(":80").to_owned(), Some(80))]);
            for target in named {
                for kind in (0..KINDS.len()).filter(|&k| kind == k || kind == KINDS.len()) {
                    let rest = all.iter().enumerate().filter(|(other, _)| *other != index);
                    let by_others = rest.into_iter().any(|(_, pattern)| matches(pattern, kind, &target));
                    prop_assert!(
                        by_others || !matches(&all[index], kind, &target),
                        "{patterns:?}: {index} of {target:?}"
                    );
                }
            }
        }
        Ok(!idle.is_empty())
    });
}

/// Whether a test of a field holds, by the definition of the language.
fn holds(test: &FieldTest, value: Option<&Value>) -> bool {
    match (test, value) {
        (FieldTest::All(tests), _) => tests.iter().all(|test| holds(test, value)),
        (FieldTest::Not(test), _) => !holds(test, value),
        (FieldTest::Exists(wanted), _) => value.is_some() == *wanted,
        (_, None) => false,
        (_, Some(Value::Array(elements))) => elements.iter().any(|element| operator(test, element)),
        (_, Some(value)) => operator(test, value),
    }
}

fn operator(test: &FieldTest, value: &Value) -> bool {
    let text = value.as_str();
    let number = value.as_f64();
    match test {
        FieldTest::In(values) => values.iter().any(|wanted| match wanted {
            Scalar::Bool(flag) => value.as_bool() == Some(*flag),
            Scalar::Number(wanted) => number == Some(wanted.0),
            Scalar::Text(wanted) => text == Some(wanted),
        }),
        FieldTest::Regex(regex) => text.is_some_and(|text| found(regex, text)),
        FieldTest::Contains(part) => text.is_some_and(|text| text.contains(part.as_str())),
        FieldTest::StartsWith(part) => text.is_some_and(|text| text.starts_with(part.as_str())),
        FieldTest::EndsWith(part) => text.is_some_and(|text| text.ends_with(part.as_str())),
        FieldTest::Gt(than) => number.is_some_and(|number| number > than.0),
        FieldTest::Gte(than) => number.is_some_and(|number| number >= than.0),
        FieldTest::Lt(than) => number.is_some_and(|number| number < than.0),
        FieldTest::Lte(than) => number.is_some_and(|number| number <= than.0),
        other => panic!("{other:?} isn't an operator of one value"),
    }
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        select(&["a", "ab", "abc", "b", "true", "1"][..]).prop_map(Value::from),
        (0..4).prop_map(Value::from),
        any::<bool>().prop_map(Value::from)
    ]
}

/// A mapping of operators, down to one `not`.
fn operators(depth: u32) -> BoxedStrategy<Value> {
    let text = || select(&["a", "ab", "b"][..]).prop_map(Value::from);
    let number = || (0..4).prop_map(Value::from);
    let values = proptest::collection::vec(scalar(), 1..4).prop_map(Value::from);
    let names = |names: &'static [&'static str]| select(names).prop_map(str::to_owned);
    let one = prop_oneof![
        3 => (names(&["eq"]), scalar()),
        3 => (names(&["in"]), values),
        3 => (names(&["contains", "starts_with", "ends_with", "regex"]), text()),
        4 => (names(&["gt", "gte", "lt", "lte"]), number()),
        1 => (names(&["exists"]), any::<bool>().prop_map(Value::from)),
    ]
    .boxed();
    let one = match depth {
        0 => one,
        _ => prop_oneof![3 => one, 2 => (names(&["not"]), operators(depth - 1))].boxed(),
    };
    proptest::collection::vec(one, 1..4).prop_map(|entries| Value::Object(entries.into_iter().collect())).boxed()
}

#[test]
fn a_test_of_a_field_that_is_called_impossible_is_passed_by_no_value() {
    let lists = proptest::collection::vec(scalar(), 0..4);
    let values = proptest::collection::vec((scalar(), lists), 30);
    let fields = select(&["result.allowed", "result.guard", "agent_id", "tenant_id", "context.x", "action.args.x"][..]);
    run(&(fields, operators(2), values), 300, |(field, operators, values)| {
        let Some((compiled, matcher)) = threshold(&["event_type: any".to_owned(), format!("{field}: {operators}")])
        else {
            return Ok(false);
        };
        let [Test::Field(_, test)] = &matcher.tests[..] else {
            panic!("{matcher:?}");
        };
        let Some(warning) = compiled.warnings.iter().find(|warning| warning.code == "W013") else {
            return Ok(false);
        };
        let but_lists = warning.message.starts_with("only a list passes");
        for (value, list) in values {
            let texts = || Some(Value::from(value.as_str().unwrap_or("a")));
            let possible = match field {
                "result.allowed" => vec![Some(json!(true)), Some(json!(false))],
                "result.guard" | "agent_id" => vec![texts()],
                "tenant_id" => vec![texts(), None],
                _ if but_lists => vec![Some(value), None],
                _ => vec![Some(value), Some(Value::from(list)), Some(json!({"a": 1})), None],
            };
            for value in possible {
                prop_assert!(!holds(test, value.as_ref()), "{operators} is passed by {value:?}");
            }
        }
        Ok(true)
    });
}
