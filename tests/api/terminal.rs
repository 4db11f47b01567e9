//! `top` and the watches in a pseudo-terminal: what a person sees on the screen, and how the terminal is left.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use clawdstrike_edr::alert::Status;
use clawdstrike_rules::plan::Severity;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::backend::{Engine, HOSTILE, alert, sessions, until};
use super::local::{edr, run};
use super::pty::Pty;

const CTRL_C: &str = "\u{3}";
/// The keys as a terminal sends them.
const TAB: &str = "\t";
const DOWN: &str = "\u{1b}[B";

fn start(address: SocketAddr, arguments: &[&str], rows: u16, columns: u16) -> Pty {
    Pty::start(edr(arguments).args(["--api", &format!("http://{address}")]), rows, columns)
}

fn line_with<'a>(screen: &'a [String], text: &str) -> &'a str {
    screen.iter().find(|line| line.contains(text)).unwrap_or_else(|| panic!("no {text:?} in\n{}", screen.join("\n")))
}

#[tokio::test]
async fn top_shows_what_is_risky_loud_and_broken_and_q_leaves_a_clean_terminal() {
    let engine = Engine::start().await;
    engine.stats.send_modify(|stats| {
        stats.dead_letters.insert("not_json".into(), 3);
        stats.degraded.insert("store".into(), format!("refused {HOSTILE}"));
    });
    let top = start(engine.address, &["top"], 40, 120);
    let screen = top.shows("riskiest sessions (of 8)").await;
    let risky = screen.iter().position(|line| line.contains("AGENT / SESSION")).map(|at| &screen[at + 1]);
    assert!(risky.is_some_and(|line| line.contains("a4 / s") && line.contains(" 80 ")), "{}", screen.join("\n"));
    assert!(screen[0].contains(&format!("http://{}", engine.address)), "{}", screen[0]);
    assert!(line_with(&screen, "dead letters").contains("(3 in all)"));
    assert!(line_with(&screen, "RULE_CRITICAL").contains("1 critical"), "counted, its retracted one left out");
    let broken = line_with(&screen, "degraded: store: refused /tmp/");
    assert!(broken.contains("\\u{1b}[31mx\\u{202e}y\\u{9b}2J\\u{a}forged"), "{broken}");
    top.press("q");
    let end = top.end().await;
    assert_eq!(end.status.code(), Some(0), "{}", end.text);
    assert!(end.seen_alternate_screen && end.is_as_before(), "{end:?}");
    assert_eq!(end.text.trim(), "", "nothing stays");
}

#[tokio::test]
async fn a_hostile_target_reaches_the_screen_escaped_and_moves_nothing() {
    let engine = Engine::start().await;
    let top = start(engine.address, &["top"], 40, 200);
    let screen = top.shows("/tmp/\\u{1b}[31mx\\u{202e}y\\u{9b}2J\\u{a}forged").await;
    assert!(!screen.iter().any(|line| line.starts_with("forged")), "{}", screen.join("\n"));
    assert!(screen[0].contains("http://"), "the screen wasn't cleared\n{}", screen.join("\n"));
    line_with(&screen, "a\\u{202e}0 / s");
    top.press(CTRL_C);
    let end = top.end().await;
    assert_eq!(end.status.code(), Some(0));
    assert!(end.is_as_before(), "{end:?}");
}

#[tokio::test]
async fn another_size_is_drawn_anew_and_a_small_one_shows_one_pane() {
    let engine = Engine::start().await;
    let top = start(engine.address, &["top"], 24, 80);
    top.shows("latest alerts").await;
    top.resize(10, 40);
    let fits = |screen: &[String]| {
        screen.len() == 10
            && screen[9].starts_with("q quit")
            && screen.iter().any(|line| line.contains("a4 / s"))
            && !screen.iter().any(|line| line.contains("latest alerts"))
    };
    top.until("the small screen", fits).await;
    top.press(TAB);
    top.until("the next pane", |screen| screen.iter().any(|line| line.contains("> latest alerts"))).await;
    top.resize(30, 130);
    let screen = top.shows("loudest rules").await;
    line_with(&screen, "riskiest sessions");
    top.press("q");
    assert_eq!(top.end().await.status.code(), Some(0));
}

#[tokio::test]
async fn keys_sort_scroll_pause_and_explain() {
    let engine = Engine::start().await;
    let top = start(engine.address, &["top", "--sort", "events"], 40, 100);
    top.shows("busiest sessions").await;
    top.press("s");
    top.shows("latest sessions").await;
    top.press("s");
    top.shows("riskiest sessions").await;
    top.press(DOWN);
    top.until("the second session first", |s| !s.iter().any(|line| line.contains("a4 / s"))).await;
    top.press("p");
    top.shows("PAUSED").await;
    top.press("?");
    top.shows("versions of alerts").await;
    top.press("?");
    top.press("p");
    engine.stats.send_modify(|stats| stats.epoch = 4242);
    top.shows("epoch 4242").await;
    top.press("q");
    assert_eq!(top.end().await.status.code(), Some(0));
}

