//! A simulated week, day by day: after each sweep exactly what isn't due is left.

use std::collections::BTreeSet;

use clawdstrike_edr::config::{Duration, Retention};
use clawdstrike_edr::store::Batch;

use super::rows::{action, alert, event, session_row};

pub(crate) const DAY: i64 = 86_400_000_000;
/// From one event to the next: no day and no hour is a multiple of it.
const APART: i64 = 41 * 1_000_000;
/// One in so many events has an alert, an action and a session.
const HISTORY_EACH: i64 = 10;

/// Events of three days, and history of five.
pub(crate) fn retention() -> Retention {
    Retention { events: Duration(3 * DAY), history: Some(Duration(5 * DAY)), max_size: None }
}

/// What happens in a day that begins at this time.
pub(crate) fn day(begin: i64) -> Batch {
    let mut batch = Batch::default();
    let first = (begin + APART - 1) / APART * APART;
    let times = (first..begin + DAY).step_by(APART as usize);
    for (n, time) in (0..).zip(times) {
        let mut row = event(&name(time), time);
        (row.agent_id, row.allowed) = (format!("agent-{}", n % 3), n % 7 != 0);
        batch.events.push(row);
        if n % HISTORY_EACH == 0 {
            let (mut alert, mut action) = (alert(&name(time), 1), action(&name(time), 1));
            (alert.first_seen, alert.last_seen, action.updated_at) = (time, time, time);
            batch.alerts.push(alert);
            batch.actions.push(action);
            let mut session = session_row(&name(time), time, 1, 1);
            session.view.last_seen = time;
            batch.sessions.push(session);
        }
    }
    batch
}

/// An event's key, an alert's id, an action's key, a session's id.
fn name(time: i64) -> String {
    format!("{time:020}")
}

/// The names that aren't due, of all that there ever were between these times; of events, and of history.
pub(crate) fn kept(all: &[Batch], due_events: i64, due_history: i64) -> (BTreeSet<String>, BTreeSet<String>) {
    let events = all.iter().flat_map(|day| &day.events).filter(|row| row.time >= due_events);
    let alerts = all.iter().flat_map(|day| &day.alerts).filter(|alert| alert.last_seen >= due_history);
    (events.map(|row| row.key.clone()).collect(), alerts.map(|alert| alert.alert_id.clone()).collect())
}

/// Events and violations in hours of which something isn't older than history.
pub(crate) fn counted(all: &[Batch], due_history: i64) -> (i64, i64) {
    const HOUR: i64 = 3_600_000_000;
    let left = |row: &&clawdstrike_edr::store::EventRow| (row.time / HOUR + 1) * HOUR > due_history;
    let rows: Vec<_> = all.iter().flat_map(|day| &day.events).filter(left).collect();
    (rows.len() as i64, rows.iter().filter(|row| !row.allowed).count() as i64)
}
