//! The response orchestrator against real HTTP receivers that fail, hang, redirect, or are down.

#[path = "response/control.rs"]
mod control;
#[path = "response/fleet.rs"]
mod fleet;
#[path = "response/ledger.rs"]
mod ledger;
#[path = "response/mirror.rs"]
mod mirror;
mod sample;
#[path = "response/trouble.rs"]
mod trouble;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::response::IntoResponse;
use clawdstrike_agent_control::Receiver;
use clawdstrike_edr::alert::{Alert, Evidence, Status};
use clawdstrike_edr::config;
use clawdstrike_edr::response::{Decision, Entry, Filter, Limits, Objection, Orchestrator, State};
use clawdstrike_rules::plan::{Action, ActionKind};
use clawdstrike_telemetry::EventType;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

const DEADLINE: Duration = Duration::from_secs(20);
const NOTHING_PENDING: u64 = u64::MAX;

fn config(webhook: Option<SocketAddr>, control: Option<SocketAddr>) -> config::Response {
    config::Response {
        soc_webhook: webhook.map(|a| format!("http://{a}/hook?token=s3cret")),
        agent_control_api: control.map(|a| format!("http://{a}/api/")),
        max_actions_per_hour: 1_000_000,
        max_actions_per_agent_per_hour: 1_000_000,
        max_quarantined_percent: 100,
        ..config::Response::default()
    }
}

fn quick() -> Limits {
    Limits {
        first_delay: Duration::from_millis(5),
        max_delay: Duration::from_millis(50),
        timeout: Duration::from_secs(5),
        ..Limits::default()
    }
}

/// Both receivers in one, as the configuration above has them.
fn receiver() -> Receiver {
    Receiver::new().below("/api")
}

/// One that refuses everything with this status.
fn refusing(status: StatusCode) -> Receiver {
    receiver().but(move |_, _| Some(status.into_response()))
}

async fn serve(receiver: &Receiver) -> SocketAddr {
    receiver.serve().await.expect("a free port")
}

/// An orchestrator with a ledger in a folder of its own.
struct Running {
    orchestrator: Orchestrator,
    folder: tempfile::TempDir,
}

impl Running {
    fn new(config: &config::Response, limits: Limits) -> Running {
        let folder = tempfile::tempdir().expect("a folder");
        Running { orchestrator: open(config, folder.path(), limits), folder }
    }

    /// As after SIGKILL: what is under way ends, and the next process opens the ledger.
    async fn crash(self, config: &config::Response, limits: Limits) -> Running {
        let Running { orchestrator, folder } = self;
        drop(orchestrator);
        Running::reopen(folder, config, limits).await
    }

    /// On another thread: what the former one had under way must come to its end here.
    async fn reopen(folder: tempfile::TempDir, config: &config::Response, limits: Limits) -> Running {
        let config = config.clone();
        let opened = move || Running { orchestrator: open(&config, folder.path(), limits), folder };
        tokio::task::spawn_blocking(opened).await.expect("no panic")
    }

    async fn submit(&self, epoch: u64, alert: Arc<Alert>) {
        self.orchestrator.submit(epoch, [Alert::clone(&alert)].into()).await;
    }

    async fn rows(&self) -> Vec<Entry> {
        let (_, rows) = self.actions().list(Filter::default(), 10_000, None).await.expect("a ledger");
        rows.into_iter().map(|(_, entry)| entry).collect()
    }

    /// Actions in this state.
    async fn count(&self, state: State) -> u64 {
        let totals = self.actions().totals().await.expect("a ledger");
        totals.into_iter().find(|(s, _)| *s == state).map_or(0, |(_, n)| n)
    }

    /// Of one look: between two an action may go from one of the states to the other.
    async fn unfinished(&self) -> u64 {
        let totals = self.actions().totals().await.expect("a ledger").into_iter();
        totals.filter(|(state, _)| matches!(state, State::Pending | State::Sent)).map(|(_, n)| n).sum()
    }

    /// The only row's.
    async fn state(&self) -> State {
        let rows = self.rows().await;
        assert_eq!(rows.len(), 1, "{rows:?}");
        rows[0].state
    }

