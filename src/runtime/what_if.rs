//! What-if: which alerts a proposed rule set would add, remove and change, were it loaded now.
//!
//! It is loaded: into a dataflow of one worker beside the running one, which begins as a cluster does that goes on from a
//! checkpoint under other rules. What that checkpoint would say comes from the running cluster at one moment: which rules are
//! in force since when, the watermark, how far was read, and the alerts that the load could touch. New and changed rules are
//! back-filled from the sources, up to where reading stood, by the very operators that do it after a load. Nothing leaves but
//! the answer: there is no store, no receiver, no watcher, no metric and no log.
//!
//! Rules that stay need none of their events here, for a load changes nothing of what they find.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clawdstrike_rules::plan::RuleSet;
use crossbeam_channel::bounded;
use tokio::sync::{Semaphore, oneshot};

use super::dead_letters;
use super::driver::{Before, Crew, Kept, Outlet, Sequencer, Shared};
use super::handle::{EngineError, Handle, Moment};
use crate::alert::{Alert, Status};
use crate::inbox::again::{Asks, ask_again};
use crate::inbox::{Inbox, Inboxes};
use crate::render::control::Restored;
use crate::render::detect::{SessionChange, Totals};
use crate::render::export::Exported;
use crate::render::kept_alerts;
use crate::render::settings::Settings;
use crate::session::SessionView;
use crate::spool::Progress;
use crate::view::{AlertFilter, AlertSort, Query, Ranked, Rows};
use crate::wall_clock;

/// Longest time that one may take.
pub const WITHIN: Duration = Duration::from_secs(120);
/// Alerts that a proposed set may touch or raise; bytes of them, about.
const MOST_ALERTS: usize = 100_000;
const MOST_BYTES: usize = 256 << 20;
/// Bytes that groups may hold meanwhile, beside those of the running dataflow.
const MOST_STATE: usize = 512 << 20;
/// Alerts that are asked for at a time.
const PAGE: usize = 2_000;
/// Alerts of each kind that an answer shows.
pub const SHOWN: usize = 1_000;
/// Sessions that are asked for at a time.
const SESSIONS: usize = 500;

/// Reads sources again for whoever asks, until they are gone; tells what couldn't be had.
pub type ReadAgain = Arc<dyn Fn(Asks) -> Vec<String> + Send + Sync>;

/// Answers what-ifs, one at a time.
pub struct WhatIf {
    settings: Settings,
    secret: Vec<u8>,
    read: ReadAgain,
    place: Arc<Semaphore>,
}

/// What a load would do to alerts.
#[derive(Debug, Default)]
pub struct Foretold {
    /// The epoch as of which it was asked.
    pub epoch: u64,
    /// The event-time bound then, microseconds since 1970: new rules look back from it.
    pub watermark: Option<i64>,
    /// Alerts that it would open, by (first_seen, alert_id); at most [`SHOWN`].
    pub added: Vec<Alert>,
    /// Open alerts that it would retract or close, as they are and as they would be; at most [`SHOWN`].
    pub removed: Vec<(Alert, Alert)>,
    /// Alerts that would stay open and say something else; at most [`SHOWN`].
    pub changed: Vec<(Alert, Alert)>,
    /// How many there are of each, also of those that aren't shown.
    pub totals: (u64, u64, u64),
    /// Open alerts that it would leave as they are.
    pub same: u64,
    /// What couldn't be seen, and why.
    pub incomplete: Vec<String>,
}

/// Ends the run when whoever asked is gone.
struct Cancel(Arc<OnceLock<String>>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.get_or_init(|| "nobody waits for it any more".to_owned());
    }
}

/// What the cluster has open.
struct Standing {
    /// Alerts that a load may touch, whatever became of them.
    touched: HashMap<String, Alert>,
    /// Open alerts that it can't.
    untouched: u64,
}

/// What the muted dataflow is given.
struct Muted {
    settings: Settings,
    secret: Vec<u8>,
    read: ReadAgain,
    set: RuleSet,
    moment: Moment,
    frames: Vec<Vec<u8>>,
    first_epoch: u64,
    failure: Arc<OnceLock<String>>,
}

/// What came out of it.
#[derive(Default)]
struct Versions {
    alerts: BTreeMap<String, Alert>,
    bytes: usize,
    shed: u64,
}

impl WhatIf {
    /// Of a cluster with these settings and this secret, whose sources `read` reads again.
    pub fn new(settings: Settings, secret: Vec<u8>, read: ReadAgain) -> WhatIf {
        WhatIf { settings, secret, read, place: Arc::new(Semaphore::new(1)) }
    }

