//! What sound rules mean: defaults, normalisation, and how target patterns were read.

use std::sync::LazyLock;

use clawdstrike_rules::plan::{
    ActionKind, Condition, EventTypes, Field, FieldTest, HostPart, Matcher, Number, PatternForm, RuleSet, Scalar,
    Severity, TargetPattern, Test, TimeWindow,
};
use clawdstrike_rules::{MAX_CONDITIONS, MAX_FINDINGS, MAX_STEPS, SourceFile, compile, explain, schema};
use regex::Regex;

const MINUTE: i64 = 60_000_000;

static SCHEMA: LazyLock<jsonschema::Validator> =
    LazyLock::new(|| jsonschema::validator_for(&schema::rules()).expect("a schema"));

fn set(text: &str) -> RuleSet {
    let files = [SourceFile { name: "r.yaml".into(), text: text.into() }];
    let set = compile(&files).unwrap_or_else(|errors| panic!("{errors}")).set;
    for document in schema::documents(&files[0]).unwrap_or_else(|errors| panic!("{errors}")) {
        let wrong: Vec<_> = SCHEMA.iter_errors(&document).map(|error| error.to_string()).collect();
        assert!(wrong.is_empty(), "it compiles, but to an editor it is wrong: {wrong:?}\n{text}");
    }
    set
}

/// A set of one rule with one threshold, whose matcher has these keys.
fn matcher(keys: &str) -> Matcher {
    let set = set(&format!(
        "rules: [{{id: R, name: n, severity: low, conditions: [{{type: threshold, window: 1m, count: 1, {keys}}}]}}]"
    ));
    match &set.rules[0].conditions[0] {
        Condition::Threshold(threshold) => threshold.matcher.clone(),
        other => panic!("{other:?}"),
    }
}

fn patterns(keys: &str) -> Vec<TargetPattern> {
    match &matcher(keys).tests[0] {
        Test::Target(patterns) | Test::NotTarget(patterns) => patterns.clone(),
        other => panic!("{other:?}"),
    }
}

fn field_test(keys: &str) -> FieldTest {
    match &matcher(keys).tests[0] {
        Test::Field(_, test) => test.clone(),
        other => panic!("{other:?}"),
    }
}

fn hits(regex: &str, text: &str) -> bool {
    Regex::new(regex).expect("a good regex").is_match(text)
}

fn path_hits(keys: &str, path: &str) -> bool {
    patterns(keys).iter().any(|pattern| pattern.path.as_ref().is_some_and(|regex| hits(regex, path)))
}

