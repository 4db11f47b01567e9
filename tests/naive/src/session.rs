//! Sessions: the lives of each (tenant, agent, session). Knows no rule.

use std::collections::BTreeMap;

use crate::event::{Event, distinct_targets};
use crate::{Options, SECOND, Session};

/// All lives of all sessions, sorted as [`crate::Outcome`] says.
pub(crate) fn sessions(events: &[Event], options: &Options) -> Vec<Session> {
    let mut ids: BTreeMap<(&str, &str, &str), Vec<&Event>> = BTreeMap::new();
    for event in events {
        let id = (&*event.tenant, &*event.agent, &*event.session);
        ids.entry(id).or_default().push(event);
    }
    let mut all = Vec::new();
    for events in ids.values() {
        let lives = events.chunk_by(|a, b| b.time - a.time <= options.session_retention);
        all.extend(lives.enumerate().map(|(nth, life)| session(life, nth > 0)));
    }
    all.sort_by(|a, b| order(a).cmp(&order(b)));
    all
}

fn order(session: &Session) -> (i64, &str, &str, &str) {
    (session.first_seen, &session.agent_id, &session.session_id, &session.tenant_id)
}

/// One life; it has at least one event.
fn session(life: &[&Event], resumed: bool) -> Session {
    let (first, last) = (life[0], life[life.len() - 1]);
    let mut by_type = BTreeMap::new();
    for event in life {
        *by_type.entry(event.event_type.name().to_owned()).or_default() += 1;
    }
    let mut session = Session {
        tenant_id: first.tenant.clone(),
        agent_id: first.agent.clone(),
        session_id: first.session.clone(),
        resumed,
        events: life.len() as u64,
        violations: life.iter().filter(|event| !event.allowed).count() as u64,
        by_type,
        unique_targets: distinct_targets(life.iter().copied()),
        first_seen: first.time,
        last_seen: last.time,
        risk_score: 0,
    };
    session.risk_score = risk_score(&session);
    session
}

/// 10 per violation, 20 if more than 0.8 of the events have a target of their own, 15 if it lasts over 120 whole
/// minutes; at most 100.
fn risk_score(session: &Session) -> u64 {
    let minutes = (session.last_seen - session.first_seen) / (60 * SECOND);
    let scattered = session.unique_targets as f64 / session.events as f64 > 0.8;
    let score = session.violations * 10 + if scattered { 20 } else { 0 } + if minutes > 120 { 15 } else { 0 };
    score.min(100)
}