    /// Tells what loading the set would do to the alerts of the cluster behind the handle.
    ///
    /// # Errors
    /// Another one is under way; it took too long; the set touches or raises too many alerts; the engine is stopping.
    pub(super) async fn foretell(&self, handle: &Handle, set: RuleSet) -> Result<Foretold, EngineError> {
        tokio::time::timeout(WITHIN, self.run(handle, set))
            .await
            .unwrap_or(Err(EngineError::WhatIfTimeout(WITHIN.as_secs())))
    }

    async fn run(&self, handle: &Handle, set: RuleSet) -> Result<Foretold, EngineError> {
        // Held by the run itself: one that was given up still has its memory until it has ended.
        let place = self.place.clone().try_acquire_owned().map_err(|_| EngineError::WhatIfBusy)?;
        let moment = handle.moment().await?;
        let mut incomplete = Vec::new();
        let waiting = waiting(&moment, &set);
        if !waiting.is_empty() {
            incomplete.push(format!(
                "rules that were loaded just now still wait for earlier events, and what they will find isn't told: {}; ask \
                 again when the log says that they have begun",
                waiting.join(", ")
            ));
        }
        let waiting: HashSet<String> = waiting.into_iter().map(str::to_owned).collect();
        let standing = standing(handle, &moment, &set).await?;
        let failure = Arc::new(OnceLock::new());
        let _cancel = Cancel(failure.clone());
        let latest = standing.touched.values().map(|alert| alert.revision).max().unwrap_or(0);
        let mut settings = self.settings.clone();
        settings.state_memory = settings.state_memory.min(MOST_STATE);
        settings.alerts_in_view = standing.touched.len() + MOST_ALERTS + 1;
        let muted = Muted {
            settings,
            secret: self.secret.clone(),
            read: self.read.clone(),
            set,
            frames: kept_alerts(&self.secret, standing.touched.values()),
            first_epoch: moment.epoch.max(latest) + 1,
            moment: moment.clone(),
            failure,
        };
        let (tell, told) = oneshot::channel();
        let work = move || {
            let _place = place;
            // Whoever asked may have given up.
            let _given_up = tell.send(muted.run());
        };
        let thread = std::thread::Builder::new().name("what-if".into()).spawn(work);
        thread
            .map_err(|e| EngineError::WhatIfFailed(format!("no thread for it: {e}; raise the limit of processes")))?;
        let ended =
            told.await.map_err(|_| EngineError::WhatIfFailed("its thread ended; see the engine's log".into()))?;
        let (versions, unread) = ended?;
        incomplete.extend(unread);
        if versions.shed > 0 {
            incomplete.push(format!(
                "{} groups lost events for want of memory, so alerts may be missing: propose rules with shorter windows",
                versions.shed
            ));
        }
        let mut foretold = compare(standing, versions, &waiting);
        set_risks(handle, &mut foretold).await?;
        Ok(Foretold { epoch: moment.epoch, watermark: moment.watermark, incomplete, ..foretold })
    }
}

/// Rules of the set that are in force, and still wait for earlier events.
fn waiting<'a>(moment: &'a Moment, set: &RuleSet) -> Vec<&'a str> {
    let stays = |id: &str, version: &str| set.rules.iter().any(|rule| rule.id == id && rule.version == version);
    let waits = moment.in_force.rules.iter().filter(|rule| !rule.filled && stays(&rule.rule, &rule.version));
    waits.map(|rule| rule.rule.as_str()).collect()
}

/// Asks for all alerts of the live view.
async fn standing(handle: &Handle, moment: &Moment, set: &RuleSet) -> Result<Standing, EngineError> {
    let known = moment.in_force.by_name();
    let stays = |rule: &clawdstrike_rules::plan::Rule| known.contains_key(&(rule.id.as_str(), rule.version.as_str()));
    // A load judges alerts of rules that stay only by another allowlist.
    let judged = moment.set.allowlist != set.allowlist;
    let untouched: HashSet<&str> = match judged {
        true => HashSet::new(),
        false => set.rules.iter().filter(|rule| stays(rule)).map(|rule| rule.id.as_str()).collect(),
    };
    let mut found = Standing { touched: HashMap::new(), untouched: 0 };
    let mut bytes = 0;
    // Without a status, retracted ones are left out.
    for status in [None, Some(Status::Retracted)] {
        let filter = AlertFilter { status, ..AlertFilter::default() };
        let sort = AlertSort::FirstSeen;
        let mut after = None;
        loop {
            let query = Query::Alerts { filter: filter.clone(), sort, limit: PAGE, after: after.take() };
            let Rows::Alerts(rows) = handle.peek(query).await?.rows else { break };
            after = rows.last().map(|last| last.place(sort));
            for alert in rows {
                if untouched.contains(alert.rule_id.as_str()) && !alert.rule_removed {
                    found.untouched += u64::from(alert.is_open());
                } else {
                    bytes += held(&alert);
                    found.touched.insert(alert.alert_id.clone(), alert);
                }
            }
            if found.touched.len() > MOST_ALERTS || bytes > MOST_BYTES {
                return Err(EngineError::WhatIfTooLarge(format!(
                    "the proposed set touches more than {MOST_ALERTS} alerts of the live view, or {} MiB of them",
                    MOST_BYTES >> 20
                )));
            }
            if after.is_none() {
                break;
            }
        }
    }
    Ok(found)
}

