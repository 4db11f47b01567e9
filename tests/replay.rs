//! `replay` from outside, with the real binary: the same output however the work and the lines are laid out, the attacks
//! that were simulated and no others, the brief's own examples, hostile lines, and exit codes.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clawdstrike_telemetry::{decode, time};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde_json::{Value, json};
use tempfile::TempDir;

const MINUTE: i64 = 60_000_000;
/// 2024-05-06T10:00:00Z
const START: i64 = 1_714_989_600_000_000;

fn edr<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_clawdstrike-edr")).args(args).output().expect("the binary runs")
}

fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("rules/ai-threats.yaml")
}

/// Replays files by the brief's rules.
fn replay(files: &[PathBuf], flags: &[&str]) -> Output {
    let mut args: Vec<PathBuf> = vec!["replay".into(), "--rules".into(), rules()];
    args.extend(flags.iter().map(PathBuf::from));
    args.extend(files.iter().cloned());
    edr(args)
}

/// What a replay that must succeed prints.
fn output(files: &[PathBuf], flags: &[&str]) -> Vec<u8> {
    let out = replay(files, flags);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

fn rows(lines: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(lines).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect()
}

/// (rule, agent, session, time of the first match).
type Finding = (String, String, String, String);

fn findings(rows: &[Value], at: &str) -> BTreeSet<Finding> {
    let text = |row: &Value, field: &str| row[field].as_str().expect("a text").to_owned();
    rows.iter().map(|r| (text(r, "rule_id"), text(r, "agent_id"), text(r, "session_id"), text(r, at))).collect()
}

struct Simulated {
    folder: TempDir,
    file: PathBuf,
    truth: BTreeSet<Finding>,
}

/// 20,000 events in 200 s of event time, all four attacks among them.
fn simulate(more: &[&str]) -> Simulated {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("events.jsonl");
    let truth = folder.path().join("truth.jsonl");
    let mut args: Vec<&OsStr> =
        vec!["simulate".as_ref(), "--to".as_ref(), file.as_ref(), "--truth".as_ref(), truth.as_ref()];
    let flags = "--events 20000 --event-rate 100 --seed 7 --start 2024-05-06T10:00:00Z --attack-every 1000";
    args.extend(flags.split(' ').map(OsStr::new));
    args.extend(more.iter().map(OsStr::new));
    let out = edr(args);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let truth = findings(&rows(&fs::read(truth).expect("the truth")), "at");
    Simulated { folder, file, truth }
}

#[test]
fn alerts_are_the_attacks_that_were_simulated_and_no_others() {
    let simulated = simulate(&["--disorder", "20s", "--duplicates", "0.05"]);
    let found = rows(&output(std::slice::from_ref(&simulated.file), &["--workers", "2"]));
    let kinds: BTreeSet<&String> = simulated.truth.iter().map(|t| &t.0).collect();
    assert_eq!(kinds.len(), 4, "{kinds:?}");
    assert_eq!(findings(&found, "first_seen"), simulated.truth);
    assert_eq!(found.len(), simulated.truth.len());
}

#[test]
fn output_is_the_same_for_any_number_of_workers_order_of_lines_and_split_into_files() {
    let simulated = simulate(&[]);
    let flags = ["--emit", "all"];
    let straight = output(std::slice::from_ref(&simulated.file), &flags);
    assert!(straight.len() > 10_000);
    let same = |what: &str, out: Vec<u8>| assert!(out == straight, "{what}: {}", first_difference(&straight, &out));
    same("4 workers", output(std::slice::from_ref(&simulated.file), &["--emit", "all", "--workers", "4"]));

    let shuffled = simulated.folder.path().join("shuffled.jsonl");
    fs::write(&shuffled, shuffled_within_minutes(&fs::read(&simulated.file).expect("the events"), 11)).expect("a file");
    same("shuffled", output(std::slice::from_ref(&shuffled), &flags));
    same("shuffled, 4 workers", output(&[shuffled], &["--emit", "all", "--workers", "4"]));

    let split = simulate(&["--files", "4"]);
    let parts: Vec<PathBuf> = (0..4).map(|n| split.folder.path().join(format!("events-{n}.jsonl"))).collect();
    same("4 files", output(&parts, &flags));
    same("4 files, 4 workers", output(&parts, &["--emit", "all", "--workers", "4"]));
}

fn first_difference(a: &[u8], b: &[u8]) -> String {
    let (a, b) = (String::from_utf8_lossy(a), String::from_utf8_lossy(b));
    match a.lines().zip(b.lines()).find(|(a, b)| a != b) {
        Some((a, b)) => format!("\n{a}\nbecame\n{b}"),
        None => format!("{} lines became {}", a.lines().count(), b.lines().count()),
    }
}

/// No line is more than a minute behind one before it.
fn shuffled_within_minutes(lines: &[u8], seed: u64) -> Vec<u8> {
    let mut lines: Vec<(i64, &[u8])> = lines
        .split_inclusive(|byte| *byte == b'\n')
        .map(|line| (decode(line.trim_ascii_end()).expect("an event").timestamp / MINUTE, line))
        .collect();
    lines.shuffle(&mut StdRng::seed_from_u64(seed));
    lines.sort_by_key(|(minute, _)| *minute);
    lines.into_iter().flat_map(|(_, line)| line).copied().collect()
}

fn event(n: usize, seconds: i64, event_type: &str, target: &str) -> String {
    let event = json!({
        "event_id": format!("e{n:04}"), "agent_id": "agent", "session_id": "session",
        "timestamp": time::format(START + seconds * 1_000_000), "event_type": event_type,
        "action": {"target": target}, "result": {"allowed": true},
    });
    format!("{event}\n")
}

/// Rules that fire on these events of one session, each (seconds, type, target).
fn fired(events: &[(i64, &str, &str)]) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("events.jsonl");
    let lines: String = events.iter().enumerate().map(|(n, (at, kind, target))| event(n, *at, kind, target)).collect();
    fs::write(&file, lines).expect("a file");
    let alerts = rows(&output(&[file], &[]));
    alerts.iter().map(|alert| alert["rule_id"].as_str().expect("a text").to_owned()).collect()
}

