//! What the API and the command line may ask of a running engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clawdstrike_rules::plan::RuleSet;
use clawdstrike_rules::{Diagnostic, SourceFile};
use tokio::sync::{mpsc, oneshot, watch};

use super::feed::feed;
pub use super::feed::{Change, Feed, Gap, Teller, Told, Watcher};
pub use super::what_if::{Foretold, SHOWN as WHAT_IF_SHOWN, WITHIN as WHAT_IF_WITHIN, WhatIf};
use crate::alert::{Alert, Handling, Note};
use crate::inbox::{PartitionId, Waker};
use crate::loads::{InForce, Next};
use crate::metrics::LIVE;
use crate::response::Actions;
use crate::rule_files;
use crate::session::SessionView;
use crate::view::{Answer, Query, Rows};

/// Requests that may wait for the dataflow.
pub const REQUESTS: usize = 1024;

/// A request to the dataflow's sequencer.
pub enum Request {
    /// Answer a question as of one epoch.
    Peek(Query, oneshot::Sender<Answer>),
    /// An analyst has done this with an alert of this id. There is no answer but a version of it that says so.
    Handle(String, Handling),
    /// Switch all workers to this rule set at one epoch.
    Rules(Arc<RuleSet>, oneshot::Sender<Loaded>),
    /// Tell what a load would begin with now.
    Moment(oneshot::Sender<Moment>),
}

/// What a load of rules begins with.
#[derive(Clone, Debug)]
pub struct Moment {
    /// The last closed epoch.
    pub epoch: u64,
    /// The event-time bound, microseconds since 1970.
    pub watermark: Option<i64>,
    /// The set in force.
    pub set: Arc<RuleSet>,
    /// Since when its rules are.
    pub in_force: InForce,
    /// What to read next of the partitions, by their sources' names.
    pub read: Vec<Next>,
    /// The same, by their sources' places.
    pub positions: Vec<(PartitionId, u64)>,
}

/// When a rule set came in force.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// The epoch from which it holds.
    pub epoch: u64,
    /// The event-time bound before which new and changed rules look back by their windows, microseconds since 1970.
    pub watermark: Option<i64>,
}

/// What watchers see.
#[derive(Clone)]
pub struct Feeds {
    /// Every new version of an alert.
    pub alerts: Feed<Alert>,
    /// Sessions' views after epochs in which they changed (at a coarse beat).
    pub sessions: Feed<SessionView>,
}

/// Tells watchers.
pub struct Tellers {
    /// Every new version of an alert.
    pub alerts: Teller<Alert>,
    /// Sessions' views; told only while somebody watches.
    pub sessions: Teller<SessionView>,
}

/// Both ends of what watchers see.
pub fn feeds() -> (Tellers, Feeds) {
    let ((alerts_in, alerts), (sessions_in, sessions)) = (feed(), feed());
    (Tellers { alerts: alerts_in, sessions: sessions_in }, Feeds { alerts, sessions })
}

impl Told for Alert {
    fn bytes(&self) -> usize {
        // Targets stand in the text a second time.
        let evidence: usize = self.evidence.iter().map(|e| 2 * (e.target.len() + e.id.len()) + 256).sum();
        2048 + evidence + self.trigger_event.len()
    }
}

impl Told for SessionView {
    fn bytes(&self) -> usize {
        2048 + 2 * self.last_events.iter().map(|e| e.target.len() + 128).sum::<usize>()
    }
}

/// The rule set in force.
#[derive(Clone, Debug)]
pub struct ActiveRules {
    /// The set.
    pub set: Arc<RuleSet>,
    /// Lints of its compilation.
    pub warnings: Vec<Diagnostic>,
    /// The files it came from.
    pub files: Vec<String>,
    /// What tells their contents from others ([`rule_files::digest`]).
    pub digest: String,
    /// The epoch from which it holds.
    pub epoch: u64,
    /// Why the last attempt to load another set failed, if it did.
    pub last_error: Option<String>,
}