/// Bytes of an alert, about.
fn held(alert: &Alert) -> usize {
    let evidence = alert.evidence.iter().map(|e| size_of_val(e) + e.target.len() + e.id.len()).sum::<usize>();
    size_of::<Alert>() + alert.trigger_event.len() + evidence
}

impl Muted {
    /// Runs the dataflow to its end; gives what left it, and what couldn't be read again.
    fn run(self) -> Result<(Versions, Vec<String>), EngineError> {
        let failure = self.failure.clone();
        match self.execute() {
            Ok(Ok(ended)) => Ok(ended),
            Ok(Err(too_large)) => Err(EngineError::WhatIfTooLarge(too_large)),
            Err(reason) => {
                // A run that was given up says so to nobody.
                failure.get_or_init(|| reason.clone());
                Err(EngineError::WhatIfFailed(reason))
            }
        }
    }

    fn execute(self) -> Result<Result<(Versions, Vec<String>), String>, String> {
        let Muted { settings, secret, read, set, moment, frames, first_epoch, failure } = self;
        let (inbox, receiver) = Inbox::new();
        let inboxes = Inboxes { first: 0, peers: 1, local: vec![inbox] };
        let (again, asks) = ask_again(&inboxes.local);
        let progress =
            |next: u64| Progress { next, largest: None, latest: None, append: false, largest_timestamp: None };
        let (piece, back) = bounded(frames.len());
        for frame in frames {
            piece.send(frame).map_err(|_| "the pieces' receiver is gone")?;
        }
        drop(piece);
        let kept = Kept {
            before: moment.positions.iter().map(|(id, next)| (*id, progress(*next))).collect(),
            // There is one, so to say.
            checkpoint: 1,
            back: vec![back],
            again,
            ..Kept::default()
        };
        let (dead, dead_thread) = dead_letters::start(None)?;
        // It reads nothing but again, so no source has to tell that it has ended.
        let shared = Shared { dead, sources: 0, settings, failure: failure.clone() };
        let (leave, left) = bounded(1);
        let outlet = Takes { versions: Versions::default(), failure: failure.clone(), leave };
        let sequencer = Sequencer {
            restored: Some(Restored { checkpoint: 1, watermark: moment.watermark, acked: u64::MAX }),
            before: Some(Before { in_force: moment.in_force, watermark: moment.watermark, read: moment.read }),
            first_epoch,
            ..Sequencer::offline(set, secret, wall_clock::now(), Box::new(outlet))
        };
        let crew = Crew::new(&inboxes, vec![receiver], shared, kept, Some(sequencer));
        drop(inboxes);
        let reading = std::thread::Builder::new().name("what-if reads".into()).spawn(move || read(asks));
        let reading =
            reading.map_err(|e| format!("no thread to read sources again: {e}; raise the limit of processes"))?;
        let guards = timely::execute(timely::Config::process(1), move |worker| {
            // What a load would log hasn't happened.
            let _muted = tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::default());
            crew.run(worker)
        })?;
        let mut ended = Ok(());
        for result in guards.join() {
            ended = ended.and(result.map_err(|e| format!("a worker ended: {e}")).and_then(|ended| ended));
        }
        let unread = reading.join().map_err(|_| "the reading again panicked")?;
        dead_thread.join().map_err(|_| "the dead-letter writer panicked")?;
        let versions: Versions = left.recv().map_err(|_| "the dataflow ended without what it found")?;
        if versions.is_too_many() {
            return Ok(Err(format!(
                "the proposed set raises more than {MOST_ALERTS} alerts, or {} MiB of them",
                MOST_BYTES >> 20
            )));
        }
        ended.map(|()| Ok((versions, unread)))
    }
}