#[tokio::test]
async fn rates_are_those_between_two_looks() {
    let engine = Engine::start().await;
    let top = start(engine.address, &["top"], 30, 100);
    top.shows("events 0.0/s").await;
    // It goes on until it was seen: what one look alone shows, a busy machine may miss.
    let stats = engine.stats.clone();
    let reading = tokio::spawn(async move {
        loop {
            stats.send_modify(|stats| stats.events += 100);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let rises = |line: &String| line.contains("events ") && !line.contains("events 0.0/s") && !line.contains("-/s");
    top.until("a rate", |screen| screen.iter().any(rises)).await;
    reading.abort();
    top.shows("events 0.0/s").await;
    top.press("q");
    assert_eq!(top.end().await.status.code(), Some(0));
}

#[tokio::test]
async fn an_api_that_is_away_is_told_and_shown_again_when_it_is_back() {
    let engine = Engine::start().await;
    let (address, way) = way_to(engine.address, SocketAddr::from(([127, 0, 0, 1], 0))).await;
    let top = start(address, &["top"], 30, 100);
    top.shows("riskiest sessions").await;
    way.abort();
    let screen = top.shows("not answering since").await;
    line_with(&screen, "a4 / s");
    let (_, _way) = way_to(engine.address, address).await;
    top.until("the line is gone", |screen| !screen.iter().any(|line| line.contains("not answering"))).await;
    top.press("q");
    assert_eq!(top.end().await.status.code(), Some(0));
}

#[tokio::test]
async fn top_waits_for_an_engine_that_is_not_up_yet_and_goes_when_told() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let top = start(free, &["top"], 24, 100);
    top.shows("not answering since").await;
    let engine = Engine::start().await;
    let (_, _way) = way_to(engine.address, free).await;
    top.shows("riskiest sessions").await;
    let pid = top.pid().to_string();
    let told = std::process::Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs");
    assert!(told.success());
    let end = top.end().await;
    assert_eq!(end.status.code(), Some(0));
    assert!(end.is_as_before(), "{end:?}");
}

#[tokio::test]
async fn without_a_terminal_top_names_what_to_use_instead_and_once_prints_one_screen() {
    let engine = Engine::start().await;
    let ask = |arguments: &[&str]| {
        let mut command = edr(arguments);
        command.args(["--api", &engine.url("")]);
        tokio::task::spawn_blocking(move || run(&mut command))
    };
    let (code, out, err) = ask(&["top"]).await.expect("no panic");
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("`sessions list --output json`") && err.contains("`alerts list --output json`"), "{err}");
    let (code, out, err) = ask(&["top", "--once"]).await.expect("no panic");
    assert_eq!((code, err.as_str()), (0, ""));
    for expected in ["events 0.0/s", "riskiest sessions (of 8)", "a4 / s", "RULE_CRITICAL", "\\u{202e}"] {
        assert!(out.contains(expected), "no {expected:?} in\n{out}");
    }
    assert!(!out.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}'), "{out:?}");
    engine.stop().await;
    let (code, _, err) = run(&mut edr(&["top", "--once", "--api", "http://127.0.0.1:1"]));
    assert_eq!(code, 1);
    assert!(err.contains("clawdstrike-edr up"), "{err}");
    let (code, _, err) = run(&mut edr(&["top", "--every", "0s"]));
    assert_eq!(code, 2);
    assert!(err.contains("expected 1s to 1h"), "{err}");
}

/// A watch in a terminal, once it is open.
async fn watch(engine: &Engine, what: &str) -> Pty {
    let watch = start(engine.address, &[what, "watch"], 24, 200);
    watch.shows("LAST SEEN").await;
    until("somebody watches", || async { engine.watchers.alerts.watchers() + engine.watchers.sessions.watchers() > 0 })
        .await;
    watch
}

/// Ctrl-C is the terminal's own signal: the shell makes 130 of it.
async fn ends_quietly(watch: Pty) {
    watch.press(CTRL_C);
    let end = watch.end().await;
    assert_eq!(end.status.signal(), Some(2), "{end:?}");
    assert!(end.is_as_before() && !end.text.contains("error"), "{end:?}");
}

#[tokio::test]
async fn alerts_appear_in_a_watch_as_they_happen_until_ctrl_c() {
    let engine = Engine::start().await;
    let watch = watch(&engine, "alerts").await;
    for id in ["id-1", "id-2"] {
        engine.watchers.alerts.tell([alert(id, Severity::High, Status::Open)]);
        let screen = watch.shows(id).await;
        assert!(line_with(&screen, id).contains("RULE_HIGH, a\\u{202e}0 / s"), "{}", screen.join("\n"));
    }
    ends_quietly(watch).await;
}

#[tokio::test]
async fn sessions_appear_in_a_watch_as_they_change_until_ctrl_c() {
    let engine = Engine::start().await;
    let watch = watch(&engine, "sessions").await;
    let mut changed = sessions().remove(4);
    changed.session_id = HOSTILE.into();
    engine.watchers.sessions.tell([changed]);
    let screen = watch.shows("a4 / /tmp/\\u{1b}[31mx").await;
    assert!(!screen.iter().any(|line| line.starts_with("forged")), "{}", screen.join("\n"));
    ends_quietly(watch).await;
}

/// A way to the engine that can be closed: connections to `at` are passed on until the task is aborted.
pub(crate) async fn way_to(engine: SocketAddr, at: SocketAddr) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind(at).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let way = tokio::spawn(async move {
        let mut passing = JoinSet::new();
        while let Ok((mut from, _)) = listener.accept().await {
            passing.spawn(async move {
                let mut to = TcpStream::connect(engine).await?;
                tokio::io::copy_bidirectional(&mut from, &mut to).await
            });
        }
    });
    (address, way)
}
