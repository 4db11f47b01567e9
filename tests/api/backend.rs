//! A stand-in for the engine behind a handle: fixed rows, filtered and sorted as the views say, and rule sets that switch.

#[path = "../sample/mod.rs"]
mod sample;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clawdstrike_edr::alert::{Alert, Evidence, Status};
use clawdstrike_edr::api;
use clawdstrike_edr::api::tokens::Tokens;
use clawdstrike_edr::config::{self, Api};
use clawdstrike_edr::inbox::again::Asks;
use clawdstrike_edr::loads::InForce;
use clawdstrike_edr::render::settings::{Settings, SourceInfo};
use clawdstrike_edr::response::Orchestrator;
use clawdstrike_edr::runtime::handle::{
    ActiveRules, Handle, Loaded, Moment, REQUESTS, Request, Stats, Tellers, WhatIf, feeds,
};
use clawdstrike_edr::session::{RecentEvent, SessionView};
use clawdstrike_edr::timestamp::Timestamp;
use clawdstrike_edr::view::{AgentView, AlertSort, Answer, Query, Ranked, Rows, SessionSort, StateView, Top};
use clawdstrike_rules::plan::{ActionKind, Severity};
use clawdstrike_telemetry::EventType;
use reqwest::header::HeaderMap;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// An escape sequence, a bidi override and a line break, as an attacker would write them into a target.
pub(crate) const HOSTILE: &str = "/tmp/\u{1b}[31mx\u{202e}y\u{9b}2J\nforged";

pub(crate) const RULE: &str = "\
rules:
  - id: MANY_READS
    name: Many reads
    severity: high
    conditions:
      - {type: threshold, window: 1m, event_type: file_access, count: \"> 5\"}
";

/// A running API over the stand-in.
pub(crate) struct Engine {
    pub(crate) address: SocketAddr,
    pub(crate) watchers: Arc<Tellers>,
    pub(crate) stats: watch::Sender<Stats>,
    pub(crate) state: tempfile::TempDir,
    pub(crate) response: Orchestrator,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
    backend: JoinHandle<()>,
}

impl Engine {
    pub(crate) async fn start() -> Engine {
        Engine::start_as(true).await
    }

    pub(crate) async fn start_as(allow_anonymous: bool) -> Engine {
        Engine::start_with(Api { allow_anonymous, ..Api::default() }).await
    }

    /// As configured, but on a free port.
    pub(crate) async fn start_with(config: Api) -> Engine {
        Engine::start_acting(config, config::Response::default()).await
    }

    /// With these bounds on responses; nobody is asked, and quarantines wait for an approval.
    pub(crate) async fn start_acting(config: Api, response: config::Response) -> Engine {
        let (requests, inbox) = mpsc::channel(REQUESTS);
        let (watchers, feeds) = feeds();
        let watchers = Arc::new(watchers);
        let rules = Arc::new(watch::Sender::new(Arc::new(no_rules())));
        let (stats, stats_seen) = watch::channel(Stats { epoch: 7, ..Stats::default() });
        let state = tempfile::tempdir().expect("a folder");
        let response = config::Response {
            agent_control_api: Some("http://127.0.0.1:9".into()),
            requires_approval: vec![ActionKind::QuarantineAgent],
            ..response
        };
        let response = Orchestrator::start(&response, state.path()).expect("a ledger");
        let handle =
            Handle::new(requests, feeds, rules, stats_seen).with_actions(response.actions()).with_what_if(what_if());
        let backend = tokio::spawn(answer(inbox, watchers.clone()));
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            // Dropping the sender stops the server too.
            let _ = stopped.await;
        };
        let config = Api { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..config };
        let (address, server) = api::serve(&config, state.path(), handle, shutdown).await.expect("a free port");
        Engine { address, watchers, stats, state, response, stop: Some(stop), server, backend }
    }

    pub(crate) fn url(&self, route: &str) -> String {
        format!("http://{}{route}", self.address)
    }

    pub(crate) fn tokens(&self) -> Tokens {
        Tokens::of(self.state.path())
    }

    /// A token of this role, named for it, that the server knows already.
    pub(crate) async fn token(&self, role: &str) -> String {
        let secret = self.tokens().create(role, role, 0, None).expect("a token").secret;
        until("the token is known", || async { self.ask("GET", "/v1/openapi.json", Some(&secret)).await.0 == 200 })
            .await;
        secret
    }

    /// A request with a token, or without: status, headers and JSON.
    pub(crate) async fn ask(&self, method: &str, route: &str, token: Option<&str>) -> (u16, HeaderMap, Value) {
        let mut request = http().request(method.parse().expect("a method"), self.url(route));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let is_stream = headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
        let body = if is_stream { Value::Null } else { response.json().await.unwrap_or_default() };
        (status, headers, body)
    }

    /// GET: status and JSON.
    pub(crate) async fn get(&self, route: &str) -> (u16, Value) {
        let response = http().get(self.url(route)).send().await.expect("an answer");
        (response.status().as_u16(), response.json().await.expect("JSON"))
    }

    /// POST of a JSON body: status and JSON.
    pub(crate) async fn post(&self, route: &str, body: &Value) -> (u16, Value) {
        let response = http().post(self.url(route)).json(body).send().await.expect("an answer");
        (response.status().as_u16(), response.json().await.expect("JSON"))
    }

    /// POST of nothing in particular, with a token: status and JSON.
    pub(crate) async fn act(&self, route: &str, token: &str) -> (u16, Value) {
        let request = http().post(self.url(route)).bearer_auth(token).json(&serde_json::json!({}));
        let response = request.send().await.expect("an answer");
        (response.status().as_u16(), response.json().await.expect("JSON"))
    }

    /// Ends the dataflow's side: from now on nobody answers requests.
    pub(crate) async fn kill_backend(&mut self) {
        self.backend.abort();
        let ended = (&mut self.backend).await;
        assert!(ended.is_err(), "the stand-in ends only when told to");
    }

    /// Asks the server to stop and waits until it has.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        tokio::time::timeout(Duration::from_secs(20), self.server).await.expect("the server stops").expect("no panic");
    }
}

