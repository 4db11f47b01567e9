//! One test for each definition of how records become events, and events sessions.

use crate::support::{BASE, Record, alerts, at, at_micros, file, outcome, rule};
use clawdstrike_naive::{Options, evaluate};
use clawdstrike_rules::plan::RuleSet;

const NONE: [&str; 0] = [];

fn pair() -> RuleSet {
    rule("{type: sequence, window: 1m, events: [{event_type: file_access}, {event_type: network_egress}]}", "")
}

fn counted(files: &[&[Record]]) -> (u64, u64, u64) {
    let files: Vec<_> = files.iter().map(|records| file(records)).collect();
    let outcome = outcome(&RuleSet::default(), &files);
    (outcome.events, outcome.copies, outcome.retimed)
}

#[test]
fn copies_are_records_of_one_identity_and_the_same_bytes() {
    let one = at(0, "a", "mcp_tool");
    assert_eq!(counted(&[&[one.clone(), one.clone()], std::slice::from_ref(&one)]), (1, 2, 0));
    for other in [
        one.clone().set("context", "other bytes"),
        one.clone().set("session_id", "s2"),
        one.clone().set("tenant_id", "t"),
    ] {
        assert_eq!(counted(&[&[one.clone(), other]]), (2, 0, 0));
    }
    let nameless = one.set("event_id", serde_json::Value::Null);
    assert_eq!(counted(&[&[nameless.clone(), nameless]]), (2, 0, 0));
}

#[test]
fn a_copy_is_recognised_for_the_dedup_window_and_no_less_than_the_lateness() {
    let one = at(0, "a", "mcp_tool");
    let edge = [one.clone(), at(600_000, "z", "mcp_tool"), one.clone()];
    assert_eq!(counted(&[&edge]), (2, 1, 0));
    let beyond = [one.clone(), at_micros(600_000_001, "z", "mcp_tool"), one.clone(), one];
    // The third is new and takes the reference time; the fourth is its copy.
    assert_eq!(counted(&[&beyond]), (3, 1, 1));
    let options = Options { max_lateness: 700_000_000, ..Options::default() };
    assert_eq!(evaluate(&RuleSet::default(), &[file(&beyond)], &options).copies, 2);
}

#[test]
fn records_with_one_id_and_other_bytes_are_events_in_the_order_of_their_bytes() {
    // "file_access" comes before "network_egress", in the order of the file as against it.
    let (access, egress) = (at(0, "a", "file_access"), at(0, "a", "network_egress"));
    assert_eq!(alerts(&pair(), &[egress.clone(), access.clone()]), ["R 0-0 x1: a/1 a/2"]);
    let turned =
        rule("{type: sequence, window: 1m, events: [{event_type: network_egress}, {event_type: file_access}]}", "");
    assert_eq!(alerts(&turned, &[egress, access]), NONE);
}

#[test]
fn at_one_time_positions_come_before_ids_and_ids_in_the_order_of_bytes() {
    let nameless = |event_type| at(0, "", event_type).set("event_id", serde_json::Value::Null);
    let last_in_file = [at(0, "a", "network_egress"), nameless("file_access")];
    let found = outcome(&pair(), &[file(&last_in_file)]).alerts;
    let offset = file(&last_in_file[..1]).len();
    assert_eq!(found[0].evidence, [(format!("0:{offset}"), 1), ("a".to_owned(), 2)]);
    assert_eq!(alerts(&pair(), &[nameless("network_egress"), at(0, "a", "file_access")]), NONE);
    assert_eq!(alerts(&pair(), &[at(0, "a", "network_egress"), at(0, "B", "file_access")]), ["R 0-0 x1: B/1 a/2"]);
    // Positions: the file first, then the offset.
    let files = [file(&[nameless("file_access")]), file(&[nameless("network_egress")])];
    assert_eq!(outcome(&pair(), &files).alerts.len(), 1);
    let files = [file(&[nameless("network_egress")]), file(&[nameless("file_access")])];
    assert_eq!(outcome(&pair(), &files).alerts.len(), 0);
    // A session's id comes before the event's.
    let grouped = rule(
        "{type: sequence, window: 1m, events: [{event_type: file_access}, {event_type: network_egress}]}",
        ", by: [agent_id]",
    );
    let stream = [at(0, "a", "network_egress").set("session_id", "s2"), at(0, "z", "file_access")];
    assert_eq!(alerts(&grouped, &stream), ["R 0-0 x1: z/1 a/2"]);
}