/// Counters of a running engine, for health and metrics.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Stats {
    /// The last closed epoch.
    pub epoch: u64,
    /// Event-time bound in microseconds since 1970; `None` before it is known.
    pub watermark: Option<i64>,
    /// Valid events, copies included.
    pub events: u64,
    /// Dead letters by reason.
    pub dead_letters: std::collections::BTreeMap<String, u64>,
    /// Events whose time was replaced by the reference time.
    pub retimed: u64,
    /// Alert versions emitted.
    pub alert_versions: u64,
    /// The next offset of each partition, by the source's place in the configuration.
    pub positions: Vec<(u16, u32, u64)>,
    /// How much lies between that and a partition's end, as far as it is known.
    pub lags: Vec<(u16, u32, u64)>,
    /// When the last epoch was closed, microseconds since 1970; 0: none was.
    pub closed_at: i64,
    /// Exported epochs that wait for their takers.
    pub exports_waiting: usize,
    /// Alerts and lives of sessions that wait for the store.
    pub store_waiting: (usize, usize),
    /// Lives of sessions that left the live view for want of room.
    pub sessions_left: u64,
    /// Groups that lost kept events for want of room.
    pub groups_shed: u64,
    /// Records that were gone from their source before they could be read, by source.
    pub lost_records: std::collections::BTreeMap<String, u64>,
    /// The same of the archive stage, which reads by itself.
    pub archive_lost_records: std::collections::BTreeMap<String, u64>,
    /// Events that the archive stage has written to the store since the start.
    pub archived: u64,
    /// Low-risk events that it has left out since the start, because only a share of them is kept.
    pub archive_left_out: u64,
    /// Parts that don't work as they should, with the reason.
    pub degraded: std::collections::BTreeMap<String, String>,
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine is stopping.
    #[error("the engine is stopping: try again when it is up")]
    Stopping,
    /// The dataflow did not answer in time.
    #[error("the dataflow did not answer within {0} s: it is overloaded or a worker is stopped; see /v1/health")]
    Timeout(u64),
    /// The rule set doesn't compile; the running set stays.
    #[error("the rule set doesn't compile; the running set stays as it is")]
    Rules(Vec<Diagnostic>),
    /// Only one what-if at a time.
    #[error("another what-if is under way, and only one at a time may be")]
    WhatIfBusy,
    /// A what-if was given up.
    #[error("the live window was not read again within {0} s")]
    WhatIfTimeout(u64),
    /// A what-if would need more than it may have.
    #[error("{0}")]
    WhatIfTooLarge(String),
    /// A what-if can't be made.
    #[error("the what-if ended early: {0}")]
    WhatIfFailed(String),
}

/// A handle on a running engine.
#[derive(Clone)]
pub struct Handle {
    pub(crate) requests: mpsc::Sender<Request>,
    feeds: Feeds,
    pub(crate) rules: Arc<watch::Sender<Arc<ActiveRules>>>,
    pub(crate) stats: watch::Receiver<Stats>,
    waker: Waker,
    actions: Option<Actions>,
    sources: Arc<[String]>,
    what_if: Option<Arc<WhatIf>>,
}

/// How long a request may take.
const REQUEST_SECONDS: u64 = 10;

impl Handle {
    /// A handle on whoever answers `requests`, tells `feeds` and keeps `rules` and `stats` current.
    pub fn new(
        requests: mpsc::Sender<Request>,
        feeds: Feeds,
        rules: Arc<watch::Sender<Arc<ActiveRules>>>,
        stats: watch::Receiver<Stats>,
    ) -> Handle {
        Handle {
            requests,
            feeds,
            rules,
            stats,
            waker: Waker::default(),
            actions: None,
            sources: Arc::default(),
            what_if: None,
        }
    }

    /// Wakes whoever answers after each request.
    pub fn with_waker(self, waker: Waker) -> Handle {
        Handle { waker, ..self }
    }

    /// With the ledger of actions.
    pub fn with_actions(self, actions: Actions) -> Handle {
        Handle { actions: Some(actions), ..self }
    }

    /// With what answers what-ifs.
    pub fn with_what_if(self, what_if: WhatIf) -> Handle {
        Handle { what_if: Some(Arc::new(what_if)), ..self }
    }

    /// With the names of the sources, by their places in the configuration.
    pub fn with_sources(self, names: impl Iterator<Item = String>) -> Handle {
        Handle { sources: names.collect(), ..self }
    }

    /// Names of the sources, by their places in the configuration.
    pub fn sources(&self) -> Arc<[String]> {
        self.sources.clone()
    }

    /// The ledger of actions, where there is one.
    pub fn actions(&self) -> Option<&Actions> {
        self.actions.as_ref()
    }

    /// The rules folder couldn't be read: the running set stays, and this is why.
    pub fn note_rules_error(&self, error: String) {
        self.rules.send_modify(|r| Arc::make_mut(r).last_error = Some(error));
    }

    /// Asks the live views.
    pub async fn peek(&self, query: Query) -> Result<Answer, EngineError> {
        let question = query.name();
        let (tx, rx) = oneshot::channel();
        let began = Instant::now();
        let answer = self.request(Request::Peek(query, tx), rx).await?;
        LIVE.peek_seconds.with_label_values(&[question]).observe(began.elapsed().as_secs_f64());
        Ok(answer)
    }

    /// What a load of rules would begin with now.
    pub async fn moment(&self) -> Result<Moment, EngineError> {
        let (tx, rx) = oneshot::channel();
        self.request(Request::Moment(tx), rx).await
    }

