//! One test for each definition of what a rule makes of its conditions: groups, several conditions, suppression,
//! allowlist, field values.

use crate::support::{BASE, Record, alerts, at, file, outcome, rule, set};
use serde_json::json;

const NONE: [&str; 0] = [];
const EACH: &str = ", suppress_for: 0s";

#[test]
fn a_rule_of_several_conditions_needs_each_within_its_own_window() {
    let both = "{type: threshold, window: 10s, event_type: file_access, count: 1}, {type: threshold, window: 3s, event_type: mcp_tool, count: 1}";
    let set = rule(both, EACH);
    // The later match asks for the other condition's window: 10 s back to a file access, 3 s back to a tool call.
    assert_eq!(alerts(&set, &[at(0, "a", "file_access"), at(10_000, "m", "mcp_tool")]), ["R 10000-10000 x1: a/1 m/1"]);
    assert_eq!(alerts(&set, &[at(0, "a", "file_access"), at(10_001, "m", "mcp_tool")]), NONE);
    assert_eq!(alerts(&set, &[at(0, "m", "mcp_tool"), at(3000, "a", "file_access")]), ["R 3000-3000 x1: m/1 a/1"]);
    assert_eq!(alerts(&set, &[at(0, "m", "mcp_tool"), at(3001, "a", "file_access")]), NONE);
}

#[test]
fn the_evidence_of_several_conditions_is_the_union_with_the_latest_match_of_each_other() {
    let set = rule(
        "{type: sequence, window: 10s, events: [{event_type: file_access}, {event_type: shell_command}]}, {type: threshold, window: 10s, event_type: mcp_tool, count: 1}",
        EACH,
    );
    let stream =
        [at(0, "m1", "mcp_tool"), at(1, "a", "file_access"), at(2, "m2", "mcp_tool"), at(3, "b", "shell_command")];
    // The threshold's evidence is its whole window; an event that both conditions use stands once.
    assert_eq!(alerts(&set, &stream), ["R 3-3 x1: m1/1 a/1 m2/1 b/2"]);
}

#[test]
fn conditions_that_match_at_one_event_are_one_match() {
    let set = rule(
        "{type: threshold, window: 10s, event_type: mcp_tool, count: 1}, {type: pattern, window: 10s, all_of: [{event_type: file_access}, {event_type: mcp_tool}]}",
        "",
    );
    let stream = [at(0, "a", "file_access"), at(1, "m", "mcp_tool"), at(2, "n", "mcp_tool")];
    assert_eq!(alerts(&set, &stream), ["R 1-2 x2: a/1 m/1"]);
}

#[test]
fn suppression_chains_from_match_to_match_without_a_greatest_length() {
    let each = "{type: threshold, window: 2s, event_type: mcp_tool, count: 1}";
    let stream: Vec<_> = [0, 2000, 4000, 6001, 6001]
        .iter()
        .enumerate()
        .map(|(i, millis)| at(*millis, &format!("{i}"), "mcp_tool"))
        .collect();
    assert_eq!(alerts(&rule(each, ""), &stream), ["R 0-4000 x3: 0/1", "R 6001-6001 x2: 3/1"]);
    // 0 s joins only what is of one time.
    assert_eq!(alerts(&rule(each, EACH), &stream).len(), 4);
}

#[test]
fn groups_compare_as_json_and_never_join_tenants() {
    let by_n = rule("{type: threshold, window: 1m, event_type: mcp_tool, count: 2}", ", by: [context.n]");
    let with = |millis, id, value| at(millis, id, "mcp_tool").set("context.n", value);
    let equal = [with(0, "a", json!(1)), with(1, "b", json!(1.0)), with(2, "c", json!("1")), with(3, "d", json!(true))];
    let found = outcome(&by_n, &[file(&equal)]).alerts;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].group, [("context.n".to_owned(), json!(1))]);
    // Absent, null, list and object take no part.
    for value in [json!(null), json!([1]), json!({"x": 1})] {
        assert_eq!(alerts(&by_n, &[with(0, "a", value.clone()), with(1, "b", value)]), NONE);
    }
    let tenant = |record: Record| record.set("tenant_id", "t");
    assert_eq!(alerts(&by_n, &[with(0, "a", json!(1)), tenant(with(1, "b", json!(1)))]), NONE);

    let by_tenant =
        rule("{type: threshold, window: 1m, event_type: mcp_tool, count: 2}", ", by: [tenant_id, extra.zone]");
    let zoned = |millis, id| at(millis, id, "mcp_tool").set("zone", "eu");
    let found = outcome(&by_tenant, &[file(&[zoned(0, "a"), zoned(1, "b")])]).alerts;
    assert_eq!(found[0].group, [("tenant_id".to_owned(), json!("")), ("extra.zone".to_owned(), json!("eu"))]);
}

