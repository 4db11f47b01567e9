//! What an attacker can make grow: a session's targets and the number of sessions. Both are bounded, and nobody else loses
//! an event.

use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;

use clawdstrike_edr::config::{Bytes, Limits};
use clawdstrike_edr::runtime::replay::{Outcome, Replay, run};
use clawdstrike_edr::session::SessionView;
use clawdstrike_rules::{SourceFile, compile};
use clawdstrike_telemetry::time;

/// 2024-05-06T10:00:00Z
const START: i64 = 1_714_989_600_000_000;

fn event(lines: &mut String, session: &str, target: &str, at: i64) {
    let at = time::format(START + at);
    writeln!(
        lines,
        r#"{{"agent_id":"a","session_id":"{session}","timestamp":"{at}","event_type":"shell_command","action":{{"target":"{target}"}},"result":{{"allowed":true}}}}"#
    )
    .unwrap();
}

fn replay(lines: &str, limits: Limits) -> Outcome {
    replay_with("", lines, limits)
}

fn replay_with(rules: &str, lines: &str, limits: Limits) -> Outcome {
    let file = SourceFile { name: "r.yaml".into(), text: rules.into() };
    let rules = compile(&[file]).unwrap_or_else(|e| panic!("{e}")).set;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.jsonl");
    fs::write(&file, lines).unwrap();
    let progress = Arc::default();
    run(Replay { files: vec![file], rules, workers: 2, limits, now: START * 2, changes: None, progress }).unwrap()
}

fn lives<'a>(outcome: &'a Outcome, session: &str) -> Vec<&'a SessionView> {
    outcome.sessions.iter().filter(|s| s.session_id == session).collect()
}

#[test]
fn a_hundred_thousand_targets_are_estimated_and_no_other_session_notices() {
    let mut lines = String::new();
    for n in 0..100_000 {
        event(&mut lines, "greedy", &format!("target-{n}"), n * 1_000);
        event(&mut lines, "greedy", "again and again", n * 1_000);
        if n < 10_000 {
            event(&mut lines, "exact", &format!("target-{n}"), n * 1_000);
        }
        if n % 100 == 0 {
            event(&mut lines, "modest", &format!("target-{}", n % 700), n * 1_000);
        }
    }
    let outcome = replay(&lines, Limits::default());
    let greedy = lives(&outcome, "greedy")[0];
    assert_eq!((greedy.events, greedy.unique_targets_exact), (200_000, false));
    let error = (greedy.unique_targets as f64 / 100_001.0 - 1.0).abs();
    assert!(error < 0.05, "{} targets", greedy.unique_targets);
    let (exact, modest) = (lives(&outcome, "exact")[0], lives(&outcome, "modest")[0]);
    assert_eq!((exact.unique_targets, exact.unique_targets_exact), (10_000, true));
    assert_eq!((modest.events, modest.unique_targets, modest.unique_targets_exact), (1_000, 7, true));
}

#[test]
fn sessions_beyond_the_bound_leave_the_view_by_age_and_come_back_as_resumed() {
    let mut lines = String::new();
    for n in 0..200_000 {
        event(&mut lines, &format!("one-off-{n}"), "x", n * 1_000);
        if n % 10_000 == 0 {
            event(&mut lines, "steady", &format!("target-{n}"), n * 1_000);
        }
    }
    event(&mut lines, "one-off-0", "x", 200_000_000);
    let bounded = Limits { sessions_in_view: 40_000, ..Limits::default() };
    let outcome = replay(&lines, bounded);
    assert_eq!(outcome.sessions.iter().map(|s| s.events).sum::<u64>(), 200_021, "each event is in one life");
    let steady: Vec<u64> = lives(&outcome, "steady").iter().map(|s| s.events).collect();
    assert_eq!(steady, [20], "who goes on stays");
    let first: Vec<bool> = lives(&outcome, "one-off-0").iter().map(|s| s.resumed).collect();
    assert_eq!(first, [false, true]);
    let unbounded = replay(&lines, Limits::default());
    assert_eq!(lives(&unbounded, "one-off-0").len(), 1);
}

#[test]
fn a_group_too_large_forgets_its_earlier_events_and_goes_on() {
    let rules = "rules: [{id: BUSY, name: n, severity: low, suppress_for: 1h, by: [agent_id],
        conditions: [{type: threshold, window: 1h, event_type: shell_command, count: '>= 30000'}]}]";
    let mut lines = String::new();
    let pad = "x".repeat(2_000);
    for n in 0..40_000 {
        event(&mut lines, "greedy", &format!("{n}{pad}"), n * 1_000);
    }
    let bounded = Limits { state_memory: Bytes(64 << 20), ..Limits::default() };
    let outcome = replay_with(rules, &lines, bounded);
    assert!(outcome.groups_shed > 0);
    assert_eq!(lives(&outcome, "greedy")[0].events, 40_000, "its view counts on");
    assert!(
        outcome.alerts.is_empty(),
        "the 16 MiB that one group may hold, and an epoch, are fewer than 30,000 of these events"
    );
    let roomy = replay_with(rules, &lines, Limits::default());
    assert_eq!((roomy.groups_shed, roomy.alerts[0].match_count), (0, 10_001));
}
