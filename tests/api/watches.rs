//! Watches: what they show, how they end, how many there may be.

use std::time::Duration;

use clawdstrike_edr::alert::Status;
use clawdstrike_edr::api::MAX_WATCHERS;
use clawdstrike_edr::runtime::feed::KEPT;
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
        Watch::resume(engine, route, None).await
    }

    /// The same, after the event of this id.
    async fn resume(engine: &Engine, route: &str, id: Option<&str>) -> Watch {
        let mut request = http().get(engine.url(route));
        if let Some(id) = id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.expect("an answer");
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
    engine.watchers.alerts.tell([alert(id, severity, status)]);
}

/// The last id in a text of events.
fn last_id(text: &str) -> String {
    text.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().expect("an id").to_owned()
}

#[tokio::test]
async fn alerts_arrive_as_they_happen_with_corrections_and_without_what_is_filtered() {
    let engine = Engine::start().await;
    let mut watch = Watch::open(&engine, "/v1/alerts/watch?min_severity=high").await;
    send(&engine, "id-1", Severity::High, Status::Open);
    send(&engine, "id-2", Severity::Low, Status::Open);
    engine.watchers.sessions.tell([sessions().remove(0)]);
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
    engine.watchers.sessions.tell([session]);
    let text = watch.read_until("\"agent_id\":\"a0\"").await;
    assert_eq!(text.lines().filter(|line| line.starts_with("event: alert")).count(), 0, "{text}");
}

#[tokio::test]
async fn a_slow_reader_is_cut_off_with_what_it_missed() {
    let engine = Engine::start().await;
    let mut watch = Watch::open(&engine, "/v1/alerts/watch").await;
    // At once: the watch can't read meanwhile.
    engine.watchers.alerts.tell((0..KEPT + 10).map(|n| alert(&format!("id-{n}"), Severity::Low, Status::Open)));
    let text = watch.read_until("event: cut_off").await;
    assert!(text.contains("\"missed\":10,"), "{}", &text[..text.len().min(400)]);
    watch.read_until("connect again").await;
    while let Some(more) = watch.response.chunk().await.expect("a good end") {
        assert!(!String::from_utf8_lossy(&more).contains("event:"), "nothing comes after it");
    }
}

#[tokio::test]
async fn a_watch_is_resumed_where_it_was() {
    let engine = Engine::start().await;
    let mut watch = Watch::open(&engine, "/v1/alerts/watch").await;
    let first = last_id(&watch.text);
    send(&engine, "id-1", Severity::High, Status::Open);
    send(&engine, "id-2", Severity::High, Status::Open);
    let text = watch.read_until("id-2").await.to_owned();
    drop(watch);
    send(&engine, "id-3", Severity::Low, Status::Open);
    send(&engine, "id-4", Severity::High, Status::Open);
    let after = text.split("\n\n").find(|event| event.contains("id-1")).map(last_id).expect("an id");
    let mut watch = Watch::resume(&engine, "/v1/alerts/watch?min_severity=high", Some(&after)).await;
    let text = watch.read_until("id-4").await;
    assert!(text.contains("\"resumed\":true") && text.contains("id-2"), "{text}");
    assert!(!text.contains("id-1\"") && !text.contains("id-3") && !text.contains("event: reset"), "{text}");
    let mut watch = Watch::resume(&engine, "/v1/alerts/watch", Some(&first)).await;
    assert!(watch.read_until("id-4").await.contains("id-1\""));
}

#[tokio::test]
async fn a_watch_that_cannot_be_resumed_begins_anew_with_what_there_is() {
    let engine = Engine::start().await;
    let of_another_run = "61c2b1f0aa-7";
    let watch = Watch::resume(&engine, "/v1/alerts/watch?min_severity=high", Some(of_another_run)).await;
    let order = ["event: reset", "\"as_of\":7,\"total\":2", "id-critical", "id-high", "event: watching", "id: "];
    let at: Vec<_> = order.iter().map(|part| watch.text.find(part)).collect();
    assert!(at.is_sorted() && at.iter().all(Option::is_some), "{at:?}: {}", watch.text);
    assert!(watch.text.contains("is not kept any more"), "{}", watch.text);
    // Too long ago.
    let id = last_id(&watch.text);
    engine.watchers.alerts.tell((0..KEPT + 1).map(|n| alert(&format!("id-{n}"), Severity::Low, Status::Open)));
    let mut again = Watch::resume(&engine, "/v1/alerts/watch", Some(&id)).await;
    assert_eq!(again.text.matches("event: alert\n").count(), 3, "{}", again.text);
    send(&engine, "id-now", Severity::Low, Status::Open);
    again.read_until("id-now").await;
    let sessions = Watch::resume(&engine, "/v1/sessions/watch", Some("garbage")).await;
    assert_eq!(sessions.text.matches("event: session\n").count(), 8, "{}", sessions.text);
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