    async fn drain(self, deadline: Duration) -> u64 {
        self.orchestrator.drain(deadline).await
    }
}

impl Deref for Running {
    type Target = Orchestrator;
    fn deref(&self) -> &Orchestrator {
        &self.orchestrator
    }
}

fn open(config: &config::Response, state: &Path, limits: Limits) -> Orchestrator {
    Orchestrator::with_limits(config, state, limits).expect("a good configuration")
}

fn start(webhook: Option<SocketAddr>, control: Option<SocketAddr>) -> Running {
    Running::new(&config(webhook, control), quick())
}

fn action(kind: ActionKind) -> Action {
    Action { kind, params: Default::default() }
}

fn with_params(kind: ActionKind, params: Value) -> Action {
    Action { kind, params: serde_json::from_value(params).expect("an object") }
}

fn alert(id: &str, actions: &[Action]) -> Alert {
    Alert {
        alert_id: id.into(),
        rule_version: "v".into(),
        first_seen: 1_714_989_600_000_000,
        last_seen: 1_714_989_600_000_000,
        risk_score: 42.0,
        evidence: vec![Evidence {
            id: "e1".into(),
            step: 1,
            time: 1_714_989_600_000_000,
            event_type: EventType::FileAccess,
            target: "/home/u/.ssh/id_rsa".into(),
            allowed: true,
        }],
        attack: vec!["T1552.004".into()],
        actions: actions.to_vec(),
        trigger_event: r#"{"event_id":"e2","action":{"target":"evil.io:443"}}"#.into(),
        ..sample::alert()
    }
}

fn version(of: &Alert, revision: u64, status: Status) -> Arc<Alert> {
    Arc::new(Alert { revision, status, ..of.clone() })
}

/// Polls until the condition holds.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn recorded(orchestrator: &Orchestrator) {
    until("everything is in the ledger", || orchestrator.acked_epoch() == NOTHING_PENDING).await;
}