/// Whether a pattern sees this host, with or without a port, as SPEC §4 has it.
fn host_hits(keys: &str, host: &str, port: Option<u16>) -> bool {
    patterns(keys).iter().any(|pattern| {
        let Some(reading) = &pattern.host else {
            return false;
        };
        let whole =
            port.map(|port| if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") });
        let on_port = whole.is_some_and(|whole| hits(&reading.regex, &whole));
        match reading.on {
            HostPart::Host => hits(&reading.regex, host),
            HostPart::HostPort => on_port,
            HostPart::Either => on_port || hits(&reading.regex, host),
        }
    })
}

fn text_hits(keys: &str, text: &str) -> bool {
    patterns(keys).iter().any(|pattern| pattern.other.as_ref().is_some_and(|regex| hits(regex, text)))
}

#[test]
fn a_rule_without_options_has_the_defaults() {
    let set = set("rules:\n- {id: R, name: n, severity: medium, conditions: [\
        {type: threshold, window: 1m, event_type: any, count: '> 5'}, {type: absence, window: 2h, trigger: {event_type: any}, absent: {event_type: mcp_tool}}]}");
    let rule = &set.rules[0];
    let path = |name: &str| Field::Path(vec![name.to_owned()]);
    assert_eq!(rule.by, [path("agent_id"), path("session_id")]);
    assert_eq!(rule.severity, Severity::Medium);
    assert_eq!(rule.suppress_for, 120 * MINUTE, "the longest window");
    assert!(rule.actions.is_empty() && !rule.shadow && !rule.backfill_actions);
    assert_eq!((rule.origin.file.as_str(), rule.origin.line), ("r.yaml", 2));
    match &rule.conditions[0] {
        Condition::Threshold(threshold) => {
            assert_eq!(threshold.count, Some(6), "'> 5' is at least 6")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_kind_of_condition_is_read_as_written() {
    let set = set(r#"
rules:
  - id: R
    name: n
    severity: low
    suppress_for: 0s
    by: [tenant_id, target, context.tool, extra.region]
    conditions:
      - {type: sequence, window: 5m, events: [{event_type: file_access, target_glob: "/a/**"}, {event_type: any, count: ">= 2", without: {event_type: mcp_tool}}], until: {event_type: patch_apply}}
      - {type: threshold, window: 1m, event_type: file_access, count: "> 100", unique_targets: "> 50", distinct: {field: result.guard, op: ">= 3"}}
      - {type: pattern, window: 30m, all_of: [{event_type: file_access}, {event_type: shell_command}]}
      - {type: pattern, window: 30m, any_of: {at_least: 2, matchers: [{event_type: file_write}, {event_type: shell_command}, {event_type: mcp_tool}]}}
      - {type: absence, window: 10m, trigger: {event_type: shell_command}, absent: {event_type: mcp_tool, context.kind: heartbeat}}
      - {type: new_value, window: 7d, event_type: network_egress, field: target, learn: 1d}
"#);
    let rule = &set.rules[0];
    assert_eq!(rule.suppress_for, 0);
    let path = |parts: &[&str]| Field::Path(parts.iter().map(|&part| part.to_owned()).collect());
    assert_eq!(rule.by, [path(&["tenant_id"]), Field::Target, path(&["context", "tool"]), path(&["region"])]);
    match &rule.conditions[..] {
        [
            Condition::Sequence(sequence),
            Condition::Threshold(threshold),
            Condition::Pattern(all),
            Condition::Pattern(any),
            Condition::Absence(absence),
            Condition::NewValue(new_value),
        ] => {
            assert_eq!(sequence.window, 5 * MINUTE);
            assert_eq!(sequence.steps.iter().map(|step| step.count).collect::<Vec<_>>(), [1, 2]);
            assert!(
                sequence.steps[0].without.is_none() && sequence.steps[1].without.is_some() && sequence.until.is_some()
            );
            assert_eq!((threshold.count, threshold.unique_targets), (Some(101), Some(51)));
            assert_eq!(
                threshold.distinct.as_ref().map(|d| (d.field.clone(), d.at_least)),
                Some((path(&["result", "guard"]), 3))
            );
            assert_eq!((all.at_least, any.at_least, any.matchers.len()), (2, 2, 3));
            assert_eq!(absence.absent.tests.len(), 1);
            assert_eq!((new_value.field.clone(), new_value.learn), (Field::Target, 24 * 60 * MINUTE));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn event_types_are_one_a_list_or_any() {
    assert_eq!(matcher("event_type: network_egress").event_types, EventTypes(0b100));
    assert_eq!(matcher("event_type: [file_access, prompt_injection_attempt]").event_types, EventTypes(0b100_0001));
    assert_eq!(matcher("event_type: any").event_types, EventTypes::ANY);
    assert_eq!(matcher("context.x: 1").event_types, EventTypes::ANY);
}

#[test]
fn plain_scalars_are_those_of_yaml_1_2() {
    let text = |text: &str| FieldTest::In(vec![Scalar::Text(text.into())]);
    let number = |number| FieldTest::In(vec![Scalar::Number(Number(number))]);
    assert_eq!(field_test("context.x: no"), text("no"));
    assert_eq!(field_test("context.x: 17:00"), text("17:00"));
    assert_eq!(field_test("context.x: 0777"), number(777.0));
    assert_eq!(field_test("context.x: 0o777"), number(511.0));
    assert_eq!(field_test("context.x: '5'"), text("5"));
    assert_eq!(field_test("context.x: !!str 5"), text("5"));
    assert_eq!(field_test("context.x: -0"), number(0.0));
    assert_eq!(field_test("context.x: True"), FieldTest::In(vec![Scalar::Bool(true)]));
}

#[test]
fn operators_are_read_and_ordered() {
    assert_eq!(
        field_test("context.x: {lte: 200, gt: 100}"),
        FieldTest::All(vec![FieldTest::Gt(Number(100.0)), FieldTest::Lte(Number(200.0))])
    );
    assert_eq!(field_test("context.x: {not: [b, a]}"), field_test("context.x: {not: {in: [a, b, a]}}"));
    assert_eq!(field_test("context.x: {exists: false}"), FieldTest::Exists(false));
    match field_test("context.x: {regex: a.b$}") {
        FieldTest::Regex(regex) => assert!(hits(&regex, "x a\nb") && !hits(&regex, "a.b\n")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn severities_of_events_are_compared_without_regard_to_case() {
    assert_eq!(field_test("result.severity: High"), field_test("result.severity: high"));
    assert_eq!(
        field_test("result.severity: {not: {starts_with: CRIT}}"),
        field_test("result.severity: {not: {starts_with: crit}}")
    );
    match field_test("result.severity: {regex: '^H\\D+$'}") {
        FieldTest::Regex(regex) => assert!(hits(&regex, "high")),
        other => panic!("{other:?}"),
    }
    assert_ne!(field_test("result.guard: High"), field_test("result.guard: high"));
}

#[test]
fn equal_matchers_are_equal_plans_however_they_are_written() {
    assert_eq!(
        matcher("event_type: file_access, context.a: 1, context.b: [y, x], target_in: [/a]"),
        matcher("target_glob: /a, context.b: {in: [x, y]}, context.a: {eq: 1.0}, event_type: [file_access]")
    );
}

#[test]
fn a_target_pattern_mixes_globs_and_regexes() {
    let keys = "event_type: any, target_pattern: '.*/id_(rsa|dsa)|(/a|/b)/c|/k/**|/q/.+$'";
    let forms: Vec<_> = patterns(keys).iter().map(|pattern| pattern.form).collect();
    assert_eq!(forms, [PatternForm::Regex, PatternForm::Regex, PatternForm::Glob, PatternForm::Regex]);
    for path in ["/x/id_rsa", "/b/c", "/k/x/y", "/q/x"] {
        assert!(path_hits(keys, path), "{path}");
    }
    for path in ["/x/id_rsa.pub", "/x/a/c", "/k", "/z/q/x"] {
        assert!(!path_hits(keys, path), "{path}");
    }
    let shell = "event_type: shell_command, target_pattern: '.*whoami.*|.*ip addr.*|*netcat*|^ls$'";
    for text in ["whoami", "x\nwhoami\ny", "sudo ip addr show", "a/netcat\n-l", "ls"] {
        assert!(text_hits(shell, text), "{text}");
    }
    assert!(!text_hits(shell, "ls\n") && !text_hits(shell, "netca"));
}

#[test]
fn host_patterns_respect_labels_ports_and_addresses() {
    let keys = r#"event_type: network_egress, target_in: ["*.openai.com", "api.github.com", "evil.io:22", '\[::1\]:22', "10.0.0.1:*", "[fe80::1]"]"#;
    for (host, port) in [
        ("api.openai.com", Some(443)),
        ("a.b.openai.com", None),
        ("api.github.com", Some(1)),
        ("evil.io", Some(22)),
        ("::1", Some(22)),
        ("10.0.0.1", Some(9)),
        ("fe80::1", Some(80)),
    ] {
        assert!(host_hits(keys, host, port), "{host} {port:?}");
    }
    for (host, port) in [
        ("openai.com", Some(443)),
        ("evil-openai.com", None),
        ("api.openai.com.evil.io", None),
        ("evil.io", None),
        ("evil.io", Some(2222)),
        ("::1", Some(23)),
        ("10.0.0.1", None),
        ("xapi.github.com", None),
    ] {
        assert!(!host_hits(keys, host, port), "{host} {port:?}");
    }
    let regex = r"event_type: network_egress, target_pattern: '^evil\.io(:2\d+)?$'";
    assert!(
        host_hits(regex, "evil.io", None)
            && host_hits(regex, "evil.io", Some(443))
            && !host_hits(regex, "xevil.io", None)
    );
}

#[test]
fn aliases_stand_for_what_they_name() {
    let aliased = set(
        "rules:\n- {id: R, name: n, severity: low, conditions: [{type: pattern, window: 1m, all_of: [&m {event_type: any, context.x: 1}, *m]}]}",
    );
    match &aliased.rules[0].conditions[0] {
        Condition::Pattern(pattern) => assert_eq!(pattern.matchers[0], pattern.matchers[1]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn actions_carry_their_parameters() {
    let set = set(
        "rules: [{id: R, name: n, severity: low, conditions: [{type: threshold, window: 1m, event_type: any, count: 1}], actions: [\
        terminate_session, {quarantine_agent: {duration: 1h, requires_approval: true}}, rate_limit: {requests_per_minute: 10}, alert: , \
        update_policy: {policy_patch: {a: [1, 1.5, x, null]}}]}]",
    );
    let actions = serde_json::to_value(&set.rules[0].actions).expect("JSON");
    assert_eq!(set.rules[0].actions[1].kind, ActionKind::QuarantineAgent);
    assert_eq!(
        actions,
        serde_json::json!([
            {"kind": "terminate_session", "params": {}},
            {"kind": "quarantine_agent", "params": {"duration": "1h", "requires_approval": true}},
            {"kind": "rate_limit", "params": {"requests_per_minute": 10}},
            {"kind": "alert", "params": {}},
            {"kind": "update_policy", "params": {"policy_patch": {"a": [1, 1.5, "x", null]}}},
        ])
    );
}

#[test]
fn an_allowlist_entry_says_who_what_when_and_for_which_rules() {
    let set = set(r#"
allowlist:
  - {agent_pattern: "ci-*[0-9]", event_types: [file_access], target_patterns: ["**/known_hosts|.*x"], time_window: business_hours}
  - {rules: [A, B], time_window: {days: [sun, mon], from: 22:00, to: 6:00, tz: europe/berlin}, expires: 2024-05-07, reason: night shift}
  - {target_patterns: "/a", event_types: any, expires: "2024-05-07 02:00:00.000001+02:00", time_window: {from: "00:00", to: "24:00", tz: UTC}}
"#);
    let [first, second, third] = &set.allowlist[..] else { panic!("{set:?}") };
    let agent = first.agent.as_ref().expect("a pattern");
    assert!(hits(agent, "ci-a/b\nc7") && !hits(agent, "xci-7") && !hits(agent, "ci-x"));
    assert_eq!(first.targets.len(), 2);
    assert_eq!(first.times, Some(TimeWindow { days: 0b1_1111, from: 540, to: 1020, zone: None }));
    let berlin = Some("Europe/Berlin".to_owned());
    assert_eq!(second.times, Some(TimeWindow { days: 0b100_0001, from: 1320, to: 360, zone: berlin }));
    assert_eq!(second.expires, Some(1_715_040_000_000_000));
    assert_eq!((second.event_types, second.origin.line), (EventTypes::ANY, 4));
    assert_eq!(third.expires, Some(1_715_040_000_000_001));
    assert_eq!(third.times, Some(TimeWindow { days: 0b111_1111, from: 0, to: 1440, zone: Some("UTC".to_owned()) }));
}

#[test]
fn disabled_rules_are_checked_but_left_out() {
    let rule = |window: &str| {
        format!(
            "rules: [{{id: R, name: n, severity: low, enabled: false, conditions: [{{type: threshold, window: {window}, event_type: any, count: 1}}]}}]"
        )
    };
    assert!(set(&rule("1m")).rules.is_empty());
    let files = [SourceFile { name: "r.yaml".into(), text: rule("0s") }];
    assert!(compile(&files).is_err());
}

#[test]
fn a_version_changes_with_what_a_rule_says_and_with_nothing_else() {
    let version = |text: &str| set(text).rules[0].version.clone();
    let rule = |lead: &str, keys: &str| {
        format!(
            "{lead}rules: [{{id: R, name: n, severity: low, {keys}conditions: [{{type: threshold, window: 60s, event_type: any, count: '> 1'}}]}}]"
        )
    };
    let plain = version(&rule("", ""));
    assert_eq!(plain.len(), 64);
    assert_eq!(plain, version(&rule("# a comment\n\n", "suppress_for: 1m, shadow: false, ")));
    assert_ne!(plain, version(&rule("", "shadow: true, ")));
    assert_ne!(plain, version(&rule("", "suppress_for: 2m, ")));
}

#[test]
fn findings_beyond_a_thousand_are_counted_as_one() {
    let file = |text: String| [SourceFile { name: "r.yaml".into(), text }];
    let text = format!("rules: [{}]", "1, ".repeat(MAX_FINDINGS + 7));
    let errors = compile(&file(text)).expect_err("numbers are no rules").errors;
    assert_eq!((errors.len(), errors[MAX_FINDINGS].code), (MAX_FINDINGS + 1, "E006"));
    let steps = "{}, ".repeat(MAX_STEPS);
    let conditions = format!("{{type: sequence, window: 1m, events: [{steps}]}}, ").repeat(MAX_CONDITIONS);
    let text = format!("rules: [{{id: R, name: n, severity: low, conditions: [{conditions}]}}]");
    let warnings = compile(&file(text)).expect("sound").warnings;
    assert_eq!((warnings.len(), warnings[MAX_FINDINGS].code), (MAX_FINDINGS + 1, "W011"));
}

#[test]
fn a_plan_survives_json() {
    let set = set(include_str!("../../rules/ai-threats.yaml"));
    let json = serde_json::to_string(&set).expect("JSON");
    assert_eq!(serde_json::from_str::<RuleSet>(&json).expect("a plan"), set);
}

#[test]
fn the_shipped_rules_compile_without_a_warning() {
    let files = [
        SourceFile { name: "ai-threats.yaml".into(), text: include_str!("../../rules/ai-threats.yaml").into() },
        SourceFile { name: "allowlist.yaml".into(), text: include_str!("../../rules/allowlist.yaml").into() },
    ];
    let compiled = compile(&files).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(compiled.warnings, []);
    let ids: Vec<_> = compiled.set.rules.iter().map(|rule| rule.id.as_str()).collect();
    assert_eq!(
        ids,
        ["CREDENTIAL_EXFILTRATION", "LATERAL_MOVEMENT_PREP", "PROMPT_INJECTION_CHAIN", "RAPID_FILE_ENUMERATION"]
    );
    assert_eq!(compiled.set.allowlist.len(), 1);
}

#[test]
fn explain_tells_how_patterns_were_read_and_how_much_is_kept() {
    let text = explain(&set(include_str!("../../rules/ai-threats.yaml"))).to_string();
    for part in [
        "pattern **/.ssh/** is a glob",
        "pattern .*ip addr.* is a regex",
        "host: (?s)^(?:[^.]+\\.)+openai\\.com$",
        "suppress_for  5m",
        "group         agent_id, session_id (and tenant_id)",
        "step 2: 3 times any event, result.allowed = false",
        "kept for 30m",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

#[test]
fn an_error_at_the_end_of_a_file_points_into_it() {
    for text in ["rules: []\nallow", "rules: [", "rules: []\r\nallow", "rules: \"x", "a: b\rc"] {
        let files = [SourceFile { name: "r.yaml".into(), text: text.into() }];
        let errors = compile(&files).expect_err(text).errors;
        let lines = text.replace("\r\n", "\n").matches(['\n', '\r']).count() as u32 + 1;
        assert!(errors.iter().all(|error| error.line <= lines), "{text:?}: {errors:?}");
    }
}

/// Three rules: two with the session's groups, one by agent; all share a predicate, however it is written.
const SHARING: &str = "rules:
- {id: A, name: n, severity: low, conditions: [{type: sequence, window: 5m, events: [
    {event_type: file_access, target_in: [/a]}, {event_type: any, count: 2, without: {event_type: mcp_tool}}], until: {event_type: patch_apply}}]}
- {id: B, name: n, severity: low, by: [agent_id], conditions: [{type: threshold, window: 1m, count: 5, target_glob: /a, event_type: [file_access]}]}
- {id: C, name: n, severity: low, conditions: [
    {type: absence, window: 1m, trigger: {event_type: file_access, target_glob: [/a]}, absent: {event_type: mcp_tool}},
    {type: pattern, window: 1m, all_of: [{event_type: shell_command}, {event_type: file_access, target_glob: /a}]}]}
";

#[test]
fn explain_tells_what_rules_share() {
    let explanation = explain(&set(SHARING));
    let uses = |rule: usize, condition: usize| -> Vec<(&str, usize)> {
        let condition = &explanation.rules[rule].conditions[condition];
        condition.predicates.iter().map(|part| (part.part.as_str(), part.predicate)).collect()
    };
    assert_eq!(uses(0, 0), [("step 1", 1), ("step 2", 2), ("without of step 2", 3), ("until", 4)]);
    assert_eq!(uses(1, 0), [("events", 1)]);
    assert_eq!(uses(2, 0), [("trigger", 1), ("absent", 3)]);
    assert_eq!(uses(2, 1), [("matcher 1", 5), ("matcher 2", 1)]);
    let users: Vec<_> = explanation.predicates.iter().map(|p| (p.number, p.rules.join(" "))).collect();
    let expected = [(1, "A B C"), (2, "A"), (3, "A C"), (4, "A"), (5, "C")];
    assert_eq!(users, expected.map(|(number, rules)| (number, rules.to_owned())));
    let groups: Vec<_> = explanation.groups.iter().map(|g| (g.number, g.session, g.rules.join(" "))).collect();
    assert_eq!(groups, [(0, true, "A C".to_owned()), (1, false, "B".to_owned())]);
    assert_eq!(
        (explanation.groups[0].by.join(" "), explanation.groups[1].by.join(" ")),
        ("agent_id session_id".into(), "agent_id".into())
    );
    let operators: Vec<_> =
        explanation.rules.iter().flat_map(|rule| &rule.conditions).map(|c| (c.operator, c.group)).collect();
    assert_eq!(operators, [("sequence", 0), ("threshold", 1), ("absence", 0), ("pattern", 0)]);
}

#[test]
fn explain_of_one_rule_names_what_it_shares_with_those_left_out() {
    let mut explanation = explain(&set(SHARING));
    assert!(explanation.only("B"));
    assert_eq!((explanation.rules.len(), explanation.predicates.len(), explanation.groups.len()), (1, 1, 1));
    let text = explanation.to_string();
    for part in [
        "runs as threshold in groups of its own `by` list, shared with no other rule",
        "events is predicate 1, shared with A, C\n",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert!(!explain(&set(SHARING)).only("NONE"));
    let many: String = (0..9)
        .map(|n| format!("- {{id: R{n}, name: n, severity: low, conditions: [{{type: threshold, window: 1m, count: 2, event_type: any}}]}}\n"))
        .collect();
    let mut explanation = explain(&set(&format!("rules:\n{many}")));
    assert!(explanation.only("R4"));
    let text = explanation.to_string();
    for part in [
        "runs as threshold in the session's groups, shared with R0, R1, R2, R3, R5 and 3 more",
        "events is predicate 1, shared with R0, R1, R2, R3, R5 and 3 more",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}
