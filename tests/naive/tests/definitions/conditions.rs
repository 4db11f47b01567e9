//! One test for each definition of a condition.

use crate::support::{alerts, at, at_micros, rule};

const NONE: [&str; 0] = [];
/// Every match is an alert.
const EACH: &str = ", suppress_for: 0s";

#[test]
fn windows_are_closed_to_the_microsecond() {
    let set =
        rule("{type: sequence, window: 5s, events: [{event_type: file_access}, {event_type: network_egress}]}", "");
    let first = || at(0, "a", "file_access");
    assert_eq!(alerts(&set, &[first(), at_micros(5_000_000, "b", "network_egress")]), ["R 5000-5000 x1: a/1 b/2"]);
    assert_eq!(alerts(&set, &[first(), at_micros(5_000_001, "b", "network_egress")]), NONE);
}

#[test]
fn a_sequence_takes_exactly_k_events_for_a_step() {
    let set = rule(
        "{type: sequence, window: 1m, events: [{event_type: file_access, count: '> 1'}, {event_type: any, count: 2}]}",
        EACH,
    );
    let stream = [
        at(0, "a", "file_access"),
        at(1, "b", "file_access"),
        at(2, "c", "file_access"),
        at(3, "d", "mcp_tool"),
        at(4, "e", "mcp_tool"),
    ];
    assert_eq!(alerts(&set, &stream), ["R 3-3 x1: a/1 b/1 c/2 d/2", "R 4-4 x1: b/1 c/1 d/2 e/2"]);
}

#[test]
fn a_sequence_of_one_step_counts() {
    let set = rule("{type: sequence, window: 1s, events: [{event_type: mcp_tool, count: 2}]}", EACH);
    let stream = [at(0, "a", "mcp_tool"), at(1000, "b", "mcp_tool"), at_micros(2_000_001, "c", "mcp_tool")];
    assert_eq!(alerts(&set, &stream), ["R 1000-1000 x1: a/1 b/1"]);
}

#[test]
fn the_latest_first_event_is_chosen_and_then_the_latest_second() {
    let set = rule(
        "{type: sequence, window: 1m, events: [{event_type: file_access}, {event_type: shell_command}, {event_type: network_egress}]}",
        "",
    );
    let stream = [
        at(0, "a1", "file_access"),
        at(1, "b1", "shell_command"),
        at(2, "a2", "file_access"),
        at(3, "b2", "shell_command"),
        at(4, "b3", "shell_command"),
        at(5, "a3", "file_access"),
        at(6, "c", "network_egress"),
    ];
    assert_eq!(alerts(&set, &stream), ["R 6-6 x1: a2/1 b3/2 c/3"]);
}

#[test]
fn without_looks_strictly_between_two_steps() {
    let set = rule(
        "{type: sequence, window: 1m, events: [{event_type: file_access}, {event_type: any, result.allowed: false, without: {event_type: mcp_tool}}]}",
        EACH,
    );
    let inside = [at(0, "a", "file_access"), at(1, "m", "mcp_tool"), at(2, "z", "shell_command").denied()];
    assert_eq!(alerts(&set, &inside), NONE);
    // The ends themselves may be such events, and an earlier first event gives way to a later one.
    let at_the_end = [at(0, "a", "file_access"), at(1, "m", "mcp_tool").denied()];
    assert_eq!(alerts(&set, &at_the_end), ["R 1-1 x1: a/1 m/2"]);
    let again = [
        at(0, "a", "file_access"),
        at(1, "m", "mcp_tool"),
        at(2, "b", "file_access"),
        at(3, "z", "patch_apply").denied(),
    ];
    assert_eq!(alerts(&set, &again), ["R 3-3 x1: b/1 z/2"]);
}

#[test]
fn without_does_not_look_inside_a_step() {
    let set = rule(
        "{type: sequence, window: 1m, events: [{event_type: file_access}, {event_type: shell_command, count: 2, without: {event_type: mcp_tool}}]}",
        "",
    );
    let stream =
        [at(0, "a", "file_access"), at(1, "b", "shell_command"), at(2, "m", "mcp_tool"), at(3, "c", "shell_command")];
    assert_eq!(alerts(&set, &stream), ["R 3-3 x1: a/1 b/2 c/2"]);
}

