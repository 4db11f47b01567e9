//! Replay: files through the very same dataflow, offline, as fast as they can be read (SPEC §13).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use clawdstrike_rules::plan::RuleSet;
use crossbeam_channel::Receiver;

use super::dead_letters;
use super::driver::{Crew, Kept, Outlet, Sequencer, Shared};
use crate::alert::{Alert, Status};
use crate::config::Limits;
use crate::inbox::{Inbox, Inboxes, Message};
use crate::render;
use crate::render::control::Counters;
use crate::render::detect::{SessionChange, Totals};
use crate::render::export::Exported;
use crate::render::ingest::EPOCH_RECORDS;
use crate::render::settings::{Settings, SourceInfo};
use crate::session::{SessionKey, SessionView};
use crate::source;

/// The name of the files' source: the first part of the id of evidence without an event_id.
const SOURCE: &str = "file";

/// Receives versions of alerts.
pub type OnChange = Box<dyn FnMut(&Alert) + Send>;

/// What to replay.
pub struct Replay {
    /// Files of JSON lines, in this order; `-` is standard input.
    pub files: Vec<PathBuf>,
    /// The rules.
    pub rules: RuleSet,
    /// Timely workers.
    pub workers: usize,
    /// Limits.
    pub limits: Limits,
    /// The wall clock, microseconds since 1970.
    pub now: i64,
    /// Receives every version of every alert as it happens.
    pub changes: Option<OnChange>,
    /// Records read so far, for a progress display.
    pub progress: Arc<AtomicU64>,
}

/// What a replay found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The final alerts, without retracted ones, by (first_seen, alert_id).
    pub alerts: Vec<Alert>,
    /// Every life of every session, by (first_seen, agent_id, session_id).
    pub sessions: Vec<SessionView>,
    /// Valid events, copies included.
    pub events: u64,
    /// Dead letters by reason.
    pub dead_letters: BTreeMap<String, u64>,
    /// Events whose time had to be the reference time.
    pub retimed: u64,
    /// Groups that lost kept events for want of room: their alerts may not be all there are.
    pub groups_shed: u64,
    /// Some of the events were one of a share that a store keeps: others like them were left out.
    pub sampled: bool,
}

/// What has left the dataflow, as a store would have it.
#[derive(Clone, Default)]
pub struct Collected {
    alerts: BTreeMap<String, Alert>,
    sessions: BTreeMap<SessionKey, SessionView>,
    counters: BTreeMap<u32, Counters>,
    groups_shed: u64,
}

impl Collected {
    /// Takes an epoch's changes: of each alert the highest revision counts, as in stores.
    pub fn take(&mut self, batch: Exported) {
        for alert in batch.alerts {
            match self.alerts.entry(alert.alert_id.clone()) {
                Entry::Occupied(kept) if kept.get().revision > alert.revision => {}
                Entry::Occupied(mut kept) => {
                    kept.insert(alert);
                }
                Entry::Vacant(free) => {
                    free.insert(alert);
                }
            }
        }
        for change in batch.sessions {
            match change {
                SessionChange::Gone(key) => {
                    self.sessions.remove(&key);
                }
                SessionChange::Now(view) | SessionChange::Left(view) => {
                    self.sessions.insert(SessionKey::of(&view), view);
                }
                SessionChange::Shed(groups) => self.groups_shed += groups,
            }
        }
    }

    /// Takes the workers' counters.
    pub fn count(&mut self, totals: &Totals) {
        self.counters = totals.workers.clone();
    }
}

struct Collector {
    into: Arc<Mutex<Collected>>,
    changes: Option<OnChange>,
    progress: Arc<AtomicU64>,
}

impl Outlet for Collector {
    fn offer(&mut self, batch: Exported, _totals: &Totals) -> Option<Exported> {
        if let Some(changes) = &mut self.changes {
            batch.alerts.iter().for_each(changes);
        }
        self.into.lock().unwrap_or_else(PoisonError::into_inner).take(batch);
        None
    }

    fn closed(&mut self, _epoch: u64, totals: &Totals) {
        let read = totals.workers.values().map(|c| c.events + c.dead_letters.values().sum::<u64>()).sum();
        self.progress.store(read, Ordering::Relaxed);
        self.into.lock().unwrap_or_else(PoisonError::into_inner).count(totals);
    }

    fn acked(&self) -> u64 {
        0
    }
}