#[test]
fn the_reference_time_is_the_file_s_own_and_bounds_lateness() {
    let late = |micros| [at(60_000, "z", "mcp_tool"), at_micros(micros, "a", "mcp_tool")];
    assert_eq!(counted(&[&late(0)]), (2, 0, 0));
    assert_eq!(counted(&[&late(-1)]), (2, 0, 1));
    let [ahead, behind] = late(-1);
    assert_eq!(counted(&[&[ahead], &[behind]]), (2, 0, 0));
}

#[test]
fn a_timestamp_beyond_the_wall_clock_takes_the_reference_time_and_moves_nothing() {
    let options = Options { now: BASE, ..Options::default() };
    let times = |records: &[Record]| {
        let outcome = evaluate(&RuleSet::default(), &[file(records)], &options);
        let life = &outcome.sessions[0];
        (life.first_seen - BASE, life.last_seen - BASE, outcome.retimed)
    };
    assert_eq!(times(&[at(5000, "a", "mcp_tool")]), (5_000_000, 5_000_000, 0));
    // Without a usable one before it, the reference time is the wall clock.
    assert_eq!(times(&[at_micros(5_000_001, "a", "mcp_tool")]), (0, 0, 1));
    let poisoned = [at(-20_000, "a", "mcp_tool"), at(90_000, "p", "mcp_tool"), at(-80_000, "b", "mcp_tool")];
    assert_eq!(times(&poisoned), (-80_000_000, -20_000_000, 1));
    // Beyond the wall clock but within the skew of the reference time: its own.
    let edge = [at(4000, "a", "mcp_tool"), at(9000, "b", "mcp_tool"), at(9001, "c", "mcp_tool")];
    assert_eq!(times(&edge), (4_000_000, 9_000_000, 1));
}

#[test]
fn dead_letters_are_counted_by_reason_and_blank_lines_are_nothing() {
    let mut bytes = file(&[at(0, "a", "mcp_tool"), at(1, "b", "no such type"), at(2, "", "mcp_tool")]);
    bytes.extend(b"\n \t\r\n{\n\xff\n");
    bytes.extend(file(&[at(3, "c", "mcp_tool")]));
    bytes.pop();
    let outcome = outcome(&RuleSet::default(), &[bytes]);
    let dead: Vec<_> = outcome.dead.iter().map(|(reason, n)| (reason.as_str(), *n)).collect();
    assert_eq!(outcome.events, 2);
    assert_eq!(dead, [("empty_event_id", 1), ("invalid_json", 1), ("invalid_utf8", 1), ("unknown_event_type", 1)]);
}

#[test]
fn a_session_starts_a_new_life_after_a_longer_gap_than_its_retention() {
    const DAY: i64 = 86_400_000_000;
    let stream = [
        at(0, "a", "mcp_tool").denied(),
        at_micros(DAY, "b", "file_access"),
        at_micros(2 * DAY + 1, "c", "mcp_tool").set("session_id", "s1"),
    ];
    let lives = outcome(&RuleSet::default(), &[file(&stream)]).sessions;
    let shown: Vec<_> = lives
        .iter()
        .map(|life| (life.resumed, life.events, life.violations, life.first_seen - BASE, life.last_seen - BASE))
        .collect();
    assert_eq!(shown, [(false, 2, 1, 0, DAY), (true, 1, 0, 2 * DAY + 1, 2 * DAY + 1)]);
    assert_eq!(lives[0].by_type.keys().collect::<Vec<_>>(), ["file_access", "mcp_tool"]);
}

#[test]
fn risk_is_violations_scatter_and_length() {
    let risk = |stream: &[Record]| outcome(&RuleSet::default(), &[file(stream)]).sessions[0].risk_score;
    let same = |millis, id: &str| at(millis, id, "mcp_tool");
    assert_eq!(risk(&[same(0, "a"), same(1, "b")]), 0);
    assert_eq!(risk(&[same(0, "a"), same(1, "b").denied()]), 10);
    assert_eq!(risk(&[same(0, "a"), same(1, "b").target("u")]), 20);
    // Four of five is not more than 0.8.
    let five: Vec<_> = (0..5).map(|i| same(i, &format!("{i}")).target(&format!("{}", i % 4))).collect();
    assert_eq!(risk(&five), 0);
    let minutes = |n: i64| risk(&[same(0, "a"), same(n * 60_000, "b")]);
    assert_eq!((minutes(120), minutes(121)), (0, 15));
    let many: Vec<_> = (0..11).map(|i| same(i, &format!("{i}")).denied()).collect();
    assert_eq!(risk(&many), 100);
}
