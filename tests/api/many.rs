//! Many watchers at once, some of which read nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clawdstrike_edr::alert::{Alert, Status};
use clawdstrike_edr::runtime::feed::KEPT;
use clawdstrike_rules::plan::Severity;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use super::backend::{Engine, alert, http, until};

const STALLED: usize = 50;
const READING: usize = 450;
/// Alerts that all who read want to see, and of each of those some large ones that only those want who don't read.
const WANTED: usize = 200;
const LARGE: usize = 40;
const LARGE_BYTES: usize = 8 * 1024;

/// A watch of which nothing is read after the greeting.
async fn stall(engine: &Engine) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let mut stream = socket.connect(engine.address).await.expect("a connection");
    stream.write_all(b"GET /v1/alerts/watch HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
    let mut greeting = String::new();
    while !greeting.contains("event: watching") {
        let mut bytes = [0; 512];
        let n = stream.read(&mut bytes).await.expect("a greeting");
        greeting.push_str(&String::from_utf8_lossy(&bytes[..n]));
    }
    stream
}

/// Counts the alerts of one watch.
async fn read(url: String, open: Arc<AtomicUsize>, seen: Arc<AtomicUsize>) {
    let mut response = http().get(url).send().await.expect("an answer");
    let mut text = String::new();
    let (mut mine, mut greeted) = (0, false);
    while mine < WANTED {
        let chunk = response.chunk().await.expect("a chunk").expect("no end");
        text.push_str(&String::from_utf8_lossy(&chunk));
        while let Some((event, rest)) = text.split_once("\n\n") {
            assert!(!event.contains("event: cut_off"), "{event}");
            if event.contains("event: watching") {
                greeted = true;
                open.fetch_add(1, Ordering::Relaxed);
            } else if event.contains("event: alert") {
                assert!(greeted && event.contains(&format!("\"wanted-{mine}\"")), "in order: {event}");
                mine += 1;
                seen.fetch_add(1, Ordering::Relaxed);
            }
            text = rest.to_owned();
        }
    }
}

fn large(n: usize) -> Alert {
    let mut large = alert(&format!("large-{n}"), Severity::Low, Status::Open);
    large.evidence[0].target = "x".repeat(LARGE_BYTES);
    large
}

/// Memory of this process, in MiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_read_get_every_alert_and_those_who_do_not_cost_little() {
    let engine = Engine::start().await;
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        stalled.push(stall(&engine).await);
    }
    let (open, seen): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
    let mut reading = JoinSet::new();
    for _ in 0..READING {
        reading.spawn(read(engine.url("/v1/alerts/watch?min_severity=high"), open.clone(), seen.clone()));
    }
    until("all watch", || async { open.load(Ordering::Relaxed) == READING }).await;
    assert_eq!(engine.watchers.alerts.watchers(), STALLED + READING);
    let before = resident();
    for n in 0..WANTED {
        engine.watchers.alerts.tell((0..LARGE).map(|m| large(n * LARGE + m)));
        engine.watchers.alerts.tell([alert(&format!("wanted-{n}"), Severity::High, Status::Open)]);
        until("all have seen it", || async { seen.load(Ordering::Relaxed) == (n + 1) * READING }).await;
    }
    while let Some(ended) = reading.join_next().await {
        ended.expect("every alert, in order");
    }
    // Held for each of those who don't read, it would be 50 times as much as was told.
    let (told, grown) = ((WANTED * LARGE * LARGE_BYTES) >> 20, resident().saturating_sub(before));
    eprintln!("told {told} MiB; memory grew by {grown} MiB");
    assert!(grown < 4 * told, "{grown} MiB for {told} MiB");
    let (status, _) = engine.get("/v1/alerts").await;
    assert_eq!(status, 200, "lists still answer");
    // Whoever reads again is told why that is all.
    const { assert!(WANTED * LARGE > KEPT) };
    let mut late = stalled.pop().expect("one of them");
    let mut text = Vec::new();
    let all = tokio::time::timeout(Duration::from_secs(20), async {
        while !text.ends_with(b"0\r\n\r\n") {
            assert!(late.read_buf(&mut text).await.expect("bytes") > 0, "the answer has an end");
        }
    });
    all.await.expect("the watch ends");
    let text = String::from_utf8_lossy(&text);
    let end = text.split("event: cut_off").nth(1).expect("it is told");
    assert!(end.contains("\"missed\":") && end.contains("connect again") && !end.contains("event:"), "{end}");
}
