//! Commands that ask a running engine.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::{Duration, Instant};

use clawdstrike_edr::alert::Status;
use clawdstrike_edr::runtime::feed::KEPT;
use clawdstrike_rules::plan::Severity;
use serde_json::Value;

use super::backend::{Engine, HOSTILE, RULE, alert, sessions, until};
use super::local::{edr, run};
use super::terminal::way_to;

/// Runs a command against the engine, off the runtime's threads.
async fn ask(engine: &Engine, arguments: &[&str]) -> (i32, String, String) {
    let mut command = edr(arguments);
    command.env("CLAWDSTRIKE_API", engine.url(""));
    tokio::task::spawn_blocking(move || run(&mut command)).await.expect("no panic")
}

fn hostile(c: char) -> bool {
    (c.is_control() && c != '\n') || c == '\u{202e}'
}

#[tokio::test]
async fn tables_show_rows_and_what_is_left() {
    let engine = Engine::start().await;
    let (code, out, err) = ask(&engine, &["sessions", "list", "--min-risk", "20", "--limit", "2"]).await;
    assert_eq!(code, 0, "{err}");
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("AGENT") && lines.len() == 3, "{out}");
    assert!(lines[1].starts_with("a4") && lines[2].starts_with("a3"), "{out}");
    assert!(err.starts_with("2 of 4 shown; --limit shows more") && err.lines().count() == 1, "{err}");
    let list = ["sessions", "list", "--min-risk", "20", "--output", "json"];
    let (_, out, _) = ask(&engine, &[&list[..], &["--limit", "3"]].concat()).await;
    let page: Value = serde_json::from_str(&out).expect("JSON");
    let next = page["next"].as_str().expect("a cursor");
    let (_, out, err) = ask(&engine, &[&list[..], &["--cursor", next]].concat()).await;
    let page: Value = serde_json::from_str(&out).expect(&err);
    assert_eq!((&page["sessions"][0]["agent_id"], &page["next"]), (&Value::from("a1"), &Value::Null));
    let (code, _, err) = ask(&engine, &["sessions", "list", "--cursor", next]).await;
    assert!(code == 1 && err.contains("another list"), "{err}");
    assert!(!out.contains('\u{1b}'), "no colour without a terminal: {out:?}");
    let (_, out, _) = ask(&engine, &["sessions", "list", "--idle", "--sort", "first-seen"]).await;
    assert!(out.contains("a1") && !out.contains("a2"), "{out}");
}

#[tokio::test]
async fn hostile_telemetry_is_shown_escaped_and_stays_the_same_in_json() {
    let engine = Engine::start().await;
    let commands: [&[&str]; 7] = [
        &["agents"],
        &["sessions", "list"],
        &["sessions", "show", "a0", "s"],
        &["alerts", "list"],
        &["alerts", "show", "id-high"],
        &["alerts", "show", "id\u{1b}[31m\u{202e}"],
        &["rules", "list"],
    ];
    for command in commands {
        for format in ["table", "json"] {
            let (_, out, err) = ask(&engine, &[command, &["--output", format]].concat()).await;
            assert!(!out.contains(hostile) && !err.contains(hostile), "{command:?}: {out:?} {err:?}");
            assert!(!out.lines().any(|line| line.starts_with("forged")), "{command:?}: {out}");
        }
    }
    let (_, out, _) = ask(&engine, &["sessions", "show", "a0", "s"]).await;
    assert!(out.contains("/tmp/\\u{1b}[31mx\\u{202e}y\\u{9b}2J\\u{a}forged"), "{out}");
    let (_, out, _) = ask(&engine, &["sessions", "show", "a0", "s", "--output", "json"]).await;
    let json: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(json["sessions"][0]["last_events"][0]["target"], HOSTILE);
}

#[tokio::test]
async fn sessions_are_shown_whatever_their_ids_hold() {
    let engine = Engine::start().await;
    for (agent, session) in [("a/../b?c#d", "%2e"), ("..", ".")] {
        let (code, out, err) = ask(&engine, &["sessions", "show", agent, session, "--output", "json"]).await;
        assert_eq!(code, 0, "{agent}: {err}");
        let json: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!((&json["total"], json["sessions"][0]["agent_id"].as_str()), (&Value::from(1), Some(agent)));
    }
    for agent in ["nobody", "."] {
        let (code, _, err) = ask(&engine, &["sessions", "show", agent, "s"]).await;
        assert_eq!(code, 1);
        assert!(err.contains(&format!("agent \"{agent}\"")) && err.contains("not in the live view"), "{err}");
    }
}

