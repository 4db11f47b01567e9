//! `rules backtest` and `rules diff`: what a store kept gives the alerts that the events gave when they came.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use clawdstrike_edr::alert::Alert;
use clawdstrike_edr::config::{self, Limits};
use clawdstrike_edr::runtime::backtest::{self, Backtest, Past};
use clawdstrike_edr::runtime::replay::{self, Replay};
use clawdstrike_edr::simulate::{Options, Simulator};
use clawdstrike_edr::store::{Batch, EventRow, Store};
use clawdstrike_rules::SourceFile;
use clawdstrike_rules::plan::RuleSet;
use clawdstrike_telemetry::{decode, time};
use serde_json::{Value, json};
use tempfile::TempDir;

/// 2024-05-06T10:00:00Z
const START: i64 = 1_714_989_600_000_000;
const SECOND: i64 = 1_000_000;
const NOW: i64 = START + 86_400 * SECOND;

fn compile(yaml: &str) -> RuleSet {
    let file = SourceFile { name: "rules.yaml".into(), text: yaml.into() };
    clawdstrike_rules::compile(&[file]).unwrap_or_else(|e| panic!("{e}")).set
}

/// A read, then any egress, within a minute.
fn read_then_send() -> RuleSet {
    compile(
        "rules: [{id: R, name: n, severity: high, suppress_for: 0s, conditions: [{type: sequence, window: 1m, events: [
            {event_type: file_access, target_in: [/secret]}, {event_type: network_egress}]}]}]",
    )
}

fn record(at: i64, event_type: &str, target: &str) -> String {
    json!({"agent_id": "a", "session_id": "s", "timestamp": time::format(at), "event_type": event_type,
        "action": {"target": target}, "result": {"allowed": true}})
    .to_string()
}

/// A row as the archive makes it; `key` is its position, where it has no event_id.
fn row(record: &str, key: &str) -> EventRow {
    let event = decode(record.as_bytes()).expect("an event");
    let key = event.event_id.as_deref().unwrap_or(key).to_owned();
    EventRow::of(&event, event.timestamp, key)
}

/// A SQLite store with these events.
fn store(folder: &TempDir, rows: Vec<EventRow>) -> config::Store {
    let store = config::Store::Sqlite {
        path: folder.path().join("edr.db"),
        events: true,
        retention: Default::default(),
        sampling: Default::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut open = Store::open(&store).await.expect("a store").expect("SQLite");
        open.write(&Batch { events: rows, ..Batch::default() }).await.expect("a write");
    });
    store
}

fn alerts(rules: &RuleSet, past: &Past, from: i64, to: i64, workers: usize) -> Vec<Alert> {
    let backtest =
        Backtest { rules, past, from, to, workers, limits: Limits::default(), now: NOW, progress: Arc::default() };
    backtest::run(backtest).expect("a backtest").alerts
}

/// What an alert says was found, without what a store may keep otherwise.
fn found(alerts: &[Alert]) -> Vec<Value> {
    alerts.iter().map(Alert::to_json).collect()
}

#[test]
fn a_store_gives_the_alerts_that_its_events_gave_when_they_came() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut simulator =
        Simulator::new(Options { seed: 11, start: START, attack_share: 0.002, agents: 20, ..Options::default() });
    let mut lines = Vec::new();
    let (mut rows, mut line) = (Vec::new(), Vec::new());
    for _ in 0..8_000 {
        line.clear();
        simulator.next(&mut line);
        let text = std::str::from_utf8(&line).expect("UTF-8").trim_end();
        rows.push(row(text, "unused"));
        lines.extend_from_slice(text.as_bytes());
        lines.push(b'\n');
    }
    let file = folder.path().join("events.jsonl");
    std::fs::write(&file, lines).expect("a file");
    // Rows come back in the order of their times, whatever the order in which they were written.
    rows.reverse();
    let rules = compile(include_str!("../rules/ai-threats.yaml"));
    let replay = Replay {
        files: vec![file],
        rules: rules.clone(),
        workers: 1,
        limits: Limits::default(),
        now: NOW,
        changes: None,
        progress: Arc::default(),
    };
    let expected = replay::run(replay).expect("a replay").alerts;
    assert!(expected.len() >= 8, "{}", expected.len());
    let past = Past::Store(store(&folder, rows));
    for workers in [1, 3] {
        assert_eq!(found(&alerts(&rules, &past, START, NOW, workers)), found(&expected));
    }
}

#[test]
fn what_matches_at_the_beginning_of_the_span_need_is_read_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let events = [
        (0, "file_access", "/secret"),
        (10, "network_egress", "before.example:443"),
        (50, "network_egress", "within.example:443"),
        (55, "network_egress", "after.example:443"),
    ];
    let rows = events.iter().zip(0..).map(|((at, event_type, target), n): (_, u32)| {
        row(&record(START + at * SECOND, event_type, target), &format!("kafka/0/{n}"))
    });
    let past = Past::Store(store(&folder, rows.collect()));
    let found = alerts(&read_then_send(), &past, START + 40 * SECOND, START + 52 * SECOND, 1);
    let targets: Vec<_> = found.iter().map(|a| a.evidence.last().map(|e| e.target.as_str())).collect();
    assert_eq!(targets, [Some("within.example:443")]);
}

