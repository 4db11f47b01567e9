//! Rows for the tests of stores: plausible ones, and hostile ones.

#[path = "../sample/mod.rs"]
mod sample;

use std::time::{Duration, Instant};

use clawdstrike_edr::alert::{Alert, Deed, Evidence, Handling, Note, Status};
use clawdstrike_edr::session::{RecentEvent, SessionView};
use clawdstrike_edr::store::{ActionRow, AuditRow, EventRow, SessionRow};
use clawdstrike_rules::plan::{Action, ActionKind};
use clawdstrike_telemetry::EventType;

/// 2026-01-05T10:00:00Z in microseconds.
pub(crate) const T0: i64 = 1_767_607_200_000_000;

/// Quotes, SQL, HTML, a terminal escape, right-to-left override, NUL, a line break, an emoji.
pub(crate) const HOSTILE: &str =
    "'; DROP TABLE alerts; -- \" \\ <script> \u{1b}[2J \u{202e}gpj.exe \0 \r\n \u{1f600} {\"a\":1}";

/// What a store makes of [`HOSTILE`].
pub(crate) fn hostile_stored() -> String {
    HOSTILE.replace('\0', "\u{2400}")
}

pub(crate) fn alert(id: &str, revision: u64) -> Alert {
    Alert {
        alert_id: id.into(),
        revision,
        status: if revision == 1 { Status::Open } else { Status::Updated },
        first_seen: T0,
        last_seen: T0 + revision as i64,
        match_count: revision,
        evidence: vec![Evidence {
            id: "e-1".into(),
            step: 1,
            time: T0,
            event_type: EventType::FileAccess,
            target: "/home/u/.ssh/id_rsa".into(),
            allowed: true,
        }],
        attack: vec!["T1552".into()],
        actions: vec![Action { kind: ActionKind::AlertSoc, params: Default::default() }],
        trigger_event: "{}".into(),
        ..sample::alert()
    }
}

/// An alert that was acknowledged and then closed.
pub(crate) fn handled_alert(id: &str) -> Alert {
    let note = |at, deed, comment: &str| {
        Handling::of(Note { at, by: "ana".into(), deed, comment: comment.into(), matches: 1 })
    };
    let mut handling = note(T0 + 1, Deed::Acknowledge, HOSTILE);
    handling.join(note(T0 + 2, Deed::Close, ""));
    Alert { handling, ..alert(id, 3) }
}

pub(crate) fn session(session_id: &str, first_seen: i64, events: u64) -> SessionView {
    SessionView {
        tenant_id: String::new(),
        agent_id: "agent-1".into(),
        session_id: session_id.into(),
        resumed: false,
        idle: false,
        events,
        violations: 1,
        by_type: [events, 0, 0, 0, 0, 0, 0],
        unique_targets: 1,
        unique_targets_exact: true,
        first_seen,
        last_seen: first_seen + 5,
        risk_score: 10.0,
        open_alerts: 0,
        last_events: vec![RecentEvent {
            time: first_seen,
            event_type: EventType::FileAccess,
            target: "/a".into(),
            allowed: true,
        }],
        flags: Vec::new(),
    }
}

pub(crate) fn session_row(session_id: &str, first_seen: i64, events: u64, epoch: u64) -> SessionRow {
    SessionRow { view: session(session_id, first_seen, events), epoch }
}

pub(crate) fn action(key: &str, change: u64) -> ActionRow {
    ActionRow {
        key: key.into(),
        change,
        alert_id: "a-1".into(),
        revision: 1,
        rule_id: "CREDENTIAL_EXFILTRATION".into(),
        severity: "critical".into(),
        tenant_id: String::new(),
        agent_id: HOSTILE.into(),
        session_id: "s-1".into(),
        action: "quarantine_agent".into(),
        params: r#"{"duration":"1h"}"#.into(),
        receiver: None,
        state: if change == 1 { "pending" } else { "acknowledged" },
        reason: Some(HOSTILE.into()),
        decided_by: None,
        attempts: change as u32,
        alert_retracted: false,
        superseded_by: None,
        created_at: T0,
        updated_at: T0 + change as i64,
    }
}

pub(crate) fn audit(seq: u64) -> AuditRow {
    AuditRow {
        hash: format!("hash-{seq}"),
        seq,
        time: T0 + seq as i64,
        actor: HOSTILE.into(),
        actor_kind: "token".into(),
        address: Some("192.0.2.1:5000".into()),
        action: "rules.load".into(),
        outcome: "refused",
        detail: r#"{"code":"forbidden"}"#.into(),
        line: HOSTILE.into(),
    }
}

pub(crate) fn event(key: &str, time: i64) -> EventRow {
    EventRow {
        key: key.into(),
        time,
        tenant_id: String::new(),
        agent_id: "agent-1".into(),
        session_id: "s-1".into(),
        event_type: EventType::NetworkEgress,
        target: Some("api.example:443".into()),
        allowed: true,
        guard: "egress".into(),
        severity: "low".into(),
        risk_score: Some(10.0),
        metadata: r#"{"agent_id":"agent-1"}"#.into(),
        sample_share: 1.0,
        source_position: None,
    }
}

pub(crate) fn events(prefix: &str, count: usize, time: i64) -> Vec<EventRow> {
    (0..count).map(|i| event(&format!("{prefix}/{i}"), time + i as i64)).collect()
}

/// Events that an agent may make up to break a store, all within what decoding lets pass.
pub(crate) fn hostile_events() -> Vec<EventRow> {
    let named = |key: &str| EventRow { target: Some(HOSTILE.into()), guard: HOSTILE.into(), ..event(key, T0) };
    let json = |key: &str, text: String| EventRow { metadata: text, ..event(key, T0) };
    vec![
        named("hostile/text"),
        EventRow { target: Some("x".repeat(64 * 1024)), ..event("hostile/long", T0) },
        EventRow { key: "k".repeat(100_000), ..event("", T0) },
        EventRow { key: HOSTILE.into(), ..event("", T0) },
        EventRow { time: i64::MIN, ..event("hostile/first", T0) },
        EventRow { time: i64::MAX, ..event("hostile/last", T0) },
        EventRow { risk_score: Some(f64::NAN), ..event("hostile/score", T0) },
        json("hostile/nul", r#"{"a\u0000":"\u0000","b":"\\u0000"}"#.into()),
        json("hostile/surrogate", r#"{"a":"\ud800"}"#.into()),
        json("hostile/tiny", r#"{"a":1e-20000}"#.into()),
        json("hostile/digits", format!("{{\"a\":0.{}}}", "7".repeat(50_000))),
        json("hostile/deep", format!("{}1{}", "[".repeat(64), "]".repeat(64))),
    ]
}

/// An alert with hostile text wherever an agent can put some.
pub(crate) fn hostile_alert(id: &str) -> Alert {
    let mut alert = alert(id, 1);
    alert.agent_id = HOSTILE.into();
    alert.session_id = HOSTILE.into();
    alert.tenant_id = HOSTILE.into();
    alert.group = vec![("target".into(), HOSTILE.into())];
    alert.evidence[0].target = HOSTILE.repeat(500);
    alert.trigger_event = r#"{"a":"\u0000\ud800"}"#.into();
    alert.risk_score = f64::INFINITY;
    alert
}

/// How long anything may take here; services start and recover on busy machines.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// The future's value, within the deadline.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("not within {DEADLINE:?}"))
}

/// Waits until `condition` holds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let deadline = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