#[tokio::test]
async fn alerts_are_filtered_and_shown_with_their_evidence() {
    let engine = Engine::start().await;
    let (code, out, _) = ask(&engine, &["alerts", "list", "--min-severity", "high"]).await;
    assert_eq!((code, out.lines().count()), (0, 3), "{out}");
    let (_, out, _) = ask(&engine, &["alerts", "list", "--status", "retracted", "--output", "json"]).await;
    let json: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(json["alerts"][0]["alert_id"], "id-gone");
    let (code, out, _) = ask(&engine, &["alerts", "show", "id-low"]).await;
    assert_eq!(code, 0);
    assert!(out.contains("T1552") && out.contains("EVIDENCE") && out.contains("e1"), "{out}");
    let (code, _, err) = ask(&engine, &["alerts", "show", "id-none"]).await;
    assert_eq!(code, 1);
    assert!(err.contains("\"id-none\" is not in the live view"), "{err}");
}

#[tokio::test]
async fn rules_are_loaded_and_the_answer_names_what_changed() {
    let engine = Engine::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    };
    let reads = path("reads.yaml", RULE);
    let (code, out, err) = ask(&engine, &["rules", "load", "--file", &reads]).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("1 rule in force from epoch 8 on\nadded: MANY_READS\n"), "{out}");
    let other = path("other.yaml", &RULE.replace("MANY_READS", "OTHER"));
    let changed = path("changed.yaml", &RULE.replace("> 5", "> 6"));
    let (_, out, _) = ask(&engine, &["rules", "load", "--file", &other, "--file", &changed]).await;
    assert!(out.contains("2 rules in force from epoch 9 on\nadded: OTHER\nchanged: MANY_READS\n"), "{out}");
    let (_, out, _) = ask(&engine, &["rules", "load", "--file", &other]).await;
    assert!(out.contains("out of force: MANY_READS\n"), "{out}");
    let broken = path("broken.yaml", &RULE.replace("file_access", "file_acces"));
    let (code, out, err) = ask(&engine, &["rules", "load", "--file", &other, "--file", &broken]).await;
    assert_eq!(code, 1);
    assert!(out.contains(&format!("{broken}:6:")) && out.contains("hint: "), "{out}");
    assert!(err.contains("the running set stays as it is"), "{err}");
    let (code, out, err) = ask(&engine, &["rules", "list"]).await;
    assert_eq!(code, 0);
    assert!(out.contains("OTHER") && !out.contains("MANY_READS"), "{out}");
    assert!(err.contains("the last load was refused") && err.contains("broken.yaml"), "{err}");
}

#[tokio::test]
async fn a_folder_with_something_unknown_in_it_is_not_loaded() {
    let engine = Engine::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("a.yaml"), RULE).expect("a file");
    std::fs::write(folder.path().join("b.yaml.bak"), RULE).expect("a file");
    let (code, _, err) = ask(&engine, &["rules", "load", "--file", folder.path().to_str().expect("UTF-8")]).await;
    assert_eq!(code, 1);
    assert!(err.contains("b.yaml.bak\" is not loaded"), "{err}");
    let (_, body) = engine.get("/v1/rules").await;
    assert_eq!(body["total"], 0);
}

#[tokio::test]
async fn a_refusal_is_told_in_the_engines_words() {
    let engine = Engine::start_as(false).await;
    let (code, out, err) = ask(&engine, &["alerts", "list"]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.starts_with("error: the API refused (401") && err.contains("allow_anonymous"), "{err}");
}

#[test]
fn an_engine_that_cannot_be_reached_is_named_with_the_way_out() {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let (code, _, err) = run(&mut edr(&["alerts", "list", "--api", &format!("http://{free}")]));
    assert_eq!(code, 1);
    assert!(err.contains(&free.to_string()) && err.contains("refused") && err.contains("clawdstrike-edr up"), "{err}");
}

#[test]
fn an_answer_of_something_else_is_named_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut lines = BufReader::new(stream.try_clone().expect("a stream")).lines();
        while lines.next().is_some_and(|line| line.is_ok_and(|l| !l.is_empty())) {}
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>").expect("written");
    });
    let (code, _, err) = run(&mut edr(&["alerts", "list", "--api", &format!("http://{address}")]));
    other.join().expect("no panic");
    assert_eq!(code, 1);
    assert!(err.contains("not in JSON") && err.contains("--api"), "{err}");
}