pub(crate) fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().expect("a client")
}

/// Polls until the condition holds; fails after ten seconds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition().await {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn no_rules() -> ActiveRules {
    ActiveRules {
        set: Arc::default(),
        warnings: Vec::new(),
        files: Vec::new(),
        digest: String::new(),
        epoch: 0,
        last_error: None,
    }
}

async fn answer(mut inbox: mpsc::Receiver<Request>, watchers: Arc<Tellers>) {
    let mut epoch = 7;
    while let Some(request) = inbox.recv().await {
        // A client that has gone wants no answer.
        let _ = match request {
            Request::Peek(query, to) => to.send(peek(epoch, query)).map_err(drop),
            Request::Handle(id, mut handling) => {
                if let Some(mut alert) = alerts().into_iter().find(|a| a.alert_id == id) {
                    handling.made_at(alert.match_count);
                    alert.status = handling.status(alert.status, alert.match_count);
                    alert.handling = handling;
                    watchers.alerts.tell([alert]);
                }
                Ok(())
            }
            Request::Moment(to) => to.send(nothing_read(epoch)).map_err(drop),
            Request::Rules(_, to) => {
                epoch += 1;
                to.send(Loaded { epoch, watermark: None }).map_err(drop)
            }
        };
    }
}

/// The world of a what-if before anything was read.
fn nothing_read(epoch: u64) -> Moment {
    Moment {
        epoch,
        watermark: None,
        set: Arc::default(),
        in_force: InForce::default(),
        read: Vec::new(),
        positions: Vec::new(),
    }
}

/// What-ifs over a source that never says what it has: with a new rule they don't end by themselves.
fn what_if() -> WhatIf {
    let source = SourceInfo { name: "silent".into(), by_reference: false };
    let read = |asks: Asks| {
        asks.for_each(drop);
        vec!["source \"silent\" says nothing".to_owned()]
    };
    WhatIf::new(Settings::new(&config::Limits::default(), vec![source]), vec![7; 192], Arc::new(read))
}

