//! Commands that need no engine: rules check and explain, init, help, wrong usage.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::backend::RULE;

/// The binary, far from this machine's own settings.
pub(crate) fn edr(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clawdstrike-edr"));
    command.args(arguments).stdin(Stdio::null());
    let ours = ["API", "CA_FILE", "LOG", "TOKEN", "TOKEN_FILE"].map(|name| format!("CLAWDSTRIKE_{name}"));
    let proxies = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"].map(str::to_owned);
    for name in ours.into_iter().chain(proxies) {
        command.env_remove(name);
    }
    command
}

/// Runs to the end: exit code, standard output, standard error.
pub(crate) fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("no signal"), text(stdout), text(stderr))
}

fn write(folder: &Path, name: &str, text: impl AsRef<[u8]>) -> String {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(&path, text).expect("a file");
    path.display().to_string()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn shown(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn every_command_has_help_with_an_example() {
    let commands = [
        "",
        "up",
        "rules",
        "sessions",
        "alerts",
        "worker",
        "init",
        "rules check",
        "rules explain",
        "rules list",
        "rules load",
        "rules schema",
        "sessions list",
        "sessions show",
        "sessions watch",
        "alerts list",
        "alerts show",
        "alerts watch",
        "alerts ack",
        "alerts close",
        "alerts comment",
        "rules backtest",
        "rules diff",
        "agents",
        "top",
        "simulate",
        "replay",
        "token",
        "token create",
        "token list",
        "token revoke",
        "audit",
        "audit list",
        "audit verify",
    ];
    for command in commands {
        let mut arguments: Vec<&str> = command.split_whitespace().collect();
        arguments.push("--help");
        let (code, out, _) = run(&mut edr(&arguments));
        assert_eq!(code, 0, "{command}");
        assert!(out.contains("Example") && out.contains("  clawdstrike-edr "), "{command}: {out}");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    let cases: [(&[&str], &str); 8] = [
        (&[], "Usage"),
        (&["frobnicate"], "frobnicate"),
        (&["rules", "load"], "--file"),
        (&["alerts", "list", "--min-severity", "urgent"], "possible values: info"),
        (&["sessions", "list", "--idle", "--active"], "--active"),
        (&["agents", "--api", "localhost:7878"], "http://127.0.0.1:7878"),
        (&["replay", "x.jsonl"], "--rules"),
        (&["replay", "x.jsonl", "--rules", "r", "--max-lateness", "soon"], "\"90s\""),
    ];
    for (arguments, expected) in cases {
        let (code, out, err) = run(&mut edr(arguments));
        assert_eq!(code, 2, "{arguments:?}: {out}{err}");
        assert!(err.contains(expected), "{arguments:?}: {err}");
    }
    let (code, _, err) = run(edr(&["rules", "check"]).env("CLAWDSTRIKE_LOG", "a=b=c"));
    assert_eq!(code, 2);
    assert!(err.contains("CLAWDSTRIKE_LOG is \"a=b=c\""), "{err}");
}

#[test]
fn a_good_set_is_accepted() {
    let folder = folder();
    write(folder.path(), "reads.yaml", RULE);
    write(folder.path(), "deeper/more.YML", RULE.replace("MANY_READS", "MORE_READS"));
    let (code, out, err) = run(&mut edr(&["rules", "check", shown(folder.path())]));
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("2 files: 2 rules, 0 allowlist entries, 0 warnings"), "{out}");
}

#[test]
fn an_allowlist_entry_that_has_expired_is_a_warning() {
    let folder = folder();
    let entry = "allowlist: [{agent_pattern: \"ci-*\", expires: 2026-01-01, target_patterns: [a, a]}]\n";
    let path = write(folder.path(), "allow.yaml", entry);
    for (now, warnings) in [("2025-12-31T23:59:59.999999Z", 1), ("2026-01-01T01:00:00+01:00", 2)] {
        let (code, out, err) = run(&mut edr(&["rules", "check", &path, "--now", now]));
        assert_eq!(code, 0, "{out}{err}");
        assert!(out.contains(&format!("1 allowlist entry, {warnings} warning")), "{out}");
        assert_eq!(out.contains("warning[W015]"), warnings == 2, "{out}");
    }
    let (code, _, err) = run(&mut edr(&["rules", "check", &path, "--now", "tomorrow"]));
    assert_eq!(code, 2);
    assert!(err.contains("RFC 3339"), "{err}");
}

#[test]
fn all_errors_of_all_files_are_printed_with_their_places() {
    let folder = folder();
    let a = write(folder.path(), "a.yaml", RULE.replace("severity: high", "severity: hihg"));
    let b = write(folder.path(), "b.yaml", RULE.replace("MANY_READS", "B").replace("window: 1m", "window: 8d"));
    let (code, out, _) = run(&mut edr(&["rules", "check", shown(folder.path())]));
    assert_eq!(code, 1);
    assert!(out.contains(&format!("{a}:4:15")) && out.contains(&format!("{b}:6:")), "{out}");
    assert!(out.contains("hint: "), "{out}");
    let (code, out, _) = run(&mut edr(&["rules", "check", &a, &b, "--output", "json"]));
    let json: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &json["ok"]), (1, &Value::Bool(false)));
    let first = &json["errors"][0];
    assert_eq!(
        (first["file"].as_str(), first["line"].as_u64(), first["column"].as_u64()),
        (Some(&*a), Some(4), Some(15))
    );
    assert!(first["code"].as_str().is_some_and(|c| c.starts_with('E')) && first["hint"].is_string(), "{first}");
}

