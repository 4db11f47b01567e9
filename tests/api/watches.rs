//! Watches: what they show, how they end, how many there may be.

use std::sync::Arc;
use std::time::Duration;

use clawdstrike_edr::alert::Status;
use clawdstrike_edr::api::MAX_WATCHERS;
use clawdstrike_edr::runtime::handle::{Change, WATCH_LAG};
use clawdstrike_rules::plan::Severity;
use reqwest::Response;

use super::backend::{Engine, alert, http, sessions, until};

/// A watch as a client reads it.
struct Watch {
    response: Response,
    text: String,
}

impl Watch {
    /// Opens a watch and reads its greeting: from then on it sees every change.
    async fn open(engine: &Engine, route: &str) -> Watch {
        let response = http().get(engine.url(route)).send().await.expect("an answer");
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut watch = Watch { response, text: String::new() };
        watch.read_until("event: watching").await;
        watch
    }

    /// Reads on until the text is there; gives everything read.
    async fn read_until(&mut self, text: &str) -> &str {
        while !self.text.contains(text) {
            let chunk = tokio::time::timeout(Duration::from_secs(10), self.response.chunk());
            let chunk = chunk.await.unwrap_or_else(|_| panic!("no {text:?} within 10 s in {:?}", self.text));
            let chunk = chunk.expect("a chunk").unwrap_or_else(|| panic!("the watch ended before {text:?}"));
            self.text.push_str(&String::from_utf8_lossy(&chunk));
        }
        &self.text
    }
}

fn send(engine: &Engine, id: &str, severity: Severity, status: Status) {
    let sent = engine.changes.send(Change::Alert(Arc::new(alert(id, severity, status))));
    assert!(sent.is_ok(), "somebody watches");
}

#[tokio::test]
async fn alerts_arrive_as_they_happen_with_corrections_and_without_what_is_filtered() {
    let engine = Engine::start().await;
    let mut watch = Watch::open(&engine, "/v1/alerts/watch?min_severity=high").await;
    send(&engine, "id-1", Severity::High, Status::Open);
    send(&engine, "id-2", Severity::Low, Status::Open);
    assert!(engine.changes.send(Change::Session(Arc::new(sessions().remove(0)))).is_ok());
    send(&engine, "id-1", Severity::High, Status::Retracted);
    let text = watch.read_until("\"status\":\"retracted\"").await;
    assert_eq!(text.matches("event: alert\n").count(), 2, "{text}");
    assert!(!text.contains("id-2") && !text.contains("event: session"), "{text}");
    assert!(text.contains("\"revision\":3"), "{text}");
}

#[tokio::test]
async fn a_target_cannot_forge_an_event() {
    let engine = Engine::start().await;
    let mut watch = Watch::open(&engine, "/v1/sessions/watch?agent_id=a0").await;
    let mut session = sessions().remove(0);
    session.last_events[0].target = "x\n\nevent: alert\ndata: {}\r\n\r\nevent: alert\r".into();
    assert!(engine.changes.send(Change::Session(Arc::new(session))).is_ok());
    let text = watch.read_until("\"agent_id\":\"a0\"").await;
    assert_eq!(text.lines().filter(|line| line.starts_with("event: alert")).count(), 0, "{text}");
}

#[tokio::test]
async fn a_slow_reader_is_told_how_much_it_missed() {
    let engine = Engine::start().await;
    let mut watch = Watch::open(&engine, "/v1/alerts/watch").await;
    // One thread runs server and test: the watch can't read while this loop sends.
    for i in 0..WATCH_LAG + 10 {
        send(&engine, &format!("id-{i}"), Severity::Low, Status::Open);
    }
    let text = watch.read_until("event: lagged").await;
    assert!(text.contains("data: {\"missed\":10}"), "{}", &text[..text.len().min(400)]);
}

#[tokio::test]
async fn an_open_watch_ends_with_the_server() {
    let engine = Engine::start().await;
    let mut watch = Watch::open(&engine, "/v1/alerts/watch").await;
    engine.stop().await;
    let rest = tokio::time::timeout(Duration::from_secs(10), watch.response.chunk()).await.expect("no hanging");
    assert!(matches!(rest, Ok(None)), "{rest:?}");
}

#[tokio::test]
async fn watches_are_bounded_and_a_closed_one_makes_room() {
    let engine = Engine::start().await;
    let mut open = Vec::new();
    for _ in 0..MAX_WATCHERS {
        open.push(Watch::open(&engine, "/v1/alerts/watch").await);
    }
    let (status, body) = engine.get("/v1/alerts/watch").await;
    assert_eq!((status, body["code"].as_str()), (503, Some("too_many_watchers")));
    let (status, _) = engine.get("/v1/alerts").await;
    assert_eq!(status, 200, "lists still answer");
    drop(open);
    until("room for a watch", || async {
        let response = http().get(engine.url("/v1/alerts/watch")).send().await;
        response.is_ok_and(|r| r.status().as_u16() == 200)
    })
    .await;
}