async fn all_done(running: &Running) {
    recorded(running).await;
    let deadline = Instant::now() + DEADLINE;
    while running.unfinished().await > 0 {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {:?}", running.rows().await);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn each_action_is_sent_once_as_in_the_brief() {
    let (soc, control) = (receiver(), receiver());
    let orchestrator = start(Some(serve(&soc).await), Some(serve(&control).await));
    let alert = alert(
        "a1",
        &[
            action(ActionKind::TerminateSession),
            action(ActionKind::AlertSoc),
            action(ActionKind::QuarantineAgent),
            with_params(ActionKind::RateLimit, json!({"requests_per_minute": 3})),
            action(ActionKind::IncreaseLogging),
            action(ActionKind::SnapshotSession),
            with_params(ActionKind::UpdatePolicy, json!({"policy_patch": {"egress": "deny"}})),
            action(ActionKind::Alert),
        ],
    );
    for revision in 1..=3 {
        orchestrator.submit(revision, version(&alert, revision, Status::Open)).await;
        orchestrator.submit(revision, version(&alert, revision, Status::Updated)).await;
    }
    all_done(&orchestrator).await;

    let sent: BTreeSet<String> =
        control.received().iter().map(|r| format!("{} {}", r.path, r.body.clone().unwrap_or_default())).collect();
    let expected = [
        "/api/agents/agent-1/logging {\"level\":\"debug\"}",
        "/api/agents/agent-1/policy {\"policy_patch\":{\"egress\":\"deny\"}}",
        "/api/agents/agent-1/quarantine {\"duration_secs\":3600}",
        "/api/agents/agent-1/rate_limit {\"requests_per_minute\":3}",
        "/api/agents/agent-1/sessions/s-1/snapshot null",
        "/api/agents/agent-1/sessions/s-1/terminate null",
    ];
    assert_eq!(sent.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    assert_eq!((control.received().len(), soc.received().len()), (6, 1));
    let keys: BTreeSet<String> = control.received().into_iter().chain(soc.received()).map(|r| r.key).collect();
    assert!(keys.len() == 7 && keys.iter().all(|k| k.len() == 64), "{keys:?}");
    let counts = orchestrator.counts();
    assert_eq!((counts.sent, counts.logged, counts.retries, counts.failed), (7, 1, 0, 0));
    assert_eq!(orchestrator.drain(DEADLINE).await, NOTHING_PENDING);
}

#[tokio::test]
async fn the_webhook_has_the_briefs_fields_and_the_status() {
    let soc = receiver();
    let orchestrator = start(Some(serve(&soc).await), None);
    orchestrator.submit(1, Arc::new(alert("a1", &[action(ActionKind::AlertSoc)]))).await;
    all_done(&orchestrator).await;

    let received = soc.received().remove(0);
    assert_eq!(received.path, "/hook?token=s3cret");
    let body = received.body.expect("a body");
    for (field, value) in [
        ("alert_id", json!("a1")),
        ("rule_id", json!("CREDENTIAL_EXFILTRATION")),
        ("rule_name", json!("Credential Exfiltration Attempt")),
        ("severity", json!("critical")),
        ("agent_id", json!("agent-1")),
        ("session_id", json!("s-1")),
        ("timestamp", json!("2024-05-06T10:00:00.000000Z")),
        ("status", json!("open")),
        (
            "context",
            json!({"trigger_event": {"event_id": "e2", "action": {"target": "evil.io:443"}}, "session_risk_score": 42.0}),
        ),
    ] {
        assert_eq!(body[field], value, "{field}");
    }
}

#[tokio::test]
async fn a_retraction_is_told_once_and_after_the_opening() {
    // The opening is refused for a while, so the retraction comes while it is on its way.
    let soc = receiver().but(|index, _| (index < 4).then(|| StatusCode::SERVICE_UNAVAILABLE.into_response()));
    let orchestrator = start(Some(serve(&soc).await), None);
    let alert = alert("a1", &[action(ActionKind::AlertSoc)]);
    orchestrator.submit(1, version(&alert, 1, Status::Open)).await;
    until("the opening is on its way", || !soc.received().is_empty()).await;
    for revision in 2..=3 {
        orchestrator.submit(revision, version(&alert, revision, Status::Retracted)).await;
    }
    all_done(&orchestrator).await;
    let statuses: Vec<Value> =
        soc.received().iter().map(|r| r.body.clone().expect("a body")["status"].clone()).collect();
    assert_eq!(statuses, ["open", "open", "open", "open", "open", "retracted"]);
    assert_ne!(soc.received()[4].key, soc.received()[5].key);
}

#[tokio::test]
async fn nobody_is_told_of_the_retraction_of_what_they_never_heard() {
    let soc = refusing(StatusCode::BAD_REQUEST);
    let orchestrator = start(Some(serve(&soc).await), None);
    orchestrator.submit(1, version(&alert("unheard", &[action(ActionKind::AlertSoc)]), 1, Status::Retracted)).await;
    let refused = alert("refused", &[action(ActionKind::AlertSoc)]);
    orchestrator.submit(1, version(&refused, 1, Status::Open)).await;
    all_done(&orchestrator).await;
    orchestrator.submit(2, version(&refused, 2, Status::Retracted)).await;
    all_done(&orchestrator).await;
    assert_eq!(soc.received().len(), 1);
}

#[tokio::test]
async fn what_may_pass_is_tried_again_with_the_same_key() {
    let answers = [503, 429, 408, 425, 500];
    let soc = receiver().but(move |index, _| {
        let status = answers.get(index)?;
        Some(StatusCode::from_u16(*status).expect("a status").into_response())
    });
    let orchestrator = start(Some(serve(&soc).await), None);
    orchestrator.submit(9, Arc::new(alert("a1", &[action(ActionKind::AlertSoc)]))).await;
    all_done(&orchestrator).await;
    assert_eq!((soc.received().len(), soc.deeds().len()), (answers.len() + 1, 1));
    assert_eq!(soc.received().iter().map(|r| &r.key).collect::<BTreeSet<_>>().len(), 1);
    assert_eq!((orchestrator.counts().retries, orchestrator.counts().sent), (5, 1));
    assert!(orchestrator.degraded().is_empty());
}

#[tokio::test]
async fn a_refusal_and_a_redirect_are_final() {
    let elsewhere = receiver();
    let target = format!("http://{}/stolen", serve(&elsewhere).await);
    let soc = refusing(StatusCode::NOT_FOUND);
    let moved = move || (StatusCode::TEMPORARY_REDIRECT, [("location", target.clone())]).into_response();
    let control = receiver().but(move |_, _| Some(moved()));
    let orchestrator = start(Some(serve(&soc).await), Some(serve(&control).await));
    orchestrator
        .submit(1, Arc::new(alert("a1", &[action(ActionKind::AlertSoc), action(ActionKind::QuarantineAgent)])))
        .await;
    all_done(&orchestrator).await;
    assert_eq!((soc.received().len(), control.received().len(), elsewhere.received().len()), (1, 1, 0));
    assert_eq!((orchestrator.counts().failed, orchestrator.counts().retries), (2, 0));
    assert_eq!(orchestrator.degraded()["soc_webhook"], "it answered 404");
}

#[tokio::test]
async fn retry_after_is_waited_for() {
    let later = || (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")]).into_response();
    let soc = receiver().but(move |index, _| (index == 0).then(later));
    let orchestrator = start(Some(serve(&soc).await), None);
    orchestrator.submit(1, Arc::new(alert("a1", &[action(ActionKind::AlertSoc)]))).await;
    all_done(&orchestrator).await;
    let received = soc.received();
    assert!(received[1].at - received[0].at >= Duration::from_secs(1));
}

#[tokio::test]
async fn no_receiver_is_asked_more_often_than_it_may_be() {
    let (soc, control) = (receiver(), receiver());
    let config = config::Response {
        soc_requests_per_second: Some(2),
        ..config(Some(serve(&soc).await), Some(serve(&control).await))
    };
    let (running, began) = (Running::new(&config, quick()), Instant::now());
    for n in 0..6 {
        let wanted = [action(ActionKind::AlertSoc), action(ActionKind::QuarantineAgent)];
        running.submit(n, Arc::new(alert(&format!("a{n}"), &wanted))).await;
    }
    until("the other receiver has everything", || control.deeds().len() == 6).await;
    all_done(&running).await;
    // Two at once, then four in two seconds.
    let last = soc.received().last().expect("a request").at;
    assert!(soc.deeds().len() == 6 && last - began >= Duration::from_millis(1_990), "{:?}", last - began);
}

#[tokio::test]
async fn what_waits_goes_together_where_that_is_asked_for() {
    // Only the first request is answered for a while, so the others wait.
    let soc = receiver().hanging();
    let limits = Limits { in_flight: 1, ..quick() };
    let config = config::Response { soc_batch: 4, ..config(Some(serve(&soc).await), None) };
    let running = Running::new(&config, limits);
    let alerts: Vec<Arc<Alert>> =
        (0..10).map(|n| Arc::new(alert(&format!("a{n}"), &[action(ActionKind::AlertSoc)]))).collect();
    running.submit(0, alerts[0].clone()).await;
    until("the first request", || soc.received().len() == 1).await;
    for (n, alert) in (1..).zip(&alerts[1..]) {
        running.submit(n, alert.clone()).await;
    }
    recorded(&running).await;
    soc.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    all_done(&running).await;
    let sizes: Vec<usize> =
        soc.received().iter().map(|r| r.body.as_ref().and_then(Value::as_array).map_or(1, Vec::len)).collect();
    assert_eq!(sizes, [1, 4, 4, 1]);
    let told: Vec<String> = soc.deeds().iter().map(|deed| deed.body["alert_id"].to_string()).collect();
    assert_eq!(told, (0..10).map(|n| format!("\"a{n}\"")).collect::<Vec<_>>());
    assert_eq!((running.count(State::Acknowledged).await, running.counts().sent), (10, 10));
}

#[tokio::test]
async fn what_is_refused_together_is_told_one_by_one() {
    let refuses = |text: &[u8]| text.windows(4).any(|part| part == b"\"a3\"");
    let soc = receiver()
        .hanging()
        .but(move |_, request| refuses(&request.raw).then(|| StatusCode::UNPROCESSABLE_ENTITY.into_response()));
    let limits = Limits { in_flight: 1, ..quick() };
    let config = config::Response { soc_batch: 10, ..config(Some(serve(&soc).await), None) };
    let running = Running::new(&config, limits);
    for n in 0..6 {
        running.submit(n, Arc::new(alert(&format!("a{n}"), &[action(ActionKind::AlertSoc)]))).await;
    }
    recorded(&running).await;
    soc.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    all_done(&running).await;
    let failed: Vec<String> =
        running.rows().await.into_iter().filter(|row| row.state == State::Failed).map(|row| row.alert_id).collect();
    assert_eq!(failed, ["a3"]);
    assert_eq!((soc.deeds().len(), running.count(State::Acknowledged).await), (5, 5));
}

#[tokio::test]
async fn a_slow_receiver_delays_only_itself() {
    let (soc, control) = (receiver().hanging(), receiver());
    let orchestrator = start(Some(serve(&soc).await), Some(serve(&control).await));
    for n in 0..100 {
        let alert = alert(&format!("a{n}"), &[action(ActionKind::AlertSoc), action(ActionKind::QuarantineAgent)]);
        orchestrator.submit(n, Arc::new(alert)).await;
    }
    until("the agents are quarantined", || control.received().len() == 100).await;
    recorded(&orchestrator).await;
    assert_eq!(orchestrator.unfinished().await, 100);
    soc.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    all_done(&orchestrator).await;
    assert_eq!(soc.received().iter().map(|r| r.key.clone()).collect::<BTreeSet<_>>().len(), 100);
}

#[tokio::test]
async fn a_receiver_that_is_down_gets_everything_once_it_is_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let orchestrator = start(Some(address), None);
    for n in 0..40 {
        orchestrator.submit(n, Arc::new(alert(&format!("a{n}"), &[action(ActionKind::AlertSoc)]))).await;
    }
    until("several attempts have failed", || orchestrator.counts().retries >= 20).await;
    assert!(orchestrator.degraded().contains_key("soc_webhook"));
    assert!(!orchestrator.degraded()["soc_webhook"].contains("s3cret"));

    let soc = receiver();
    soc.serve_on(TcpListener::bind(address).await.expect("the same port")).expect("an address");
    all_done(&orchestrator).await;
    let ids: BTreeSet<String> =
        soc.received().iter().map(|r| r.body.clone().expect("a body")["alert_id"].to_string()).collect();
    assert_eq!((soc.received().len(), ids.len()), (40, 40));
}

#[tokio::test]
async fn what_is_never_taken_is_given_up() {
    let soc = refusing(StatusCode::BAD_GATEWAY);
    let limits = Limits { give_up_after: Duration::from_millis(100), ..quick() };
    let config = config(Some(serve(&soc).await), None);
    let orchestrator = Running::new(&config, limits);
    orchestrator.submit(1, Arc::new(alert("a1", &[action(ActionKind::AlertSoc)]))).await;
    all_done(&orchestrator).await;
    assert_eq!((orchestrator.counts().failed, orchestrator.counts().sent), (1, 0));
    assert!(soc.received().len() >= 2, "given up after the first attempt");
}

#[tokio::test]
async fn what_has_no_room_in_memory_waits_in_the_ledger() {
    let soc = receiver().hanging();
    let limits = Limits { rows: 3, in_flight: 1, timeout: Duration::from_secs(60), ..quick() };
    let running = Running::new(&config(Some(serve(&soc).await), None), limits);
    for n in 0..500 {
        running.submit(n, Arc::new(alert(&format!("a{n}"), &[action(ActionKind::AlertSoc)]))).await;
    }
    recorded(&running).await;
    assert_eq!(running.unfinished().await, 500);
    soc.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    all_done(&running).await;
    let ids: Vec<Value> = soc.received().iter().map(|r| r.body.clone().expect("a body")["alert_id"].clone()).collect();
    assert_eq!(ids, (0..500).map(|n| json!(format!("a{n}"))).collect::<Vec<_>>(), "in order, each once");
}

#[tokio::test]
async fn ids_made_to_mislead_stay_in_their_place() {
    let control = receiver();
    let orchestrator = start(None, Some(serve(&control).await));
    let hostile = |id: &str, agent: &str, session: &str| Alert {
        agent_id: agent.into(),
        session_id: session.into(),
        ..alert(id, &[action(ActionKind::TerminateSession)])
    };
    orchestrator.submit(1, Arc::new(hostile("a1", "../../admin", "x/../y?z#%2f"))).await;
    orchestrator.submit(1, Arc::new(hostile("a2", "..", "s"))).await;
    orchestrator.submit(1, Arc::new(hostile("a3", "a", "."))).await;
    all_done(&orchestrator).await;
    let paths: Vec<String> = control.received().into_iter().map(|r| r.path).collect();
    assert_eq!(paths, ["/api/agents/..%2F..%2Fadmin/sessions/x%2F..%2Fy%3Fz%23%252f/terminate"]);
    assert_eq!((orchestrator.counts().sent, orchestrator.counts().refused), (1, 2));
}

#[tokio::test]
async fn a_dry_run_sends_nothing() {
    let soc = receiver();
    let config = config::Response { dry_run: true, ..config(Some(serve(&soc).await), None) };
    let orchestrator = Running::new(&config, quick());
    let alert = alert("a1", &[action(ActionKind::AlertSoc), action(ActionKind::QuarantineAgent)]);
    orchestrator.submit(1, version(&alert, 1, Status::Open)).await;
    orchestrator.submit(2, version(&alert, 2, Status::Retracted)).await;
    recorded(&orchestrator).await;
    assert_eq!(orchestrator.counts().dry_run, 2);
    assert_eq!(orchestrator.count(State::Cancelled).await, 2);
    assert_eq!(orchestrator.drain(DEADLINE).await, NOTHING_PENDING);
    assert!(soc.received().is_empty());
}

#[tokio::test]
async fn actions_that_may_not_or_cannot_run_are_counted() {
    let soc = receiver();
    let orchestrator = start(Some(serve(&soc).await), None);
    let held = with_params(ActionKind::AlertSoc, json!({"requires_approval": true}));
    orchestrator.submit(1, Arc::new(alert("a1", &[held, action(ActionKind::QuarantineAgent)]))).await;
    let shadow = Alert { run_actions: false, shadow: true, ..alert("a2", &[action(ActionKind::AlertSoc)]) };
    orchestrator.submit(1, Arc::new(shadow)).await;
    orchestrator.submit(1, version(&alert("a3", &[action(ActionKind::AlertSoc)]), 1, Status::Closed)).await;
    recorded(&orchestrator).await;
    let counts = orchestrator.counts();
    assert_eq!((counts.held, counts.unconfigured), (1, 1));
    assert_eq!(orchestrator.drain(DEADLINE).await, NOTHING_PENDING);
    assert!(soc.received().is_empty());
}

#[tokio::test]
async fn draining_ends_at_its_deadline_and_leaves_the_rest_in_the_ledger() {
    let (soc, control) = (receiver().hanging(), receiver());
    let config = config(Some(serve(&soc).await), Some(serve(&control).await));
    let running = Running::new(&config, quick());
    running.submit(4, Arc::new(alert("a1", &[action(ActionKind::QuarantineAgent)]))).await;
    running.submit(5, Arc::new(alert("a2", &[action(ActionKind::AlertSoc)]))).await;
    let Running { orchestrator, folder } = running;
    assert_eq!(orchestrator.drain(Duration::from_millis(300)).await, NOTHING_PENDING);
    assert_eq!(control.received().len(), 1);
    soc.gate.add_permits(10);
    let running = Running::reopen(folder, &config, quick()).await;
    all_done(&running).await;
    assert_eq!(running.count(State::Acknowledged).await, 2);
    assert_eq!(control.received().len(), 1);
}

#[tokio::test]
async fn a_configuration_without_a_usable_url_is_refused() {
    let config = config::Response { soc_webhook: Some("siem.example/hook".into()), ..Default::default() };
    let folder = tempfile::tempdir().expect("a folder");
    let error = Orchestrator::start(&config, folder.path()).err().expect("an error");
    assert!(error.contains("soc_webhook"), "{error}");
}