#[test]
fn an_allowlisted_event_fills_nothing_but_still_prevents() {
    let list = "allowlist: [{target_patterns: [ok]}]";
    let rules = |condition: &str| {
        set(&format!("rules: [{{id: R, name: n, severity: low, suppress_for: 0s, conditions: [{condition}]}}]\n{list}"))
    };
    let ok = |record: Record| record.target("ok");

    let count = rules("{type: threshold, window: 1m, event_type: mcp_tool, count: 2}");
    assert_eq!(alerts(&count, &[at(0, "a", "mcp_tool"), ok(at(1, "b", "mcp_tool"))]), NONE);

    let without = rules(
        "{type: sequence, window: 1m, events: [{event_type: file_write}, {event_type: shell_command, without: {event_type: mcp_tool}}]}",
    );
    let stream = |between: Record| [at(0, "a", "file_write"), between, at(2, "c", "shell_command")];
    assert_eq!(alerts(&without, &stream(ok(at(1, "b", "mcp_tool")))), NONE);
    assert_eq!(alerts(&without, &stream(ok(at(1, "b", "prompt_injection_attempt")))).len(), 1);
    assert_eq!(alerts(&without, &[at(0, "a", "file_write"), ok(at(1, "c", "shell_command"))]), NONE);

    let absence =
        rules("{type: absence, window: 1s, trigger: {event_type: shell_command}, absent: {event_type: mcp_tool}}");
    let end = || at(5000, "z", "patch_apply");
    assert_eq!(alerts(&absence, &[at(0, "t", "shell_command"), ok(at(1, "m", "mcp_tool")), end()]), NONE);
    assert_eq!(alerts(&absence, &[ok(at(0, "t", "shell_command")), end()]), NONE);

    let new = rules("{type: new_value, window: 1m, event_type: mcp_tool, field: context.k, learn: 1s}");
    let call = |millis, id, value: &str| at(millis, id, "mcp_tool").set("context.k", value);
    assert_eq!(alerts(&new, &[call(0, "a", "x"), ok(call(1, "b", "y")), call(2000, "c", "y")]), NONE);
    // What is allowlisted is no history.
    assert_eq!(alerts(&new, &[ok(call(0, "a", "x")), call(2000, "c", "y")]), NONE);
    assert_eq!(alerts(&new, &[call(0, "a", "x"), call(2000, "c", "y")]), ["R 2000-2000 x1: c/1"]);
}

/// Whether a tool call of agent `ag1` at so many minutes after Monday 10:00 UTC escapes the entry.
fn fires(entry: &str, minutes: i64) -> bool {
    let rules = "rules: [{id: R, name: n, severity: low, conditions: [{type: threshold, window: 1s, event_type: mcp_tool, count: 1}]}]";
    let set = set(&format!("{rules}\nallowlist: [{entry}]"));
    !alerts(&set, &[at(minutes * 60_000, "a", "mcp_tool")]).is_empty()
}

#[test]
fn all_keys_of_an_allowlist_entry_must_hold() {
    assert!(!fires("{agent_pattern: 'ag*'}", 0));
    assert!(fires("{agent_pattern: 'g*'}", 0));
    assert!(fires("{agent_pattern: 'ag*', event_types: [file_access]}", 0));
    assert!(fires("{agent_pattern: 'ag*', target_patterns: [other]}", 0));
    assert!(!fires("{agent_pattern: 'ag*', target_patterns: [other, 't|x']}", 0));
    assert!(!fires("{rules: [R]}", 0));
    assert!(fires("{agent_pattern: 'ag*', rules: [S]}", 0));
}