/// Takes what leaves the muted dataflow.
struct Takes {
    versions: Versions,
    failure: Arc<OnceLock<String>>,
    leave: crossbeam_channel::Sender<Versions>,
}

impl Outlet for Takes {
    fn offer(&mut self, batch: Exported, _totals: &Totals) -> Option<Exported> {
        self.versions.take(batch);
        if self.versions.is_too_many() {
            self.failure.get_or_init(|| "too many alerts".to_owned());
        }
        None
    }

    fn closed(&mut self, _epoch: u64, _totals: &Totals) {}

    fn acked(&self) -> u64 {
        0
    }
}

impl Drop for Takes {
    fn drop(&mut self) {
        // Whoever waits for it may have failed.
        let _gone = self.leave.try_send(std::mem::take(&mut self.versions));
    }
}

impl Versions {
    fn take(&mut self, batch: Exported) {
        for change in batch.sessions {
            if let SessionChange::Shed(groups) = change {
                self.shed += groups;
            }
        }
        for alert in batch.alerts {
            if self.is_too_many() {
                return;
            }
            self.bytes += held(&alert);
            if let Some(old) = self.alerts.insert(alert.alert_id.clone(), alert) {
                self.bytes -= held(&old);
            }
        }
    }

    fn is_too_many(&self) -> bool {
        self.alerts.len() > 2 * MOST_ALERTS || self.bytes > 2 * MOST_BYTES
    }
}

/// Tells apart what the versions make of what stands. What comes of rules that wait all the same isn't the load's doing.
fn compare(standing: Standing, versions: Versions, waiting: &HashSet<String>) -> Foretold {
    let Standing { mut touched, untouched } = standing;
    let mut out = Foretold { same: untouched, ..Foretold::default() };
    for to in versions.alerts.into_values() {
        let from = touched.remove(&to.alert_id);
        match from {
            _ if waiting.contains(&to.rule_id) => out.same += u64::from(from.is_some_and(|from| from.is_open())),
            Some(from) if from.is_open() && !to.is_open() => out.removed.push((from, to)),
            Some(from) if from.is_open() && told(&from) != told(&to) => out.changed.push((from, to)),
            Some(from) if from.is_open() => out.same += 1,
            _ if to.is_open() => out.added.push(to),
            _ => {}
        }
    }
    out.same += touched.values().filter(|alert| alert.is_open()).count() as u64;
    let place = |alert: &Alert| (alert.first_seen, alert.alert_id.clone());
    out.added.sort_by_cached_key(place);
    out.removed.sort_by_cached_key(|(from, _)| place(from));
    out.changed.sort_by_cached_key(|(from, _)| place(from));
    out.totals = (out.added.len() as u64, out.removed.len() as u64, out.changed.len() as u64);
    out.added.truncate(SHOWN);
    out.removed.truncate(SHOWN);
    out.changed.truncate(SHOWN);
    out
}

/// What an alert says but for its session's risk, which the muted dataflow doesn't know.
fn told(alert: &Alert) -> serde_json::Value {
    Alert { risk_score: 0.0, ..alert.clone() }.to_json()
}

/// Alerts have their sessions' risk, as the cluster knows it.
async fn set_risks(handle: &Handle, foretold: &mut Foretold) -> Result<(), EngineError> {
    let later = foretold.removed.iter_mut().chain(&mut foretold.changed).map(|(from, to)| {
        to.risk_score = from.risk_score;
        to
    });
    let mut alerts: Vec<&mut Alert> = foretold.added.iter_mut().chain(later).collect();
    let key = |a: &Alert| (a.tenant_id.clone(), a.agent_id.clone(), a.session_id.clone());
    for some in alerts.chunks_mut(SESSIONS) {
        let keys: HashSet<_> = some.iter().map(|alert| key(alert)).collect();
        let Rows::Sessions(rows) = handle.peek(Query::SessionsById(keys.into_iter().collect())).await?.rows else {
            continue;
        };
        let mut lives: HashMap<_, Vec<SessionView>> = HashMap::new();
        for life in rows {
            let key = (life.tenant_id.clone(), life.agent_id.clone(), life.session_id.clone());
            lives.entry(key).or_default().push(life);
        }
        for alert in some {
            let Some(lives) = lives.get_mut(&key(alert)) else { continue };
            lives.sort_by_key(|life| life.first_seen);
            let its =
                lives.iter().find(|life| life.first_seen <= alert.first_seen && alert.first_seen <= life.last_seen);
            if let Some(life) = its.or(lives.last()) {
                alert.risk_score = life.risk_score;
            }
        }
    }
    Ok(())
}
