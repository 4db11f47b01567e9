//! The response orchestrator: carries out what alerts ask for (SPEC §7), each action of an alert once in a run.
//!
//! It never blocks detection but by a full queue, and never looks at events or rules: an [`Alert`] says all. It keeps no
//! ledger yet: what was done is forgotten at the end of the process, and a replay repeats requests with the same
//! `Idempotency-Key`.

mod destination;
mod progress;
mod request;
mod retry;
mod seen;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clawdstrike_rules::plan::{Action, ActionKind};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use crate::alert::{Alert, Status};
use crate::config;
use destination::{Job, Queue, Shared, What};
use progress::Progress;
pub use request::Destination;
use request::{action_name, base_url, idempotency_key};
pub use retry::Limits;
use seen::Seen;

/// What came of the actions so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Requests that a receiver took, retractions among them.
    pub sent: u64,
    /// Attempts that will be or were repeated.
    pub retries: u64,
    /// Requests given up: refused by the receiver, or not taken in time.
    pub failed: u64,
    /// Actions that no request can be made of (an id that fits no path, a wrong parameter).
    pub refused: u64,
    /// `alert` actions: log lines.
    pub logged: u64,
    /// Actions without a configured receiver.
    pub unconfigured: u64,
    /// Actions that wait for an approval (`requires_approval: true`); they are not carried out.
    pub held: u64,
    /// Actions that `dry_run` kept from being carried out.
    pub dry_run: u64,
}

/// Carries out actions. One for a process; start it inside a tokio runtime.
pub struct Orchestrator {
    shared: Arc<Shared>,
    queues: BTreeMap<Destination, Queue>,
    done: Mutex<Seen>,
    unconfigured_kinds: Mutex<BTreeSet<ActionKind>>,
    logged: AtomicU64,
    unconfigured: AtomicU64,
    held: AtomicU64,
    dry_runs: AtomicU64,
    dry_run: bool,
}

/// The receivers that are configured, each with its address, or what is wrong with it.
pub fn receivers(config: &config::Response) -> impl Iterator<Item = (Destination, Result<url::Url, String>)> {
    [(Destination::SocWebhook, &config.soc_webhook), (Destination::AgentControl, &config.agent_control_api)]
        .into_iter()
        .filter_map(|(destination, url)| Some((destination, base_url(destination, url.as_ref()?))))
}

impl Orchestrator {
    /// Starts the receivers that are configured. Fails on a URL that isn't one, and if TLS can't be set up.
    pub fn start(config: &config::Response) -> Result<Orchestrator, String> {
        Orchestrator::with_limits(config, Limits::default())
    }