#[test]
fn every_file_of_the_folder_is_accounted_for() {
    let folder = folder();
    write(folder.path(), "reads.yaml", RULE);
    write(folder.path(), "reads.test.yaml", "fires: []");
    write(folder.path(), ".reads.yaml.swp", "");
    let check = || run(&mut edr(&["rules", "check", shown(folder.path())]));
    let (code, out, err) = check();
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("reads.test.yaml\" is not loaded: it holds tests"), "{out}");
    assert!(out.contains(".reads.yaml.swp\" is not loaded"), "{out}");
    write(folder.path(), "old.yaml.bak", RULE);
    let (code, out, _) = check();
    assert_eq!(code, 1);
    assert!(out.contains("error: ") && out.contains("old.yaml.bak\" is not loaded"), "{out}");
}

#[test]
fn files_that_cannot_be_rule_files_are_refused_by_name() {
    let folder = folder();
    let latin = write(folder.path(), "latin.yaml", b"rules: # \xe4\n");
    let cases = [
        (latin.as_str(), "latin.yaml\" is not UTF-8 from byte 9"),
        (shown(folder.path()), "latin.yaml\" is not UTF-8"),
        ("/nowhere/at/all", "\"/nowhere/at/all\""),
    ];
    for (path, expected) in cases {
        let (code, _, err) = run(&mut edr(&["rules", "check", path]));
        assert_eq!(code, 1, "{path}");
        assert!(err.starts_with("error: ") && err.contains(expected), "{err}");
    }
    let empty = tempfile::tempdir().expect("a folder");
    let (code, _, err) = run(&mut edr(&["rules", "check", shown(empty.path())]));
    assert_eq!(code, 1);
    assert!(err.contains("no rule file in") && err.contains("init"), "{err}");
}

#[test]
fn a_hostile_rule_file_reaches_no_terminal_unescaped() {
    let folder = folder();
    let path = write(folder.path(), "evil.yaml", "rules:\n  - id: \"A\u{202e}\"\n    \u{9b}31m: x\u{1b}]0;y\u{7}\n");
    for output in ["table", "json"] {
        let (_, out, err) = run(&mut edr(&["rules", "check", &path, "--output", output]));
        let hostile = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!out.contains(hostile) && !err.contains(hostile), "{out:?} {err:?}");
    }
}

#[test]
fn explain_tells_how_patterns_are_read() {
    let folder = folder();
    let rule =
        RULE.replace("event_type: file_access", "event_type: file_access, target_pattern: \"**/.ssh/*|.*secret.*\"");
    let path = write(
        folder.path(),
        "reads.yaml",
        format!("{rule}{}", rule.replace("rules:\n", "").replace("MANY_READS", "OTHER")),
    );
    let (code, out, err) = run(&mut edr(&["rules", "explain", &path, "--rule", "MANY_READS"]));
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("MANY_READS") && out.contains("glob") && out.contains("regex"), "{out}");
    assert_eq!(out.matches("OTHER").count(), 2, "as what shares groups and predicate, not as a rule: {out}");
    assert!(out.contains("events is predicate 1, shared with OTHER"), "{out}");
    let (code, out, _) = run(&mut edr(&["rules", "explain", &path, "--output", "json"]));
    let json: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, json["rules"].as_array().map(Vec::len)), (0, Some(2)));
    assert_eq!(json["predicates"][0]["rules"], serde_json::json!(["MANY_READS", "OTHER"]));
    assert_eq!(json["rules"][1]["conditions"][0]["predicates"][0]["predicate"], 1);
    let (code, _, err) = run(&mut edr(&["rules", "explain", &path, "--rule", "NONE"]));
    assert_eq!(code, 1);
    assert!(err.contains("\"NONE\""), "{err}");
}

#[test]
fn schemas_are_printed_whole() {
    for (arguments, key) in [(&["rules", "schema"][..], "rules"), (&["rules", "schema", "--of", "tests"], "tests")] {
        let (code, out, err) = run(&mut edr(arguments));
        assert_eq!(code, 0, "{err}");
        let schema: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert!(schema["properties"][key].is_object() && schema["additionalProperties"] == false, "{schema}");
    }
}

#[test]
fn explain_of_a_broken_set_prints_its_errors() {
    let folder = folder();
    let path = write(folder.path(), "a.yaml", RULE.replace("severity: high", "severity: hihg"));
    let (code, out, _) = run(&mut edr(&["rules", "explain", &path]));
    assert_eq!(code, 1);
    assert!(out.contains("a.yaml:4:"), "{out}");
}

#[test]
fn init_writes_what_check_accepts_and_overwrites_only_when_told() {
    let folder = folder();
    let target = folder.path().join("edr");
    let (code, out, err) = run(&mut edr(&["init", shown(&target)]));
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("wrote ") && out.contains("up --config"), "{out}");
    let (code, out, _) = run(&mut edr(&["rules", "check", shown(&target.join("rules"))]));
    assert_eq!(code, 0, "{out}");
    let config = target.join("workers.toml");
    std::fs::write(&config, "mine").expect("a file");
    let (code, _, err) = run(&mut edr(&["init", shown(&target)]));
    assert_eq!(code, 1);
    assert!(err.contains("\"workers.toml\"") && err.contains("--force"), "{err}");
    assert_eq!(std::fs::read_to_string(&config).expect("a file"), "mine");
    let (code, out, _) = run(&mut edr(&["init", shown(&target), "--force", "--output", "json"]));
    let json: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, json["written"].as_array().map(Vec::len)), (0, Some(3)));
    assert!(std::fs::read_to_string(&config).expect("a file").contains("[cluster]"));
}

#[test]
fn a_reader_that_has_seen_enough_ends_a_command_quietly() {
    let folder = folder();
    let path = write(folder.path(), "reads.yaml", RULE);
    let mut child = edr(&["rules", "explain", &path])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