#[tokio::test]
async fn a_watch_prints_changes_at_once_and_ends_when_nobody_reads() {
    let engine = Engine::start().await;
    let mut command = edr(&["alerts", "watch", "--output", "json", "--api", &engine.url("")]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    until("somebody watches", || async { engine.watchers.alerts.watchers() > 0 }).await;
    let send = |id: &str| engine.watchers.alerts.tell([alert(id, Severity::High, Status::Open)]);
    send("id-1");
    let stdout = child.stdout.take().expect("piped");
    let line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).map(|_| line)
    });
    let line = line.await.expect("no panic").expect("a line");
    assert!(!line.trim_end().contains(hostile), "{line:?}");
    let json: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((json["alert_id"].as_str(), &json["revision"]), (Some("id-1"), &Value::from(3)));
    // The reader is gone now; the next change finds that out.
    let deadline = Instant::now() + Duration::from_secs(10);
    let status = loop {
        send("id-2");
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        assert!(Instant::now() < deadline, "the watch goes on without a reader");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_watch_that_breaks_off_goes_on_where_it_was() {
    let engine = Engine::start().await;
    let (way, passing) = way_to(engine.address, SocketAddr::from(([127, 0, 0, 1], 0))).await;
    let mut command = edr(&["alerts", "watch", "--output", "json", "--api", &format!("http://{way}")]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let (to, mut shown) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || while lines.next().is_some_and(|line| line.is_ok_and(|line| to.send(line).is_ok())) {});
    let mut next = async || {
        let line = tokio::time::timeout(Duration::from_secs(30), shown.recv()).await.expect("not within 30 s");
        let json: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        json["alert_id"].as_str().expect("an id").to_owned()
    };
    let watchers = &engine.watchers.alerts;
    let tell = |id: &str| watchers.tell([alert(id, Severity::High, Status::Open)]);
    until("somebody watches", || async { watchers.watchers() == 1 }).await;
    tell("id-1");
    assert_eq!(next().await, "id-1");
    // Away for a moment: what it misses is kept.
    passing.abort();
    until("nobody watches", || async { watchers.watchers() == 0 }).await;
    tell("id-2");
    let (_, passing) = way_to(engine.address, way).await;
    assert_eq!(next().await, "id-2");
    tell("id-3");
    assert_eq!(next().await, "id-3");
    // Away for too long: it is told so, and then what there is.
    passing.abort();
    until("nobody watches", || async { watchers.watchers() == 0 }).await;
    watchers.tell((0..KEPT + 1).map(|n| alert(&format!("id-{n}"), Severity::Low, Status::Open)));
    let (_, passing) = way_to(engine.address, way).await;
    let there = [next().await, next().await, next().await];
    assert_eq!(there, ["id-critical", "id-high", "id-low"]);
    until("it watches", || async { watchers.watchers() == 1 }).await;
    tell("id-4");
    assert_eq!(next().await, "id-4");
    passing.abort();
    child.kill().expect("killed");
    let output = child.wait_with_output().expect("it ends");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(err.contains("taken up again") && err.contains("goes on") && err.contains("is not kept any more"), "{err}");
}

#[tokio::test]
async fn a_watch_that_is_refused_later_ends_with_the_reason() {
    let engine = Engine::start_as(false).await;
    let token = engine.token("soc_analyst").await;
    let mut command = edr(&["sessions", "watch", "--api", &engine.url("")]);
    command.env("CLAWDSTRIKE_TOKEN", token);
    let watching = tokio::task::spawn_blocking(move || run(&mut command));
    until("somebody watches", || async { engine.watchers.sessions.watchers() > 0 }).await;
    engine.tokens().revoke("soc_analyst").expect("revoked");
    until("it is known", || async { engine.ask("GET", "/v1/openapi.json", None).await.0 == 401 }).await;
    // More than is kept, at once: the watch is cut off, and comes back with a token that holds no more.
    engine.watchers.sessions.tell((0..KEPT + 1).map(|_| sessions().remove(0)));
    let (code, out, err) = watching.await.expect("no panic");
    assert_eq!(code, 1);
    assert!(
        out.starts_with("LAST SEEN") && err.contains("faster than they were read") && err.contains("401"),
        "{out}{err}"
    );
}
