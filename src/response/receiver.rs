//! One attempt to have an action carried out: a request, what its answer means, and the ledger's note of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Url};
use serde_json::Value;
use tokio::time::Instant;
use tracing::Instrument as _;
use tracing::field::Empty;

use super::format;
use super::ledger::{Go, Item, Ledger, Outcome, Work};
use super::request::{self, Destination, Request};
use super::retry::{Limits, Verdict, classify};
use super::sign::{self, Keys};
use crate::config::SocFormat;
use crate::metrics::LIVE;
use crate::wall_clock;

/// How much of an answer is read, so that its connection can be used again; a longer one costs the connection.
const ANSWER_BYTES: usize = 64 * 1024;
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

/// An action of the ledger, and how often this run has tried it.
pub(super) struct Due {
    pub(super) item: Item,
    pub(super) attempt: u32,
}

/// How an attempt ended.
pub(super) struct Landed {
    pub(super) due: Due,
    pub(super) how: How,
}

pub(super) enum How {
    /// It needs no further attempt; whether a receiver has said something.
    Done { answered: bool },
    /// Once more after that time; for whom it was.
    Again { at: Instant, whom: String },
    /// It waits for its alert's opening.
    Hold,
}

/// Who takes requests.
pub(super) struct Receiver {
    pub(super) destination: Destination,
    pub(super) base: Url,
    /// Alerts that go in one request at most.
    pub(super) batch: usize,
    pub(super) shared: Arc<Shared>,
}

impl Receiver {
    /// One attempt of each, from the ledger's word to the ledger's note, in one request where there are several. `None`: the ledger
    /// has ended.
    pub(super) async fn attempt(&self, together: Vec<Due>) -> Option<Vec<Landed>> {
        let mut landed = Vec::new();
        let mut sent = Vec::new();
        for mut due in together {
            match self.shared.ledger.go(due.item.clone()).await.ok()? {
                Go::Send(work) => {
                    due.attempt += 1;
                    sent.push((due, *work));
                }
                Go::Hold => landed.push(Landed { due, how: How::Hold }),
                Go::No => landed.push(Landed { due, how: How::Done { answered: false } }),
            }
        }
        if sent.len() > 1
            && let Some(request) = self.together(&sent)
        {
            let keys: Vec<&str> = sent.iter().map(|(due, _)| due.item.key.as_str()).collect();
            let (verdict, reason) = self.send(&request, &request::key_of_all(&keys)).await;
            // One of them may be at fault for all: then each is told by itself.
            if verdict != Verdict::Never {
                for (due, work) in sent {
                    let judged = self.judge(&due, &work, verdict, reason.clone());
                    landed.push(self.note(due, judged).await?);
                }
                return Some(landed);
            }
        }
        for (due, work) in sent {
            let judged = match self.request(&work) {
                Ok(request) => {
                    let (verdict, reason) = self.send(&request, &due.item.key).await;
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
            landed.push(self.note(due, judged).await?);
        }
        Some(landed)
    }

    async fn note(&self, due: Due, (outcome, how): (Outcome, How)) -> Option<Landed> {
        self.shared.ledger.attempted(due.item.key.clone(), outcome).await.ok()?;
        Some(Landed { due, how })
    }

    /// Several alerts in one request: a list of their bodies, each with the key that it would have by itself, so that one that
    /// comes again in other company is known. `None`: one of them can't be told.
    fn together(&self, sent: &[(Due, Work)]) -> Option<Request> {
        let body = |(due, work): &(Due, Work)| {
            let mut body = format::body(self.shared.soc.0, None, work.alert.as_deref()?);
            body["idempotency_key"] = due.item.key.clone().into();
            Some(body)
        };
        let bodies = sent.iter().map(body).collect::<Option<Vec<Value>>>()?;
        Some(Request { url: self.base.clone(), body: Some(Value::from(bodies).to_string().into_bytes()) })
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

    async fn send(&self, request: &Request, key: &str) -> (Verdict, String) {
        let began = Instant::now();
        let receiver = self.destination.name();
        let span =
            tracing::info_span!("action", "otel.kind" = "client", receiver, idempotency_key = key, verdict = Empty);
        let answer = self.ask(request, key).instrument(span.clone()).await;
        span.record("verdict", tracing::field::debug(answer.0));
        LIVE.sink_seconds.with_label_values(&[receiver]).observe(began.elapsed().as_secs_f64());
        answer
    }

    /// Sends a request once: what the answer means, and why it failed if it did. The reason never holds the URL, which may be
    /// secret, nor anything that the receiver wrote.
    async fn ask(&self, request: &Request, key: &str) -> (Verdict, String) {
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
    work.action.as_ref().map_or("alert_soc (retraction)", |action| action.kind.name())
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
