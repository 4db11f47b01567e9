//! One receiver's queue and the task that empties it: a bounded number of requests at a time, each retried on its own.
//! A receiver knows nothing of the others, so a slow one delays only itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use clawdstrike_rules::plan::Action;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Url};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::progress::Progress;
use super::request::{self, Destination, Request, action_name};
use super::retry::{Limits, Verdict, classify};
use super::seen::Seen;
use crate::alert::Alert;

/// How much of an answer is read, so that its connection can be used again; a longer one costs the connection.
const ANSWER_BYTES: usize = 64 * 1024;

/// What is to be told about an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The action with this index in the alert.
    Action(usize),
    /// That an alert which the SOC was told of doesn't hold.
    Retraction,
}

/// One request to be sent once.
pub(super) struct Job {
    pub(super) epoch: u64,
    pub(super) alert: Arc<Alert>,
    /// Hash of the alert's id: the same for all jobs of one alert.
    pub(super) subject: u128,
    pub(super) what: What,
    /// The `Idempotency-Key`, in hex.
    pub(super) key: String,
    pub(super) submitted: Instant,
    /// Room in the queue, given back when the job is done.
    pub(super) _room: OwnedSemaphorePermit,
}

impl Job {
    fn action(&self) -> Option<&Action> {
        match self.what {
            What::Action(index) => self.alert.actions.get(index),
            What::Retraction => None,
        }
    }

    fn name(&self) -> &'static str {
        self.action().map_or("alert_soc (retraction)", |action| action_name(action.kind))
    }
}

/// What came of the requests of all receivers.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) sent: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) refused: AtomicU64,
}

/// What all receivers share.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) limits: Limits,
    pub(super) progress: Progress,
    pub(super) counters: Counters,
    /// Alerts that the SOC was told of or is about to be: only these can be retracted there.
    pub(super) notified: Mutex<Seen>,
    /// Receivers whose last attempt failed, with the reason.
    pub(super) degraded: Mutex<HashMap<Destination, String>>,
}

impl Shared {
    pub(super) fn notified(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.notified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_degraded(&self, destination: Destination, reason: Option<String>) {
        let mut degraded = self.degraded.lock().unwrap_or_else(PoisonError::into_inner);
        match reason {
            Some(reason) => degraded.insert(destination, reason),
            None => degraded.remove(&destination),
        };
    }
}

/// The sending end of a receiver's queue. Bounded by `room`, one permit a KiB, and so not by the channel.
pub(super) struct Queue {
    pub(super) jobs: mpsc::UnboundedSender<Job>,
    pub(super) room: Arc<Semaphore>,
    pub(super) task: JoinHandle<()>,
}

/// Starts a receiver's task. It ends when the queue is closed and all that was in it is done.
pub(super) fn start(destination: Destination, base: Url, shared: Arc<Shared>) -> Queue {
    let (jobs, queue) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(shared.limits.queue_kib as usize));
    let receiver = Receiver { destination, base, shared };
    Queue { jobs, room, task: tokio::spawn(Arc::new(receiver).run(queue)) }
}

struct Receiver {
    destination: Destination,
    base: Url,
    shared: Arc<Shared>,
}

/// A finished request: whose alert, and whether it was taken.
struct Landed {
    subject: u128,
    what: What,
    taken: bool,
}

impl Receiver {
    async fn run(self: Arc<Self>, mut queue: mpsc::UnboundedReceiver<Job>) {
        let mut flights: JoinSet<Landed> = JoinSet::new();
        // Openings on their way, each with its retraction if that has come already: the SOC must not see it first.
        let mut openings: HashMap<u128, Option<Job>> = HashMap::new();
        let mut open = true;
        while open || !flights.is_empty() {
            tokio::select! {
                job = queue.recv(), if open && flights.len() < self.shared.limits.in_flight.max(1) => match job {
                    Some(job) => self.dispatch(job, &mut flights, &mut openings),
                    None => open = false,
                },
                Some(landed) = flights.join_next(), if !flights.is_empty() => match landed {
                    Ok(landed) => self.landed(&landed, &mut flights, &mut openings),
                    Err(error) => tracing::error!(destination = self.destination.name(), %error, "a request's task ended early"),
                },
            }
        }
    }

