//! A batch on its way into the store, in parts; narrowed down where the store refuses a row. Knows no store.

use super::super::Batch;

/// Most rows of alerts and sessions in one transaction, so that what is written isn't written again and again while the
/// store comes and goes.
const VERSIONS_PER_WRITE: usize = 2_000;

/// A batch on its way into the store: the parts that aren't there yet, last first.
pub(super) struct Work {
    parts: Vec<Batch>,
    refused: u64,
}

impl Work {
    /// All at once: events, and the positions that follow them.
    pub(super) fn new(batch: Batch) -> Work {
        Work { parts: vec![batch], refused: 0 }
    }

    /// Versions needn't be written at once.
    pub(super) fn of_versions(mut batch: Batch) -> Work {
        let mut work = Work { parts: Vec::new(), refused: 0 };
        while batch.rows() > VERSIONS_PER_WRITE {
            work.parts.push(split_off(&mut batch, VERSIONS_PER_WRITE));
        }
        work.parts.push(batch);
        work.parts.reverse();
        work
    }

    /// What to write next; whoever takes it writes it, or gives it to one of the two below.
    pub(super) fn next(&mut self) -> Option<Batch> {
        while let Some(part) = self.parts.pop() {
            if !part.is_empty() {
                return Some(part);
            }
        }
        None
    }

    /// The part wasn't written.
    pub(super) fn put_back(&mut self, part: Batch) {
        self.parts.push(part);
    }

    /// What isn't written yet.
    pub(super) fn into_parts(self) -> impl Iterator<Item = Batch> {
        self.parts.into_iter()
    }

    /// Rows that aren't written yet.
    pub(super) fn rows(&self) -> usize {
        self.parts.iter().map(Batch::rows).sum()
    }

    /// Rows that were left out.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// After a refusal: halves the part; or drops its only row, and gives that back. Positions stay with what is written
    /// last, so that they never run ahead of their events.
    pub(super) fn narrow(&mut self, mut part: Batch) -> Option<String> {
        match part.rows() {
            0 => {
                self.refused += 1;
                Some(format!("positions {:?}", part.positions))
            }
            1 => {
                self.refused += 1;
                let positions = std::mem::take(&mut part.positions);
                self.parts.push(Batch { positions, ..Batch::default() });
                Some(name_of(&part))
            }
            n => {
                let first = split_off(&mut part, n / 2);
                self.parts.push(part);
                self.parts.push(first);
                None
            }
        }
    }
}

/// Takes `count` rows, never positions, out of a batch.
fn split_off(batch: &mut Batch, mut count: usize) -> Batch {
    fn take<T>(rows: &mut Vec<T>, count: &mut usize) -> Vec<T> {
        let rest = rows.split_off((*count).min(rows.len()));
        *count -= rows.len();
        std::mem::replace(rows, rest)
    }
    Batch {
        alerts: take(&mut batch.alerts, &mut count),
        removed_sessions: take(&mut batch.removed_sessions, &mut count),
        sessions: take(&mut batch.sessions, &mut count),
        actions: take(&mut batch.actions, &mut count),
        audit: take(&mut batch.audit, &mut count),
        events: take(&mut batch.events, &mut count),
        positions: Vec::new(),
    }
}

/// A batch's first row, for a log; quoted, since agents choose most names.
fn name_of(batch: &Batch) -> String {
    let short = |text: &str| text.chars().take(200).collect::<String>();
    if let Some(alert) = batch.alerts.first() {
        return format!("alert {:?}", short(&alert.alert_id));
    }
    if let Some(action) = batch.actions.first() {
        return format!("action {:?} of alert {:?}", short(&action.key), short(&action.alert_id));
    }
    if let Some(row) = batch.audit.first() {
        return format!("row {} of the audit trail", row.seq);
    }
    if let Some(event) = batch.events.first() {
        return format!("event {:?} of agent {:?}", short(&event.key), short(&event.agent_id));
    }
    let session = batch.sessions.first().map(|s| (&s.view.agent_id, &s.view.session_id));
    let removed = batch.removed_sessions.first().map(|r| (&r.key.agent_id, &r.key.session_id));
    let (agent, id) = session.or(removed).map_or(Default::default(), |(a, s)| (short(a), short(s)));
    format!("session {id:?} of agent {agent:?}")
}