#[test]
fn a_host_that_only_ends_like_a_listed_one_is_not_listed() {
    let egress = |host| fired(&[(0, "file_access", "/home/u/.ssh/id_rsa"), (10, "network_egress", host)]);
    assert_eq!(egress("evil-openai.com:443"), ["CREDENTIAL_EXFILTRATION"]);
    assert!(egress("api.openai.com:443").is_empty());
}

#[test]
fn a_detour_in_a_path_hides_nothing() {
    let looks_at =
        |path| fired(&[(0, "file_access", path), (1, "shell_command", "whoami"), (2, "network_egress", "10.0.0.7:22")]);
    assert_eq!(looks_at("/tmp/../etc/passwd"), ["LATERAL_MOVEMENT_PREP"]);
    assert!(looks_at("/tmp/etc/passwd").is_empty());
}

#[test]
fn a_hundred_accesses_are_silent_and_one_more_fires() {
    let accesses = |count: usize, targets: usize| {
        let paths: Vec<String> = (0..count).map(|n| format!("/srv/{}", n % targets)).collect();
        let events: Vec<_> = paths.iter().map(|path| (30, "file_access", path.as_str())).collect();
        fired(&events)
    };
    assert!(accesses(100, 100).is_empty());
    assert!(accesses(101, 50).is_empty());
    assert_eq!(accesses(101, 51), ["RAPID_FILE_ENUMERATION"]);
}

#[test]
fn hostile_lines_are_counted_by_reason_and_stop_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("events.jsonl");
    let within =
        |field: &str| event(9, 1, "file_access", "/a").replacen("\"agent_id\"", &format!("{field},\"agent_id\""), 1);
    let mut lines = event(0, 0, "file_access", "/home/u/.ssh/id_rsa").into_bytes();
    lines.extend(b"garbage\n{\n\0\0\n");
    lines.extend(within(&format!(r#""x":"{}""#, "a".repeat(2 << 20))).as_bytes());
    let deep = format!(r#""context":{}{}"#, "[".repeat(100_000), "]".repeat(100_000));
    lines.extend(within(&deep).as_bytes());
    lines.extend(within("\"x\":\"?\"").replace('?', "\u{1}\u{2}").as_bytes());
    let mut broken = within("\"x\":\"?\"").into_bytes();
    broken.iter_mut().filter(|byte| **byte == b'?').for_each(|byte| *byte = 0xff);
    lines.extend(&broken);
    lines.extend(event(1, 2, "network_egress", "evil\u{1b}[2J\u{1b}]0;owned\u{7}.example:443").as_bytes());
    fs::write(&file, lines).expect("a file");

    let out = replay(std::slice::from_ref(&file), &["--workers", "2"]);
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{told}");
    let mut expected = String::new();
    for (reason, count) in [("invalid_json", 4), ("invalid_utf8", 1), ("record_too_long", 1), ("too_deep", 1)] {
        writeln!(expected, "  {reason}: {count}").expect("a String takes all");
    }
    assert!(told.contains(&format!("7 dead letters\n{expected}")), "{told}");
    let alerts = rows(&out.stdout);
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    assert_eq!(alerts[0]["evidence"].as_array().map(Vec::len), Some(2));
    let table = replay(&[file], &["--output", "table", "--emit", "all"]);
    for bytes in [&out.stdout, &out.stderr, &table.stdout, &table.stderr] {
        assert!(!bytes.contains(&0x1b), "a terminal escape came through: {}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn exit_codes_tell_findings_wrong_usage_and_missing_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let (quiet, loud) = (folder.path().join("quiet.jsonl"), folder.path().join("loud.jsonl"));
    let read = event(0, 0, "file_access", "/home/u/.ssh/id_rsa");
    fs::write(&quiet, &read).expect("a file");
    fs::write(&loud, read + &event(1, 1, "network_egress", "evil.example:443")).expect("a file");
    let code = |out: &Output| out.status.code();
    assert_eq!(code(&replay(&[quiet], &["--fail-on-alert"])), Some(0));
    assert_eq!(code(&replay(std::slice::from_ref(&loud), &["--fail-on-alert"])), Some(1));
    assert_eq!(code(&replay(&[loud], &[])), Some(0));
    assert_eq!(code(&edr(["replay", "--rules", "rules"])), Some(2));

    let missing = folder.path().join("nowhere.jsonl");
    for workers in ["1", "2"] {
        let out = replay(std::slice::from_ref(&missing), &["--workers", workers]);
        assert_eq!(code(&out), Some(1));
        let told = String::from_utf8_lossy(&out.stderr);
        assert!(told.contains("nowhere.jsonl"), "{told}");
    }
}
