//! Runs every folder of `tests/cases` through the replay, with one worker and with three. `tests/cases/README.md` tells
//! the format. Written to hold the engine to examples that were worked out by hand, so it knows nothing of how the engine
//! comes to its results.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use clawdstrike_edr::alert::Alert;
use clawdstrike_edr::config::Limits;
use clawdstrike_edr::runtime::replay::{Outcome, Replay, run};
use clawdstrike_rules::{SourceFile, compile};
use clawdstrike_telemetry::time;
use serde_json::{Value, json};

/// 2026-01-01T00:00:00Z: all usable timestamps of the cases lie in 2024.
const NOW: i64 = 1_767_225_600_000_000;

#[test]
fn the_cases_come_out_as_worked_out_by_hand() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut folders: Vec<PathBuf> =
        fs::read_dir(&root).expect("the cases").map(|e| e.expect("a folder").path()).collect();
    folders.retain(|folder| folder.join("rules.yaml").exists());
    folders.sort();
    assert!(folders.len() >= 41, "only {} cases", folders.len());
    let mut wrong = String::new();
    for folder in &folders {
        for workers in [1, 3] {
            let found = differences(folder, workers);
            if !found.is_empty() {
                wrong += &format!("{} with {workers} workers:\n{found}", folder.display());
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn differences(folder: &Path, workers: usize) -> String {
    let outcome = replay(folder, workers);
    let alerts: Vec<Value> = outcome.alerts.iter().map(alert).collect();
    let mut found = unlike("alert", &list(&folder.join("expected.json")), &alerts);
    if !outcome.alerts.is_sorted_by_key(|a| a.first_seen) {
        found += "  alerts are not in order of first_seen\n";
    }
    let sessions = folder.join("expected_sessions.json");
    if sessions.exists() {
        let expected = list(&sessions);
        let lives: Vec<Value> = outcome.sessions.iter().map(|life| only(life.to_json(), &expected[0])).collect();
        found += &unlike("session", &expected, &lives);
    }
    found
}

fn replay(folder: &Path, workers: usize) -> Outcome {
    let text = fs::read_to_string(folder.join("rules.yaml")).expect("rules.yaml");
    let rules = SourceFile { name: "rules.yaml".to_owned(), text };
    let rules = compile(&[rules]).unwrap_or_else(|errors| panic!("{}: {errors}", folder.display())).set;
    let (limits, now) = settings(&fs::read_to_string(folder.join("args")).unwrap_or_default());
    let progress = Arc::new(AtomicU64::new(0));
    run(Replay { files: files(folder), rules, workers, limits, now, changes: None, progress })
        .expect("the replay runs to its end")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let one = folder.join("events.jsonl");
    if one.exists() {
        return vec![one];
    }
    (1..).map(|n| folder.join(format!("events_{n}.jsonl"))).take_while(|path| path.exists()).collect()
}

fn settings(args: &str) -> (Limits, i64) {
    let (mut limits, mut now) = (Limits::default(), NOW);
    let words: Vec<&str> = args.split_whitespace().collect();
    for pair in words.chunks(2) {
        let duration = || pair[1].parse().expect("a duration");
        match pair[0] {
            "--max-lateness" => limits.max_lateness = duration(),
            "--max-skew" => limits.max_skew = duration(),
            "--dedup-window" => limits.dedup_window = duration(),
            "--now" => now = time::parse(pair[1]).expect("a time"),
            other => panic!("unknown flag {other}"),
        }
    }
    limits.dedup_window = limits.dedup_window.max(limits.max_lateness);
    (limits, now)
}

/// As the cases write it: group values as integers where they are whole, positions as `file-index:byte-offset`.
fn alert(alert: &Alert) -> Value {
    let id =
        |id: &str| id.strip_prefix("file/").map_or_else(|| id.to_owned(), |position| position.replacen('/', ":", 1));
    json!({
        "rule_id": alert.rule_id,
        "group": alert.group.iter().map(|(name, value)| json!([name, whole(value)])).collect::<Vec<_>>(),
        "first_seen": time::format(alert.first_seen),
        "last_seen": time::format(alert.last_seen),
        "match_count": alert.match_count,
        "evidence": alert.evidence.iter().map(|e| id(&e.id)).collect::<Vec<_>>(),
    })
}

fn whole(value: &Value) -> Value {
    match value.as_f64() {
        Some(number) if number.fract() == 0.0 && number.abs() < 9e15 => json!(number as i64),
        _ => value.clone(),
    }
}

fn list(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut all: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    for pair in all.iter_mut().filter_map(|one| one.get_mut("group")?.as_array_mut()).flatten() {
        pair[1] = whole(&pair[1]);
    }
    all
}

/// The fields that `like` names; numbers as doubles, so that 30 equals 30.0.
fn only(mut record: Value, like: &Value) -> Value {
    if let Value::Object(fields) = &mut record {
        fields.retain(|name, _| like.get(name).is_some());
        fields.values_mut().for_each(|value| *value = whole(value));
    }
    record
}

/// As sets.
fn unlike(what: &str, expected: &[Value], found: &[Value]) -> String {
    let missing = expected.iter().filter(|one| !found.contains(one)).map(|one| format!("  missing {what} {one}\n"));
    let extra = found.iter().filter(|one| !expected.contains(one)).map(|one| format!("  unexpected {what} {one}\n"));
    let mut all: String = missing.chain(extra).collect();
    if all.is_empty() && expected.len() != found.len() {
        all = format!("  {} {what}s where {} are right\n", found.len(), expected.len());
    }
    all
}