/// Runs a replay to its end.
///
/// # Errors
/// A file can't be read; the text names it.
pub fn run(replay: Replay) -> Result<Outcome, String> {
    let (inboxes, receivers) = inboxes(replay.workers);
    let reader = source::start_files(0, SOURCE, &replay.files, inboxes.clone())?;
    let outcome = execute(replay, inboxes, receivers, EPOCH_RECORDS);
    reader.stop();
    outcome
}

/// Runs a replay of what `feed` sends, as the source `file`, in epochs of at most `epoch_records` records a worker. For
/// tests: batches, their order over partitions and epochs can then be anything. `replay.files` is passed over; `feed`
/// must say [`Message::Listed`] to every inbox when all partitions are assigned (before that nothing is ever forgotten),
/// and end with [`Message::Ended`].
///
/// # Errors
/// What `feed` reports as failed.
pub fn run_fed(replay: Replay, epoch_records: usize, feed: impl FnOnce(Inboxes) + Send) -> Result<Outcome, String> {
    let (inboxes, receivers) = inboxes(replay.workers);
    std::thread::scope(|scope| {
        let to = inboxes.clone();
        scope.spawn(move || feed(to));
        execute(replay, inboxes, receivers, epoch_records)
    })
}

fn inboxes(workers: usize) -> (Inboxes, Vec<Receiver<Message>>) {
    let (local, receivers): (Vec<Inbox>, Vec<_>) = (0..workers).map(|_| Inbox::new()).unzip();
    (Inboxes { first: 0, peers: workers, local }, receivers)
}

fn execute(
    replay: Replay,
    inboxes: Inboxes,
    receivers: Vec<Receiver<Message>>,
    epoch_records: usize,
) -> Result<Outcome, String> {
    let sources = vec![SourceInfo { name: SOURCE.into(), by_reference: false }];
    let settings = Settings { epoch_records, ..Settings::new(&replay.limits, sources) };
    let (dead, dead_thread) = dead_letters::start(None)?;
    let shared = Shared { dead, sources: 1, settings, failure: Arc::default() };
    let collected = Arc::new(Mutex::new(Collected::default()));
    let outlet = Collector { into: collected.clone(), changes: replay.changes, progress: replay.progress };
    let sequencer = Sequencer::offline(replay.rules, render::draw_secret()?, replay.now, Box::new(outlet));
    let crew = Crew::new(&inboxes, receivers, shared, Kept::default(), Some(sequencer));
    let config = timely::Config::process(replay.workers);
    let guards = timely::execute(config, move |worker| crew.run(worker))?;
    for result in guards.join() {
        result??;
    }
    dead_thread.join().map_err(|_| "the dead-letter writer panicked".to_owned())?;
    let collected = std::mem::take(&mut *collected.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(outcome(collected))
}

/// What a replay found that left this.
pub fn outcome(collected: Collected) -> Outcome {
    let mut out = Outcome {
        sessions: collected.sessions.into_values().collect(),
        groups_shed: collected.groups_shed,
        alerts: collected.alerts.into_values().filter(|a| a.status != Status::Retracted).collect(),
        ..Outcome::default()
    };
    for alert in &mut out.alerts {
        if let Some(at) = life_of(&out.sessions, alert) {
            // The session's score as it is at the end, whatever it was when the version was made.
            alert.risk_score = out.sessions[at].risk_score;
            out.sessions[at].open_alerts += 1;
        }
    }
    out.alerts.sort_by(|a, b| (a.first_seen, &a.alert_id).cmp(&(b.first_seen, &b.alert_id)));
    out.sessions.sort_by(|a, b| {
        (a.first_seen, &a.agent_id, &a.session_id, &a.tenant_id).cmp(&(
            b.first_seen,
            &b.agent_id,
            &b.session_id,
            &b.tenant_id,
        ))
    });
    for counters in collected.counters.into_values() {
        out.events += counters.events;
        out.retimed += counters.retimed;
        for (reason, n) in counters.dead_letters {
            *out.dead_letters.entry(reason).or_default() += n;
        }
    }
    out
}

/// The life that an alert began in, among lives by (tenant, agent, session, first_seen).
fn life_of(lives: &[SessionView], alert: &Alert) -> Option<usize> {
    let of_alert = (&alert.tenant_id, &alert.agent_id, &alert.session_id);
    let session = |s: &SessionView| (&s.tenant_id, &s.agent_id, &s.session_id).cmp(&of_alert);
    let from = lives.partition_point(|s| session(s).is_lt());
    let same = lives[from..].iter().take_while(|s| session(s).is_eq());
    let covers = |s: &SessionView| s.first_seen <= alert.first_seen && alert.first_seen <= s.last_seen;
    same.into_iter().position(covers).map(|at| from + at)
}
