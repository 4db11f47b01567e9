//! One receiver: takes what the ledger has for it, in order, a bounded number of requests at a time, each retried on its own.
//! A receiver knows nothing of the others, so a slow one delays only itself.
//!
//! Of one alert one attempt is under way at a time, so first attempts come in the order of the ledger. What waits to be tried
//! again lets the next of its alert go first: an agent that can't be asked to log more is still quarantined.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Url};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::breaker::Breaker;
use super::format;
use super::ledger::{Go, Item, Ledger, Outcome, Work};
use super::pace::Pace;
use super::request::{self, Destination, Request, action_name};
use super::retry::{Limits, Verdict, classify};
use super::sign::{self, Keys};
use crate::config::SocFormat;
use crate::metrics::LIVE;
use crate::wall_clock;

/// How much of an answer is read, so that its connection can be used again; a longer one costs the connection.
const ANSWER_BYTES: usize = 64 * 1024;
/// Rows that are asked of the ledger at a time.
const PULL: u32 = 256;

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
    pub(super) webhook_client: Client,
    pub(super) control_client: Client,
    pub(super) webhook_keys: Keys,
    pub(super) control_keys: Keys,
    /// What the webhook reads, and PagerDuty's key.
    pub(super) soc: (SocFormat, Option<String>),
    pub(super) limits: Limits,
    pub(super) ledger: Ledger,
    pub(super) counters: Counters,
    /// Receivers whose last attempt failed, with the reason.
    pub(super) degraded: Mutex<HashMap<Destination, String>>,
}

impl Shared {
    fn set_degraded(&self, destination: Destination, reason: Option<String>) {
        let mut degraded = self.degraded.lock().unwrap_or_else(PoisonError::into_inner);
        match reason {
            Some(reason) => degraded.insert(destination, reason),
            None => degraded.remove(&destination),
        };
    }
}