    /// Compiles the files and tells what loading them would do to the alerts of the live view; gives its warnings, too.
    pub async fn what_if(&self, files: &[SourceFile]) -> Result<(Foretold, Vec<Diagnostic>), EngineError> {
        let compiled = clawdstrike_rules::compile(files).map_err(|errors| EngineError::Rules(errors.errors))?;
        let Some(what_if) = &self.what_if else {
            return Err(EngineError::WhatIfFailed("this engine has no sources to read again".into()));
        };
        Ok((what_if.foretell(self, compiled.set).await?, compiled.warnings))
    }

    /// Compiles the files and switches all workers to them at one epoch, all or nothing.
    #[tracing::instrument(name = "rules", skip_all)]
    pub async fn load_rules(&self, files: Vec<SourceFile>) -> Result<Arc<ActiveRules>, EngineError> {
        let compiled = match clawdstrike_rules::compile(&files) {
            Ok(compiled) => compiled,
            Err(errors) => {
                LIVE.rule_loads.with_label_values(&["refused"]).inc();
                let text = errors.to_string();
                self.rules.send_modify(|r| Arc::make_mut(r).last_error = Some(text));
                return Err(EngineError::Rules(errors.errors));
            }
        };
        let set = Arc::new(compiled.set);
        let (tx, rx) = oneshot::channel();
        let loaded = self.request(Request::Rules(set.clone(), tx), rx).await;
        LIVE.rule_loads.with_label_values(&[if loaded.is_ok() { "loaded" } else { "failed" }]).inc();
        let Loaded { epoch, .. } = loaded?;
        let digest = rule_files::digest(&files);
        let active = Arc::new(ActiveRules {
            set,
            digest,
            warnings: compiled.warnings,
            files: files.into_iter().map(|f| f.name).collect(),
            epoch,
            last_error: None,
        });
        // Of two loads at once the one with the later epoch is in force, whichever answer comes first.
        self.rules.send_if_modified(|now| {
            let newer = now.epoch <= epoch;
            if newer {
                *now = active.clone();
            }
            newer
        });
        Ok(active)
    }

    /// Notes what an analyst did with an alert; gives the version that says so, which is durable then. `None`: there is no
    /// such alert in the live view.
    pub async fn handle_alert(&self, id: &str, note: Note) -> Result<Option<Alert>, EngineError> {
        let known = |answer: Answer| matches!(answer.rows, Rows::Alerts(rows) if !rows.is_empty());
        if !known(self.peek(Query::Alert(id.to_owned())).await?) {
            return Ok(None);
        }
        let mut changes = self.feeds.alerts.watch();
        let (at, by) = (note.at, note.by.clone());
        let says_so = |alert: &Alert| {
            alert.alert_id == id && alert.handling.notes().iter().any(|note| note.at == at && note.by == by)
        };
        let wait = async {
            let request = Request::Handle(id.to_owned(), Handling::of(note));
            self.requests.send(request).await.map_err(|_| EngineError::Stopping)?;
            self.waker.wake();
            loop {
                match changes.next().await {
                    Ok(change) if says_so(&change.now) => return Ok(Some(change.now.clone())),
                    // What was missed may have been it; the next version of another alert won't be.
                    Err(Gap::Missed(_)) => {
                        let Rows::Alerts(rows) = self.peek(Query::Alert(id.to_owned())).await?.rows else { continue };
                        if let Some(alert) = rows.into_iter().find(says_so) {
                            return Ok(Some(alert));
                        }
                    }
                    Err(Gap::Ended) => return Err(EngineError::Stopping),
                    Ok(_) => {}
                }
            }
        };
        in_time(wait).await
    }

    /// The rule set in force.
    pub fn rules(&self) -> Arc<ActiveRules> {
        self.rules.borrow().clone()
    }

    /// What is told as it happens.
    pub fn feeds(&self) -> &Feeds {
        &self.feeds
    }

    /// Requests that wait for the dataflow.
    pub fn waiting_requests(&self) -> usize {
        self.requests.max_capacity() - self.requests.capacity()
    }

    /// Counters as of the last closed epoch.
    pub fn stats(&self) -> Stats {
        self.stats.borrow().clone()
    }

    async fn request<T>(&self, request: Request, answer: oneshot::Receiver<T>) -> Result<T, EngineError> {
        let wait = async {
            self.requests.send(request).await.map_err(|_| EngineError::Stopping)?;
            self.waker.wake();
            answer.await.map_err(|_| EngineError::Stopping)
        };
        in_time(wait).await
    }
}

async fn in_time<T>(wait: impl Future<Output = Result<T, EngineError>>) -> Result<T, EngineError> {
    let limit = Duration::from_secs(REQUEST_SECONDS);
    tokio::time::timeout(limit, wait).await.unwrap_or(Err(EngineError::Timeout(REQUEST_SECONDS)))
}