fn peek(epoch: u64, query: Query) -> Answer {
    match query {
        Query::Sessions { filter, sort, limit, after } => {
            let rows = sessions().into_iter().filter(|s| filter.accepts(s)).collect();
            page(epoch, rows, Top::new(sort, after, limit), Rows::Sessions)
        }
        Query::SessionsById(keys) => {
            let key = |s: &SessionView| (s.tenant_id.clone(), s.agent_id.clone(), s.session_id.clone());
            let rows = sessions().into_iter().filter(|s| keys.contains(&key(s))).collect();
            page(epoch, rows, Top::new(SessionSort::FirstSeen, None, usize::MAX), Rows::Sessions)
        }
        Query::Alerts { filter, sort, limit, after } => {
            let rows = alerts().into_iter().filter(|a| filter.accepts(a)).collect();
            page(epoch, rows, Top::new(sort, after, limit), Rows::Alerts)
        }
        Query::Alert(id) => {
            let rows = alerts().into_iter().filter(|a| a.alert_id == id).collect();
            page(epoch, rows, Top::new(AlertSort::LastSeen, None, usize::MAX), Rows::Alerts)
        }
        Query::State => Answer { epoch, total: 0, rows: Rows::State(StateView { hits: 3, ..StateView::default() }) },
        Query::Agents { filter, sort, limit, after } => {
            let rows = agents().into_iter().filter(|a| filter.accepts(a)).collect();
            page(epoch, rows, Top::new(sort, after, limit), Rows::Agents)
        }
    }
}

fn page<T: Ranked>(epoch: u64, rows: Vec<T>, mut top: Top<T>, wrap: fn(Vec<T>) -> Rows) -> Answer {
    rows.into_iter().for_each(|row| top.offer(row));
    Answer { epoch, total: top.total(), rows: wrap(top.into_rows()) }
}

/// 2024-05-01T12:00:00Z.
const NOON: i64 = 1_714_564_800_000_000;

/// Agents `a0` to `a4` with one session each, risk 0 to 80, the odd ones idle; one of tenant `t`; one with hostile ids.
pub(crate) fn sessions() -> Vec<SessionView> {
    let mut all: Vec<_> =
        (0..5u8).map(|i| session("", &format!("a{i}"), "s", f64::from(i) * 20.0, i % 2 == 1)).collect();
    all.push(session("t", "a0", "s", 5.0, false));
    all.push(session("", "a/../b?c#d", "%2e", 1.0, false));
    all.push(session("", "..", ".", 2.0, false));
    all
}

fn session(tenant: &str, agent: &str, session: &str, risk: f64, idle: bool) -> SessionView {
    SessionView {
        tenant_id: tenant.into(),
        agent_id: agent.into(),
        session_id: session.into(),
        resumed: false,
        idle,
        events: 10 + risk as u64,
        violations: 2,
        by_type: [7, 0, 3, 0, 0, 0, 0],
        unique_targets: 4,
        unique_targets_exact: true,
        first_seen: NOON,
        last_seen: NOON + risk as i64,
        risk_score: risk,
        open_alerts: 0,
        last_events: vec![RecentEvent {
            time: NOON,
            event_type: EventType::FileAccess,
            target: HOSTILE.into(),
            allowed: false,
        }],
        flags: vec!["clock_skew".into()],
    }
}

/// One alert of each of three severities, and a retracted one.
pub(crate) fn alerts() -> Vec<Alert> {
    vec![
        alert("id-low", Severity::Low, Status::Open),
        alert("id-high", Severity::High, Status::Updated),
        alert("id-critical", Severity::Critical, Status::Open),
        alert("id-gone", Severity::Critical, Status::Retracted),
    ]
}

pub(crate) fn alert(id: &str, severity: Severity, status: Status) -> Alert {
    Alert {
        alert_id: id.into(),
        revision: 3,
        rule_id: format!("RULE_{severity:?}").to_uppercase(),
        rule_name: "a rule".into(),
        rule_version: "ab12".into(),
        severity,
        status,
        group: vec![("session_id".into(), "s".into()), ("agent_id".into(), "a\u{202e}0".into())],
        agent_id: "a\u{202e}0".into(),
        session_id: "s".into(),
        first_seen: NOON,
        last_seen: NOON,
        evidence: vec![Evidence {
            id: "e1".into(),
            step: 1,
            time: NOON,
            event_type: EventType::FileAccess,
            target: HOSTILE.into(),
            allowed: true,
        }],
        attack: vec!["T1552".into()],
        ..sample::alert()
    }
}

fn agents() -> Vec<AgentView> {
    let agent = |agent_id: &str, max_risk| AgentView {
        tenant_id: String::new(),
        agent_id: agent_id.into(),
        sessions: 1,
        events: 10,
        violations: 2,
        open_alerts: 1,
        max_risk,
        last_seen: Timestamp(NOON),
    };
    vec![agent("a4", 80.0), agent("a3", 60.0), agent(HOSTILE, 0.0)]
}