/// A receiver's task, from outside.
pub(super) struct Running {
    /// Grows whenever the ledger has got something for it.
    news: Arc<watch::Sender<u64>>,
    /// The news up to which everything was tried.
    settled: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Running {
    /// How to say that the ledger has something for it.
    pub(super) fn news(&self) -> Arc<watch::Sender<u64>> {
        Arc::clone(&self.news)
    }

    /// Resolves when all that it knows of was tried.
    pub(super) async fn settled(&self) {
        let news = *self.news.borrow();
        let mut settled = self.settled.clone();
        // One that has ended is settled too.
        drop(settled.wait_for(|settled| *settled >= news).await);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts a receiver's task: what the ledger has for it from earlier runs goes first.
pub(super) fn start(destination: Destination, base: Url, per_second: Option<u32>, shared: Arc<Shared>) -> Running {
    let (news, heard) = watch::channel(1);
    let (settled_in, settled) = watch::channel(0);
    let receiver = Arc::new(Receiver { destination, base, shared });
    let desk = Desk {
        receiver,
        heard,
        settled: settled_in,
        known: 0,
        cursor: 0,
        more: true,
        ready: VecDeque::new(),
        delayed: BTreeMap::new(),
        lanes: HashMap::new(),
        held: HashMap::new(),
        breaker: Breaker::default(),
        pace: Pace::new(per_second, Instant::now()),
        flights: JoinSet::new(),
    };
    Running { news: Arc::new(news), settled, task: tokio::spawn(desk.run()) }
}

/// An action of the ledger, and how often this run has tried it.
struct Due {
    item: Item,
    attempt: u32,
}

/// How an attempt ended.
struct Landed {
    due: Due,
    how: How,
}

enum How {
    /// It needs no further attempt; whether a receiver has said something.
    Done { answered: bool },
    /// Once more after that time; for whom it was.
    Again { at: Instant, whom: String },
    /// It waits for its alert's opening.
    Hold,
}

/// What is known of the receiver's queue, and what is under way.
struct Desk {
    receiver: Arc<Receiver>,
    heard: watch::Receiver<u64>,
    settled: watch::Sender<u64>,
    /// Actions in memory.
    known: usize,
    /// The ledger's turn up to which they were taken.
    cursor: i64,
    /// The ledger may have more.
    more: bool,
    ready: VecDeque<Due>,
    /// By the time at which they are tried again.
    delayed: BTreeMap<(Instant, i64), Due>,
    /// Alerts with an attempt under way, and what waits for its end.
    lanes: HashMap<String, VecDeque<Due>>,
    /// Retractions that wait for their alerts' openings.
    held: HashMap<String, Due>,
    breaker: Breaker,
    pace: Pace,
    flights: JoinSet<Option<Landed>>,
}

impl Desk {
    async fn run(mut self) {
        loop {
            // What came while something else was awaited is news, too.
            self.more |= self.heard.has_changed().unwrap_or_default();
            let heard = *self.heard.borrow_and_update();
            if !self.pull().await {
                return;
            }
            let wake = self.launch();
            if self.flights.is_empty() && self.ready.is_empty() && !self.more {
                self.settled.send_replace(heard);
            }
            let next = wake.into_iter().chain(self.delayed.keys().next().map(|(at, _)| *at)).min();
            let timer = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(landed) = self.flights.join_next(), if !self.flights.is_empty() => match landed {
                    Ok(Some(landed)) => self.landed(landed),
                    // The ledger has ended, and with it the process.
                    Ok(None) => return,
                    Err(error) => {
                        tracing::error!(destination = self.receiver.destination.name(), %error, "a request's task ended early");
                        return;
                    }
                },
                changed = self.heard.changed() => match changed {
                    Ok(()) => self.more = true,
                    Err(_) => return,
                },
                () = timer => {}
            }
        }
    }

    /// Takes from the ledger while there is room; false if that has ended.
    async fn pull(&mut self) -> bool {
        while self.more && self.known < self.receiver.shared.limits.rows.max(1) {
            let ledger = &self.receiver.shared.ledger;
            let Ok(items) = ledger.queue(self.receiver.destination, self.cursor, PULL).await else { return false };
            self.more = items.len() == PULL as usize;
            self.known += items.len();
            self.cursor = items.last().map_or(self.cursor, |item| item.turn);
            self.ready.extend(items.into_iter().map(|item| Due { item, attempt: 0 }));
        }
        true
    }

    /// Sends what may be sent now; says when to look again if the breaker or the pace keeps something back.
    fn launch(&mut self) -> Option<Instant> {
        let now = Instant::now();
        while let Some(entry) = self.delayed.first_entry()
            && entry.key().0 <= now
        {
            self.ready.push_back(entry.remove());
        }
        let (allowed, again) = self.breaker.allows(&self.receiver.shared.limits, now);
        while self.flights.len() < allowed
            && let Some(due) = self.ready.pop_front()
        {
            if let Some(lane) = self.lanes.get_mut(&due.item.alert_id) {
                lane.push_back(due);
                continue;
            }
            if let Err(at) = self.pace.take(now) {
                self.ready.push_front(due);
                return Some(at);
            }
            self.lanes.insert(due.item.alert_id.clone(), VecDeque::new());
            let receiver = Arc::clone(&self.receiver);
            self.flights.spawn(async move { receiver.attempt(due).await });
        }
        again.filter(|_| !self.ready.is_empty())
    }

    fn landed(&mut self, Landed { due, how }: Landed) {
        let limits = &self.receiver.shared.limits;
        let alert_id = due.item.alert_id.clone();
        for waiting in self.lanes.remove(&alert_id).into_iter().flatten().rev() {
            self.ready.push_front(waiting);
        }
        match how {
            How::Again { at, whom } => {
                self.breaker.failed(&whom, limits, Instant::now());
                self.delayed.insert((at, due.item.turn), due);
            }
            How::Hold => {
                if self.held.insert(alert_id, due).is_some() {
                    self.known -= 1;
                }
            }
            How::Done { answered } => {
                self.known -= 1;
                if answered {
                    self.breaker.answered();
                }
                // It may have been the opening.
                self.ready.extend(self.held.remove(&alert_id));
            }
        }
    }
}

struct Receiver {
    destination: Destination,
    base: Url,
    shared: Arc<Shared>,
}

impl Receiver {
    /// One attempt, from the ledger's word to the ledger's note. `None`: the ledger has ended.
    async fn attempt(&self, mut due: Due) -> Option<Landed> {
        let work = match self.shared.ledger.go(due.item.clone()).await.ok()? {
            Go::Send(work) => work,
            Go::Hold => return Some(Landed { due, how: How::Hold }),
            Go::No => return Some(Landed { due, how: How::Done { answered: false } }),
        };
        due.attempt += 1;
        let (outcome, how) = match self.request(&work) {
            Ok(request) => {
                let began = Instant::now();
                let (verdict, reason) = self.send(&request, &due.item.key).await;
                let seconds = began.elapsed().as_secs_f64();
                LIVE.sink_seconds.with_label_values(&[self.destination.name()]).observe(seconds);
                self.judge(&due, &work, verdict, reason)
            }
            Err(reason) => {
                self.shared.counters.refused.fetch_add(1, Ordering::Relaxed);
                self.count("failed");
                tracing::error!(
                    alert_id = work.alert_id,
                    action = name(&work),
                    "action can't be carried out: {reason}"
                );
                (Outcome::Refused(reason), How::Done { answered: false })
            }
        };
        self.shared.ledger.attempted(due.item.key.clone(), outcome).await.ok()?;
        Some(Landed { due, how })
    }

    fn count(&self, outcome: &str) {
        LIVE.actions.with_label_values(&[self.destination.name(), outcome]).inc();
    }

    fn judge(&self, due: &Due, work: &Work, verdict: Verdict, reason: String) -> (Outcome, How) {
        let counters = &self.shared.counters;
        let (alert_id, action, attempt) = (&work.alert_id, name(work), due.attempt);
        match verdict {
            Verdict::Taken => {
                counters.sent.fetch_add(1, Ordering::Relaxed);
                self.count("done");
                self.shared.set_degraded(self.destination, None);
                tracing::info!(alert_id, action, attempt, "action carried out");
                (Outcome::Taken, How::Done { answered: true })
            }
            Verdict::Later(after) if wall_clock::now() < work.give_up_at => {
                counters.retries.fetch_add(1, Ordering::Relaxed);
                self.count("retried");
                let delay = self.shared.limits.delay(attempt, after);
                let receiver = self.destination.name();
                tracing::warn!(alert_id, action, attempt, ?delay, "{receiver} will be tried again: {reason}");
                self.shared.set_degraded(self.destination, Some(reason.clone()));
                let whom = match self.destination {
                    Destination::SocWebhook => work.alert_id.clone(),
                    Destination::AgentControl => work.agent_id.clone(),
                };
                (Outcome::Later(reason), How::Again { at: Instant::now() + delay, whom })
            }
            Verdict::Later(_) | Verdict::Never => {
                counters.failed.fetch_add(1, Ordering::Relaxed);
                self.count("failed");
                tracing::error!(
                    alert_id,
                    action,
                    attempt,
                    "action given up: {reason}; see `clawdstrike-edr actions list --state failed`"
                );
                self.shared.set_degraded(self.destination, Some(reason.clone()));
                let refused = verdict == Verdict::Never;
                let outcome = if refused { Outcome::Refused(reason) } else { Outcome::GivenUp(reason) };
                (outcome, How::Done { answered: refused })
            }
        }
    }

    fn request(&self, work: &Work) -> Result<Request, String> {
        match (&work.action, &work.alert) {
            (Some(action), _) if self.destination == Destination::AgentControl => {
                request::control(&self.base, &work.agent_id, &work.session_id, action)
            }
            (_, Some(alert)) => {
                let (format, key) = &self.shared.soc;
                let body = format::body(*format, key.as_deref(), alert);
                Ok(Request { url: self.base.clone(), body: Some(body.to_string().into_bytes()) })
            }
            (_, None) => Err("the ledger has no alert for it".into()),
        }
    }

    /// Each receiver has keys of its own, so that none can speak to another in the engine's name. Where the path says what is to
    /// be done it is signed too, with the key that says whether it was done: else a request could be turned into another.
    fn sign(&self, request: &Request, key: &str) -> Option<(String, String)> {
        let now = wall_clock::now() / 1_000_000;
        let body = request.body.as_deref().unwrap_or_default();
        match self.destination {
            Destination::SocWebhook => self.shared.webhook_keys.sign(now, &[body]),
            Destination::AgentControl => {
                let base = self.base.path().trim_end_matches('/');
                let path = request.url.path().strip_prefix(base).unwrap_or_default();
                self.shared.control_keys.sign(now, &[key.as_bytes(), b".", path.as_bytes(), b".", body])
            }
        }
    }

    /// Sends a request once: what the answer means, and why it failed if it did. The reason never holds the URL, which may be
    /// secret, nor anything that the receiver wrote.
    async fn send(&self, request: &Request, key: &str) -> (Verdict, String) {
        let client = match self.destination {
            Destination::SocWebhook => &self.shared.webhook_client,
            Destination::AgentControl => &self.shared.control_client,
        };
        let mut post = client.post(request.url.clone()).header("Idempotency-Key", key);
        if let Some((now, signatures)) = self.sign(request, key) {
            post = post.header(sign::TIMESTAMP, now).header(sign::SIGNATURE, signatures);
        }
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

fn name(work: &Work) -> &'static str {
    work.action.as_ref().map_or("alert_soc (retraction)", |action| action_name(action.kind))
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