    fn dispatch(self: &Arc<Self>, job: Job, flights: &mut JoinSet<Landed>, openings: &mut HashMap<u128, Option<Job>>) {
        match job.what {
            What::Retraction => {
                if let Some(waiting) = openings.get_mut(&job.subject) {
                    if let Some(earlier) = waiting.replace(job) {
                        self.shared.progress.done(earlier.epoch);
                    }
                } else if self.shared.notified().contains(job.subject) {
                    self.launch(job, flights);
                } else {
                    self.shared.progress.done(job.epoch);
                }
            }
            What::Action(_) => {
                if self.destination == Destination::SocWebhook {
                    openings.entry(job.subject).or_insert(None);
                }
                self.launch(job, flights);
            }
        }
    }

    fn launch(self: &Arc<Self>, job: Job, flights: &mut JoinSet<Landed>) {
        let receiver = Arc::clone(self);
        flights.spawn(async move {
            let taken = receiver.deliver(&job).await;
            if !taken && job.what != What::Retraction && receiver.destination == Destination::SocWebhook {
                receiver.shared.notified().remove(job.subject);
            }
            receiver.shared.progress.done(job.epoch);
            Landed { subject: job.subject, what: job.what, taken }
        });
    }

    fn landed(
        self: &Arc<Self>,
        landed: &Landed,
        flights: &mut JoinSet<Landed>,
        openings: &mut HashMap<u128, Option<Job>>,
    ) {
        if landed.what == What::Retraction {
            return;
        }
        if let Some(Some(retraction)) = openings.remove(&landed.subject) {
            if landed.taken {
                self.launch(retraction, flights);
            } else {
                self.shared.progress.done(retraction.epoch);
            }
        }
    }

    /// Sends one request until it is taken, refused or given up; true if it was taken.
    async fn deliver(&self, job: &Job) -> bool {
        let counters = &self.shared.counters;
        let request = match self.request(job) {
            Ok(request) => request,
            Err(reason) => {
                counters.refused.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    alert_id = job.alert.alert_id,
                    action = job.name(),
                    "action can't be carried out: {reason}"
                );
                return false;
            }
        };
        for attempt in 1.. {
            let (verdict, reason) = self.attempt(&request, &job.key).await;
            let gone = job.submitted.elapsed();
            match verdict {
                Verdict::Taken => {
                    counters.sent.fetch_add(1, Ordering::Relaxed);
                    self.shared.set_degraded(self.destination, None);
                    tracing::info!(alert_id = job.alert.alert_id, action = job.name(), attempt, "action carried out");
                    return true;
                }
                Verdict::Later(after) if gone < self.shared.limits.give_up_after => {
                    counters.retries.fetch_add(1, Ordering::Relaxed);
                    let delay = self.shared.limits.delay(attempt, after);
                    tracing::warn!(
                        alert_id = job.alert.alert_id,
                        action = job.name(),
                        attempt,
                        ?delay,
                        "{} will be tried again: {reason}",
                        self.destination.name()
                    );
                    self.shared.set_degraded(self.destination, Some(reason));
                    tokio::time::sleep(delay).await;
                }
                Verdict::Later(_) | Verdict::Never => {
                    counters.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(
                        alert_id = job.alert.alert_id,
                        action = job.name(),
                        attempt,
                        "action given up: {reason}; act on it by hand"
                    );
                    self.shared.set_degraded(self.destination, Some(reason));
                    return false;
                }
            }
        }
        false
    }

    fn request(&self, job: &Job) -> Result<Request, String> {
        match job.action() {
            Some(action) if self.destination == Destination::AgentControl => {
                request::control(&self.base, &job.alert, action)
            }
            Some(_) | None => Ok(request::webhook(&self.base, &job.alert)),
        }
    }

    /// One attempt: what it means, and why it failed if it did. The reason never holds the URL, which may be secret, nor
    /// anything that the receiver wrote.
    async fn attempt(&self, request: &Request, key: &str) -> (Verdict, String) {
        let mut post = self.shared.client.post(request.url.clone()).header("Idempotency-Key", key);
        if let Some(body) = &request.body {
            post = post.header(CONTENT_TYPE, "application/json").body(body.clone());
        }
        let mut response = match post.send().await {
            Ok(response) => response,
            // Not sent, or not known to have been taken: the key makes a repeated request harmless.
            Err(error) => return (Verdict::Later(None), describe(error)),
        };
        let status = response.status();
        let verdict = classify(status, response.headers(), SystemTime::now());
        let mut read = 0;
        while let Ok(Some(chunk)) = response.chunk().await {
            read += chunk.len();
            if read > ANSWER_BYTES {
                break;
            }
        }
        (verdict, format!("it answered {}", status.as_u16()))
    }
}

/// An error and its causes in one line.
fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