#[test]
fn until_looks_strictly_between_the_first_and_the_last_event() {
    let set = rule(
        "{type: sequence, window: 1m, events: [{event_type: file_access}, {event_type: any}, {event_type: network_egress}], until: {event_type: any, result.allowed: false}}",
        "",
    );
    let chosen_counts = [at(0, "a", "file_access"), at(1, "b", "mcp_tool").denied(), at(2, "c", "network_egress")];
    assert_eq!(alerts(&set, &chosen_counts), NONE);
    let at_both_ends =
        [at(0, "a", "file_access").denied(), at(1, "b", "mcp_tool"), at(2, "c", "network_egress").denied()];
    assert_eq!(alerts(&set, &at_both_ends), ["R 2-2 x1: a/1 b/2 c/3"]);
}

#[test]
fn a_threshold_slides_by_the_event() {
    let set = rule("{type: threshold, window: 2s, event_type: file_access, count: '> 2'}", EACH);
    let stream = [
        at(0, "a", "file_access"),
        at(1500, "b", "file_access"),
        at(2000, "c", "file_access"),
        at(2001, "x", "mcp_tool"),
        at(3501, "d", "file_access"),
        at(3600, "e", "file_access"),
    ];
    // At d the window holds c and d only: b is 2.001 s back.
    assert_eq!(alerts(&set, &stream), ["R 2000-2000 x1: a/1 b/1 c/1", "R 3600-3600 x1: c/1 d/1 e/1"]);
}

#[test]
fn a_threshold_counts_normalised_targets_and_json_values() {
    let targets = rule("{type: threshold, window: 1m, event_type: file_access, unique_targets: '>= 2'}", "");
    let read = |millis, id, target| at(millis, id, "file_access").target(target);
    assert_eq!(alerts(&targets, &[read(0, "a", "/x/../y"), read(1, "b", "/y"), read(2, "c", "//y/")]), NONE);
    assert_eq!(alerts(&targets, &[read(0, "a", "/x"), read(1, "b", "/y")]), ["R 1-1 x1: a/1 b/1"]);

    let values = rule("{type: threshold, window: 1m, event_type: any, distinct: {field: context.n, op: '> 1'}}", "");
    let with = |millis, id, value: serde_json::Value| at(millis, id, "mcp_tool").set("context.n", value);
    let same = [with(0, "a", 1.into()), with(1, "b", 1.0.into()), with(2, "c", vec![7].into()), at(3, "d", "mcp_tool")];
    assert_eq!(alerts(&values, &same), NONE);
    // An event without a value counts as an event, so it ends matches and is evidence.
    let two = [with(0, "a", 1.into()), with(1, "b", "1".into()), at(2, "c", "mcp_tool")];
    assert_eq!(alerts(&values, &two), ["R 1-2 x2: a/1 b/1"]);
}

#[test]
fn of_many_events_the_first_and_the_latest_are_kept() {
    let set = rule("{type: threshold, window: 1m, event_type: mcp_tool, count: 60}", "");
    let stream: Vec<_> = (0..60).map(|i| at(i, &format!("{i}"), "mcp_tool")).collect();
    let shown = alerts(&set, &stream).remove(0);
    assert!(shown.starts_with("R 59-59 x1: 0/1 11/1 12/1 ") && shown.ends_with(" 59/1"), "{shown}");
    assert_eq!(shown.matches('/').count(), 50);
}

#[test]
fn a_pattern_takes_any_order_and_the_latest_event_of_each_matcher() {
    let set =
        rule("{type: pattern, window: 5s, all_of: [{event_type: file_access}, {event_type: shell_command}]}", EACH);
    let stream = [
        at(0, "b1", "shell_command"),
        at(1, "b2", "shell_command"),
        at(2, "x", "mcp_tool"),
        at(5001, "a", "file_access"),
        at_micros(5_001_001, "y", "mcp_tool"),
    ];
    assert_eq!(alerts(&set, &stream), ["R 5001-5001 x1: b2/2 a/1"]);
}

#[test]
fn one_event_may_satisfy_several_matchers_of_a_pattern() {
    let set = rule(
        "{type: pattern, window: 5s, all_of: [{event_type: any}, {event_type: file_access}, {event_type: any, result.allowed: true}]}",
        "",
    );
    assert_eq!(alerts(&set, &[at(0, "a", "file_access")]), ["R 0-0 x1: a/1"]);
}