    /// As [`Orchestrator::start`], with other bounds.
    pub fn with_limits(config: &config::Response, limits: Limits) -> Result<Orchestrator, String> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(limits.timeout)
            .user_agent(concat!("clawdstrike-edr/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| format!("[response] the HTTP client doesn't start: {e}"))?;
        let shared = Arc::new(Shared {
            client,
            progress: Progress::new(),
            counters: Default::default(),
            notified: Mutex::new(Seen::new(limits.remembered)),
            degraded: Mutex::default(),
            limits,
        });
        let mut queues = BTreeMap::new();
        for (destination, base) in receivers(config) {
            queues.insert(destination, destination::start(destination, base?, Arc::clone(&shared)));
        }
        Ok(Orchestrator {
            done: Mutex::new(Seen::new(shared.limits.remembered)),
            shared,
            queues,
            unconfigured_kinds: Mutex::default(),
            logged: AtomicU64::new(0),
            unconfigured: AtomicU64::new(0),
            held: AtomicU64::new(0),
            dry_runs: AtomicU64::new(0),
            dry_run: config.dry_run,
        })
    }

    /// Takes a version of an alert that `epoch` made. The first one that asks for actions puts them into their receivers'
    /// queues; a retraction tells the SOC if it was told of the alert; all else changes nothing, so a version may
    /// be submitted any number of times. Returns when everything is queued: at once, unless a queue is full. Await it to
    /// its end: what a dropped future had not queued yet is lost.
    pub async fn submit(&self, epoch: u64, alert: Arc<Alert>) {
        let jobs = match alert.status {
            Status::Retracted => self.retraction_due(&alert),
            // An alert that is acknowledged before its actions were carried out still wants them; one that is closed doesn't.
            Status::Open | Status::Updated | Status::Acknowledged if alert.run_actions => self.actions_due(&alert),
            Status::Open | Status::Updated | Status::Acknowledged | Status::Closed => return,
        };
        self.shared.progress.begin(epoch, jobs.len());
        let weight = weight_kib(&alert, self.shared.limits.queue_kib);
        let mut waiting = Vec::new();
        // The receivers that have room get theirs before one that has none is waited for.
        for (destination, what, key) in jobs {
            let Some(queue) = self.queues.get(&destination) else { continue };
            match Arc::clone(&queue.room).try_acquire_many_owned(weight) {
                Ok(room) => push(queue, job(epoch, &alert, what, key, room)),
                Err(_) => waiting.push((queue, what, key)),
            }
        }
        for (queue, what, key) in waiting {
            // The semaphore is never closed.
            if let Ok(room) = Arc::clone(&queue.room).acquire_many_owned(weight).await {
                push(queue, job(epoch, &alert, what, key, room));
            }
        }
    }

    /// The oldest epoch of which an action is neither carried out nor given up, `u64::MAX` if none: offsets of epochs
    /// before it may be committed, once all their alerts were submitted.
    pub fn acked_epoch(&self) -> u64 {
        *self.acked().borrow()
    }

    /// [`Orchestrator::acked_epoch`] as it changes.
    pub fn acked(&self) -> watch::Receiver<u64> {
        self.shared.progress.oldest()
    }

    /// Requests queued or on their way.
    pub fn pending(&self) -> usize {
        self.shared.progress.pending()
    }

    /// What came of the actions so far.
    pub fn counts(&self) -> Counts {
        let counters = &self.shared.counters;
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Counts {
            sent: read(&counters.sent),
            retries: read(&counters.retries),
            failed: read(&counters.failed),
            refused: read(&counters.refused),
            logged: read(&self.logged),
            unconfigured: read(&self.unconfigured),
            held: read(&self.held),
            dry_run: read(&self.dry_runs),
        }
    }

    /// Receivers whose last attempt failed, with the reason.
    pub fn degraded(&self) -> BTreeMap<String, String> {
        let degraded = self.shared.degraded.lock().unwrap_or_else(PoisonError::into_inner);
        degraded.iter().map(|(destination, reason)| (destination.name().to_owned(), reason.clone())).collect()
    }

    /// Stops: takes no more alerts, waits until everything queued is done or `deadline` has passed, then lets go of the
    /// rest. Returns [`Orchestrator::acked_epoch`] at the end; `u64::MAX` means that nothing was left undone.
    pub async fn drain(self, deadline: Duration) -> u64 {
        let until = Instant::now() + deadline;
        let mut tasks = Vec::new();
        for (_, Queue { jobs, task, .. }) in self.queues {
            drop(jobs);
            tasks.push(task);
        }
        for mut task in tasks {
            match tokio::time::timeout_at(until, &mut task).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "a response queue ended early"),
                Err(_) => task.abort(),
            }
        }
        let left = self.shared.progress.pending();
        if left > 0 {
            tracing::warn!(left, "response actions were not carried out before the deadline");
        }
        *self.shared.progress.oldest().borrow()
    }

    /// The alert's actions that are to be sent and haven't been queued before; carries out those that need nobody.
    fn actions_due(&self, alert: &Alert) -> Vec<(Destination, What, String)> {
        let mut due = Vec::new();
        for (index, action) in alert.actions.iter().enumerate() {
            // A map of JSON values always serialises.
            let params = serde_json::to_vec(&action.params).unwrap_or_default();
            let key = idempotency_key(&alert.alert_id, action_name(action.kind), &params);
            if !self.first_time(&key) {
                continue;
            }
            if let Some(destination) = self.route(alert, action) {
                if destination == Destination::SocWebhook {
                    self.shared.notified().insert(subject(alert));
                }
                due.push((destination, What::Action(index), hex(&key)));
            }
        }
        due
    }

    /// The SOC is told once that an alert it was told of doesn't hold.
    fn retraction_due(&self, alert: &Alert) -> Vec<(Destination, What, String)> {
        let key = idempotency_key(&alert.alert_id, "retraction", b"");
        if !self.shared.notified().contains(subject(alert)) || !self.first_time(&key) {
            return Vec::new();
        }
        vec![(Destination::SocWebhook, What::Retraction, hex(&key))]
    }

    fn first_time(&self, key: &[u8; 32]) -> bool {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).insert(short(key))
    }

    /// Who is to be asked for an action; `None` if nobody, because it is a log line, held, unconfigured or a dry run.
    fn route(&self, alert: &Alert, action: &Action) -> Option<Destination> {
        let name = action_name(action.kind);
        if action.params.get("requires_approval") == Some(&serde_json::Value::Bool(true)) {
            self.held.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                alert_id = alert.alert_id,
                action = name,
                "action requires an approval and is not carried out: act on it by hand"
            );
            return None;
        }
        let Some(destination) = Destination::of(action.kind) else {
            self.logged.fetch_add(1, Ordering::Relaxed);
            // Ids come from agents: `?` escapes them.
            tracing::warn!(alert_id = alert.alert_id, rule_id = ?alert.rule_id, severity = ?alert.severity, agent_id = ?alert.agent_id, session_id = ?alert.session_id, "alert");
            return None;
        };
        if self.dry_run {
            self.dry_runs.fetch_add(1, Ordering::Relaxed);
            tracing::info!(alert_id = alert.alert_id, action = name, destination = destination.name(), agent_id = ?alert.agent_id, session_id = ?alert.session_id, "dry run: action would be carried out");
            return None;
        }
        if !self.queues.contains_key(&destination) {
            self.unconfigured.fetch_add(1, Ordering::Relaxed);
            if self.unconfigured_kinds.lock().unwrap_or_else(PoisonError::into_inner).insert(action.kind) {
                tracing::warn!(
                    action = name,
                    "rules ask for \"{name}\", but [response] has no \"{}\": set it, or take the action out of the rules",
                    destination.name()
                );
            }
            return None;
        }
        Some(destination)
    }
}

fn job(epoch: u64, alert: &Arc<Alert>, what: What, key: String, room: OwnedSemaphorePermit) -> Job {
    Job { epoch, subject: subject(alert), alert: Arc::clone(alert), what, key, submitted: Instant::now(), _room: room }
}

fn push(queue: &Queue, job: Job) {
    // Its epoch is then never acknowledged, so that a restart repeats it.
    if let Err(closed) = queue.jobs.send(job) {
        tracing::error!(alert_id = closed.0.alert.alert_id, "a response queue ended early: the action stays undone");
    }
}

/// What an alert takes of a queue, in KiB, at most all of it. Evidence and trigger are as long as agents make them.
fn weight_kib(alert: &Alert, all: u32) -> u32 {
    let evidence: usize = alert.evidence.iter().map(|e| e.id.len() + e.target.len()).sum();
    let bytes = alert.trigger_event.len() + evidence;
    u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX).min(all)
}

/// What identifies an alert in memory.
fn subject(alert: &Alert) -> u128 {
    short(&idempotency_key(&alert.alert_id, "", b""))
}

/// The first half of a hash.
fn short(hash: &[u8; 32]) -> u128 {
    hash[..16].iter().fold(0, |all, byte| all << 8 | u128::from(*byte))
}

fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