#[test]
fn time_windows_and_expiry_are_half_open() {
    let hours = "{agent_pattern: '*', time_window: business_hours}";
    assert_eq!([-61, -60, 419, 420].map(|minutes| fires(hours, minutes)), [true, false, false, true]);
    // Saturday noon.
    assert!(fires(hours, 5 * 1440 + 120));
    let expires = "{agent_pattern: '*', expires: 2024-05-07}";
    assert_eq!([14 * 60 - 1, 14 * 60].map(|minutes| fires(expires, minutes)), [false, true]);
}

#[test]
fn a_window_past_midnight_belongs_to_its_starting_day_in_its_zone() {
    let night = "{agent_pattern: '*', time_window: {days: [mon], from: '22:00', to: '02:00', tz: UTC}}";
    // Monday 22:00 is 12 hours on, Tuesday 02:00 is 16; Monday 01:00 belongs to Sunday's window.
    assert_eq!([719, 720, 959, 960, -9 * 60].map(|m| fires(night, m)), [true, false, false, true, true]);
    // Monday 12:00 in Berlin is 10:00 UTC in summer.
    let berlin = "{agent_pattern: '*', time_window: {days: [mon], from: '12:00', to: '13:00', tz: Europe/Berlin}}";
    assert_eq!([-1, 0, 59, 60].map(|m| fires(berlin, m)), [true, false, false, true]);
}

#[test]
fn fields_hold_for_one_element_and_not_is_the_exact_opposite() {
    let holds = |test: &str, value: serde_json::Value| {
        let set = rule(&format!("{{type: threshold, window: 1s, count: 1, context.f: {test}}}"), "");
        !alerts(&set, &[at(0, "a", "mcp_tool").set("context.f", value)]).is_empty()
    };
    assert!(holds("1", json!(1.0)) && holds("1", json!([5, 1])) && !holds("1", json!("1")));
    assert!(!holds("1", json!([[1]])) && !holds("x", json!("X")));
    assert!(holds("{gt: 3, lt: 2}", json!([1, 4])) && !holds("{gt: 3, lt: 2}", json!(1)));
    assert!(holds("{not: 1}", json!(null)) && !holds("{not: 1}", json!([2, 1])));
    assert!(holds("{exists: true}", json!([])) && holds("{exists: false}", json!(null)));
    assert!(holds("{not: {contains: a}}", json!(7)) && !holds("{contains: a}", json!(7)));
    assert!(holds("{regex: 'b.$'}", json!("ab\n")));
}

#[test]
fn defaults_of_the_contract_are_values() {
    let fires = |test: &str| {
        !alerts(&rule(&format!("{{type: threshold, window: 1s, count: 1, {test}}}"), ""), &[at(0, "a", "mcp_tool")])
            .is_empty()
    };
    assert!(fires("result.guard: ''") && fires("context: {exists: true}") && fires("tenant_id: {exists: false}"));
    assert!(!fires("context.x: {exists: true}") && !fires("action.args: {exists: true}"));
}

#[test]
fn alerts_are_sorted_and_name_the_ending_event_s_session() {
    let set = rule("{type: threshold, window: 1m, event_type: mcp_tool, count: 2}", ", by: [agent_id]");
    let other = |record: Record| record.set("agent_id", "ag0");
    let stream = [
        at(0, "a", "mcp_tool"),
        at(1, "b", "mcp_tool").set("session_id", "s9"),
        other(at(0, "c", "mcp_tool")),
        other(at(1, "d", "mcp_tool")),
    ];
    let found = outcome(&set, &[file(&stream)]).alerts;
    let shown: Vec<_> =
        found.iter().map(|a| (a.agent_id.as_str(), a.session_id.as_str(), a.first_seen - BASE)).collect();
    assert_eq!(shown, [("ag0", "s1", 1000), ("ag1", "s9", 1000)]);
}