#[test]
fn events_of_one_time_come_back_in_the_order_of_their_positions() {
    let folder = tempfile::tempdir().expect("a folder");
    // As text, 10 is before 9.
    let rows = vec![
        row(&record(START, "network_egress", "x.example:443"), "kafka/0/10"),
        row(&record(START, "file_access", "/secret"), "kafka/0/9"),
    ];
    let past = Past::Store(store(&folder, rows));
    assert_eq!(alerts(&read_then_send(), &past, START, NOW, 1).len(), 1);
}

#[test]
fn a_store_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("none.db");
    let past = Past::Store(config::Store::Sqlite {
        path: path.clone(),
        events: true,
        retention: Default::default(),
        sampling: Default::default(),
    });
    let rules = read_then_send();
    let limits = Limits::default();
    let (from, to) = (START, NOW);
    let backtest =
        Backtest { rules: &rules, past: &past, from, to, workers: 2, limits, now: NOW, progress: Arc::default() };
    let error = backtest::run(backtest).expect_err("there is no such file");
    assert!(error.contains("none.db"), "{error}");
    assert!(!path.exists(), "looking makes no file");
}

fn edr(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_clawdstrike-edr"))
        .current_dir(folder)
        .args(args)
        .output()
        .expect("the binary runs")
}

fn document(out: &Output) -> Value {
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out.stderr)))
}

fn file(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).expect("a file");
    path
}

#[test]
fn diff_tells_what_another_set_adds_removes_and_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let rule = |id: &str, event_type: &str, count: u32| {
        format!(
            "{{id: {id}, name: n, severity: low, conditions: [{{type: threshold, window: 1m, event_type: {event_type}, count: {count}}}]}}"
        )
    };
    let set = |rules: [String; 3]| format!("rules: [{}]\n", rules.join(", "));
    file(
        &folder,
        "old.yaml",
        &set([rule("A", "mcp_tool", 2), rule("B", "file_write", 1), rule("C", "file_access", 2)]),
    );
    // A fires at the second of three events in both, but the old one's first match isn't the new one's.
    file(
        &folder,
        "new.yaml",
        &set([rule("A", "mcp_tool", 3), rule("D", "file_write", 1), rule("C", "file_access", 2)]),
    );
    let events = ["mcp_tool", "mcp_tool", "mcp_tool", "file_write", "file_access", "file_access"];
    let lines: Vec<String> =
        events.iter().zip(0..).map(|(event_type, n)| record(START + n * SECOND, event_type, "t")).collect();
    file(&folder, "events.jsonl", &(lines.join("\n") + "\n"));
    let diff = |proposed: &str| {
        let args = ["rules", "diff", proposed, "--against", "old.yaml", "--events", "events.jsonl", "--output", "json"];
        edr(folder.path(), &args)
    };
    let out = diff("new.yaml");
    let json = document(&out);
    let rules = |of: &str| -> Vec<&str> {
        json[of].as_array().into_iter().flatten().filter_map(|a| a["rule_id"].as_str()).collect()
    };
    assert_eq!((rules("added"), rules("removed")), (vec!["A", "D"], vec!["A", "B"]));
    assert_eq!((json["same"].as_u64(), json["events"].as_u64(), out.status.code()), (Some(1), Some(6), Some(1)));
    let out = diff("old.yaml");
    assert_eq!((document(&out)["same"].as_u64(), out.status.code()), (Some(3), Some(0)));
    let text = std::fs::read_to_string(folder.path().join("old.yaml")).expect("a file");
    file(&folder, "severe.yaml", &text.replace("id: B, name: n, severity: low", "id: B, name: n, severity: high"));
    let json = document(&diff("severe.yaml"));
    let changed = &json["changed"][0];
    assert_eq!((&changed["from"]["severity"], &changed["to"]["severity"]), (&json!("low"), &json!("high")));
    assert_eq!(json["changed"].as_array().map(Vec::len), Some(1));
}

#[test]
fn backtest_reports_days_groups_and_targets() {
    let folder = tempfile::tempdir().expect("a folder");
    file(
        &folder,
        "rules.yaml",
        "rules: [{id: R, name: n, severity: low, suppress_for: 0s, conditions: [{type: threshold, window: 1s, event_type: mcp_tool, count: 1}]}]",
    );
    let day = 86_400 * SECOND;
    let lines = [START, START + 2 * SECOND, START + day].map(|at| record(at, "mcp_tool", "deploy")).join("\n");
    file(&folder, "events.jsonl", &lines);
    let base = ["rules", "backtest", "rules.yaml", "--events", "events.jsonl"];
    let out = edr(folder.path(), &[&base[..], &["--output", "json"]].concat());
    assert_eq!(out.status.code(), Some(0));
    let json = document(&out);
    let days: Vec<_> = json["per_day"].as_array().into_iter().flatten().map(|d| (&d["day"], &d["alerts"])).collect();
    assert_eq!(days, [(&json!("2024-05-06"), &json!(2)), (&json!("2024-05-07"), &json!(1))]);
    assert_eq!(json["top_groups"][0]["alerts"], json!(3));
    assert_eq!(json["loudest_targets"][0], json!({"target": "deploy", "evidence": 3}));
    let out = edr(folder.path(), &[&base[..], &["--from", "2024-05-07T00:00:00Z"]].concat());
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.starts_with("1 alert of 3 events\n") && !text.contains("2024-05-06"), "{text}");
    let out =
        edr(folder.path(), &[&base[..], &["--from", "2024-05-07T00:00:00Z", "--to", "2024-05-06T00:00:00Z"]].concat());
    assert_eq!(out.status.code(), Some(2));
}
