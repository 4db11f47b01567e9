//! Worked examples from a folder that `CLAWDSTRIKE_CASES` names: each has `rules.yaml`, `events.jsonl` (or
//! `events_1.jsonl` and so on), `expected.json`, perhaps `args` and `expected_sessions.json`. Without the variable
//! there is nothing to look at.

use std::fs;
use std::path::Path;

use clawdstrike_naive::{Alert, Options, Session, evaluate};
use clawdstrike_rules::{SourceFile, compile};
use clawdstrike_telemetry::time;
use serde_json::{Value, json};

#[test]
fn the_worked_examples_come_out_as_expected() {
    let Some(folder) = std::env::var_os("CLAWDSTRIKE_CASES") else {
        return;
    };
    let mut wrong = Vec::new();
    let mut seen = 0;
    for entry in fs::read_dir(&folder).expect("the folder of cases is there") {
        let path = entry.expect("a readable folder").path();
        if path.join("rules.yaml").exists() {
            seen += 1;
            wrong.extend(differences(&path));
        }
    }
    assert!(seen > 0, "no case in {folder:?}");
    assert!(wrong.is_empty(), "{} of {seen} cases:\n{}", wrong.len(), wrong.join("\n"));
}

fn differences(case: &Path) -> Option<String> {
    let read = |name: &str| fs::read_to_string(case.join(name));
    let rules = SourceFile { name: "rules.yaml".to_owned(), text: read("rules.yaml").expect("rules.yaml") };
    let set = match compile(&[rules]) {
        Ok(compiled) => compiled.set,
        Err(errors) => return Some(format!("{}: {errors}", case.display())),
    };
    let options = options(&read("args").unwrap_or_default());
    let outcome = evaluate(&set, &files(case), &options);
    let expected: Vec<Value> = parse(&read("expected.json").expect("expected.json"));
    let mut found: Vec<String> = Vec::new();
    let alerts: Vec<Value> = outcome.alerts.iter().map(alert).collect();
    compare("alert", &expected, &alerts, &mut found);
    if let Ok(text) = read("expected_sessions.json") {
        let expected: Vec<Value> = parse(&text);
        let sessions: Vec<Value> = outcome.sessions.iter().map(|life| only(session(life), &expected[0])).collect();
        compare("session", &expected, &sessions, &mut found);
    }
    (!found.is_empty()).then(|| format!("{}:\n{}", case.display(), found.join("\n")))
}

/// As sets; group values compare as JSON, so whole doubles are written as integers.
fn compare(kind: &str, expected: &[Value], actual: &[Value], found: &mut Vec<String>) {
    let missing = expected.iter().filter(|one| !actual.contains(one));
    found.extend(missing.map(|one| format!("  missing {kind} {one}")));
    let extra = actual.iter().filter(|one| !expected.contains(one));
    found.extend(extra.map(|one| format!("  unexpected {kind} {one}")));
}

fn parse(text: &str) -> Vec<Value> {
    serde_json::from_str(text).expect("a list")
}

/// The record's fields that `like` names.
fn only(mut record: Value, like: &Value) -> Value {
    let fields = record.as_object_mut().expect("an object");
    fields.retain(|name, _| like.get(name).is_some());
    record
}

fn files(case: &Path) -> Vec<Vec<u8>> {
    if let Ok(one) = fs::read(case.join("events.jsonl")) {
        return vec![one];
    }
    (1..).map_while(|n| fs::read(case.join(format!("events_{n}.jsonl"))).ok()).collect()
}

fn options(args: &str) -> Options {
    let mut options = Options::default();
    let words: Vec<&str> = args.split_whitespace().collect();
    for pair in words.chunks(2) {
        let duration = || time::parse_duration(pair[1]).expect("a duration");
        match pair[0] {
            "--max-lateness" => options.max_lateness = duration(),
            "--max-skew" => options.max_skew = duration(),
            "--dedup-window" => options.dedup_window = duration(),
            "--now" => options.now = time::parse(pair[1]).expect("a time"),
            other => panic!("unknown flag {other}"),
        }
    }
    options
}

fn alert(alert: &Alert) -> Value {
    json!({
        "rule_id": alert.rule_id,
        "group": alert.group,
        "first_seen": time::format(alert.first_seen),
        "last_seen": time::format(alert.last_seen),
        "match_count": alert.match_count,
        "evidence": alert.evidence.iter().map(|(id, _)| id).collect::<Vec<_>>(),
    })
}

fn session(session: &Session) -> Value {
    json!({
        "tenant_id": session.tenant_id,
        "agent_id": session.agent_id,
        "session_id": session.session_id,
        "resumed": session.resumed,
        "events": session.events,
        "violations": session.violations,
        "by_type": session.by_type,
        "unique_targets": session.unique_targets,
        "first_seen": time::format(session.first_seen),
        "last_seen": time::format(session.last_seen),
        "risk_score": session.risk_score,
    })
}