#[test]
fn any_of_asks_for_k_matchers_and_shows_all_that_are_satisfied() {
    let set = rule(
        "{type: pattern, window: 5s, any_of: {at_least: 2, matchers: [{event_type: file_write}, {event_type: shell_command}, {event_type: mcp_tool}]}}",
        EACH,
    );
    let stream =
        [at(0, "m", "mcp_tool"), at(1, "m2", "mcp_tool"), at(2, "w", "file_write"), at(3, "s", "shell_command")];
    assert_eq!(alerts(&set, &stream), ["R 2-2 x1: m2/3 w/1", "R 3-3 x1: m2/3 w/1 s/2"]);
}

#[test]
fn absence_waits_for_the_watermark_and_includes_the_window_s_end() {
    let set = rule(
        "{type: absence, window: 10s, trigger: {event_type: shell_command}, absent: {event_type: mcp_tool}}",
        EACH,
    );
    let trigger = || at(0, "t", "shell_command");
    let far = || at(10_001, "z", "patch_apply");
    assert_eq!(alerts(&set, &[trigger(), far()]), ["R 10000-10000 x1: t/1"]);
    // Exactly at the watermark nothing is known yet.
    assert_eq!(alerts(&set, &[trigger(), at(10_000, "z", "patch_apply")]), NONE);
    assert_eq!(alerts(&set, &[trigger(), at(10_000, "m", "mcp_tool"), far()]), NONE);
    assert_eq!(alerts(&set, &[trigger(), at_micros(10_000_001, "m", "mcp_tool")]), ["R 10000-10000 x1: t/1"]);
    // At the trigger's own time the order decides.
    assert_eq!(alerts(&set, &[trigger(), at(0, "a", "mcp_tool"), far()]), ["R 10000-10000 x1: t/1"]);
    assert_eq!(alerts(&set, &[trigger(), at(0, "u", "mcp_tool"), far()]), NONE);
}

#[test]
fn a_copy_s_time_counts_for_the_final_watermark() {
    let set = rule(
        "{type: absence, window: 10s, trigger: {event_type: shell_command}, absent: {event_type: mcp_tool}}",
        EACH,
    );
    // The trigger's copy arrives far too late: its own event time is the reference time, 70 s after it.
    let stream = [at(0, "t", "shell_command"), at(70_000, "z", "shell_command"), at(0, "t", "shell_command")];
    assert_eq!(alerts(&set, &stream), ["R 10000-10000 x1: t/1"]);
}

#[test]
fn a_new_value_was_not_seen_in_the_window() {
    let set = rule("{type: new_value, window: 10s, event_type: mcp_tool, field: context.k}", EACH);
    let call = |millis, id, value: serde_json::Value| at(millis, id, "mcp_tool").set("context.k", value);
    let stream = [
        call(0, "a", "x".into()),
        call(10_000, "b", "x".into()),
        call(20_001, "c", "x".into()),
        at(20_002, "d", "mcp_tool"),
        call(20_003, "e", serde_json::json!(["y"])),
        at(20_004, "f", "shell_command").set("context.k", "y"),
        call(20_005, "g", "y".into()),
    ];
    assert_eq!(alerts(&set, &stream), ["R 0-0 x1: a/1", "R 20001-20001 x1: c/1", "R 20005-20005 x1: g/1"]);
}

#[test]
fn a_new_value_needs_a_learnt_history_inside_the_window() {
    let set = rule("{type: new_value, window: 10s, event_type: mcp_tool, field: target, learn: 5s}", EACH);
    let call = |millis, id: &str| at(millis, id, "mcp_tool").target(id);
    assert_eq!(
        alerts(&set, &[call(0, "a"), call(4999, "b"), call(5000, "c"), call(15_000, "d")]),
        ["R 5000-5000 x1: c/1", "R 15000-15000 x1: d/1"]
    );
    // Whatever has the matcher's fields is history, with or without a value.
    let by_key = rule("{type: new_value, window: 10s, event_type: mcp_tool, field: context.k, learn: 5s}", EACH);
    let stream = [at(0, "a", "mcp_tool"), at(5000, "b", "mcp_tool").set("context.k", "v")];
    assert_eq!(alerts(&by_key, &stream), ["R 5000-5000 x1: b/1"]);
}
