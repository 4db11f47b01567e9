//! The response orchestrator: carries out what alerts ask for (SPEC §7), each action of an alert once, over restarts and
//! replays too: every action is a row of the [`ledger`] before it is sent.
//!
//! It never blocks detection, and never looks at events or rules: an [`Alert`] says all.

mod address;
mod breaker;
mod destination;
mod fleet;
mod format;
mod ledger;
mod pace;
mod progress;
mod receiver;
mod request;
mod retry;
mod sign;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clawdstrike_rules::plan::ActionKind;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::alert::Alert;
use crate::config;
use crate::wall_clock;
use destination::Running;
pub use ledger::{Change, Decision, Entry, Filter, Objection, State};
use ledger::{Decided, Ended, Ledger, Policy, Verdict};
use progress::Progress;
use receiver::{Receiver, Shared};
pub use request::Destination;
use request::base_url;
pub use retry::Limits;
use sign::Keys;

/// The ledger's file in the state folder.
const FILE: &str = "ledger.sqlite";
/// How often old rows are looked for.
const TIDY: Duration = Duration::from_secs(60);

/// Where the ledger is.
pub fn ledger_file(state: &Path) -> PathBuf {
    state.join(FILE)
}

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
    /// Actions that were made to wait for an approval.
    pub held: u64,
    /// Actions that `dry_run` kept from being carried out.
    pub dry_run: u64,
}

/// Carries out actions. One for a process; start it inside a tokio runtime. What is dropped with it is in the ledger.
pub struct Orchestrator {
    shared: Arc<Shared>,
    receivers: BTreeMap<Destination, Running>,
    progress: Arc<Progress>,
    log: Arc<Log>,
    seen: Mutex<fleet::Seen>,
    tidying: JoinHandle<()>,
}

/// The receivers that are configured, each with its address, or what is wrong with it.
pub fn receivers(config: &config::Response) -> impl Iterator<Item = (Destination, Result<url::Url, String>)> {
    [(Destination::SocWebhook, &config.soc_webhook), (Destination::AgentControl, &config.agent_control_api)]
        .into_iter()
        .filter_map(|(destination, url)| Some((destination, base_url(destination, url.as_ref()?))))
}

impl Orchestrator {
    /// Starts the receivers that are configured, with the ledger of this state folder. Fails on a URL that isn't one, if TLS
    /// can't be set up, and on a ledger that can't be used.
    pub fn start(config: &config::Response, state: &Path) -> Result<Orchestrator, String> {
        Orchestrator::with_limits(config, state, Limits::default())
    }

    /// As [`Orchestrator::start`], with other bounds.
    pub fn with_limits(config: &config::Response, state: &Path, limits: Limits) -> Result<Orchestrator, String> {
        let bases = receivers(config).map(|(to, base)| Ok((to, base?))).collect::<Result<Vec<_>, String>>()?;
        let is_private =
            |(to, base): &(Destination, _)| *to == Destination::SocWebhook && address::is_private_host(base);
        if !config.soc_private_addresses && bases.iter().any(is_private) {
            return Err("[response] soc_webhook is a private address, and soc_private_addresses is false: give a public one, or set \
                        soc_private_addresses = true"
                .into());
        }
        let webhook_client = client(&limits, !config.soc_private_addresses)?;
        let control_client = client(&limits, false)?;
        let policy = Policy::new(config, bases.iter().map(|(to, _)| *to), limits.give_up_after)?;
        let webhook_keys = Keys::read("webhook_signing_keys", &config.webhook_signing_keys)?;
        let control_keys = Keys::read("control_signing_keys", &config.control_signing_keys)?;
        let routing_key = match (config.soc_format, &config.soc_routing_key) {
            (_, Some(setting)) => {
                Some(sign::secret(setting).map_err(|why| format!("[response] soc_routing_key: {why}"))?)
            }
            (config::SocFormat::Pagerduty, None) => {
                return Err(
                    "[response] soc_format = \"pagerduty\" needs soc_routing_key: write \"env:NAME\" or \"file:PATH\""
                        .into(),
                );
            }
            (_, None) => None,
        };
        let ledger = Ledger::open(&ledger_file(state), policy)?;
        let shared = Arc::new(Shared {
            webhook_client,
            control_client,
            webhook_keys,
            control_keys,
            soc: (config.soc_format, routing_key),
            ledger: ledger.clone(),
            counters: Default::default(),
            degraded: Mutex::default(),
            limits,
        });
        // In a dry run what earlier runs left is kept for later.
        let bases = bases.into_iter().filter(|_| !config.dry_run);
        let start = |(to, base)| {
            let (per_second, batch) = match to {
                Destination::SocWebhook => (config.soc_requests_per_second, config.soc_batch as usize),
                Destination::AgentControl => (config.control_requests_per_second, 1),
            };
            let receiver = Receiver { destination: to, base, batch, shared: Arc::clone(&shared) };
            (to, destination::start(receiver, per_second))
        };
        let receivers: BTreeMap<_, _> = bases.map(start).collect();
        let news = receivers.iter().map(|(to, running)| (*to, running.news())).collect();
        let log = Arc::new(Log { news, ..Log::default() });
        Ok(Orchestrator {
            shared,
            receivers,
            progress: Arc::new(Progress::new()),
            log,
            seen: Mutex::default(),
            tidying: tokio::spawn(tidy(ledger)),
        })
    }

    /// Sessions of these agents, as (tenant_id, agent_id), have changed: they are of the fleet, of which only a share is put
    /// into quarantine. Doesn't wait for anything but room before the ledger; what is submitted next is decided with them.
    pub async fn saw<'a>(&self, agents: impl Iterator<Item = (&'a str, &'a str)>) {
        let hour = ledger::hour_of(wall_clock::now());
        let new = self.seen.lock().unwrap_or_else(PoisonError::into_inner).new_ones(hour, agents);
        if !new.is_empty()
            && let Err(Ended) = self.shared.ledger.saw(new).await
        {
            tracing::error!("the ledger has ended: agents are not counted until the next start");
        }
    }

    /// Takes the versions of alerts that `epoch` made, in their order. The first version that asks for actions has them
    /// carried out; a retraction calls off what wasn't begun, and tells the SOC if it was told of the alert; all else changes
    /// nothing, so a version may be submitted any number of times. Doesn't wait for anything but room before the ledger.
    pub async fn submit(&self, epoch: u64, alerts: Arc<[Alert]>) {
        if alerts.is_empty() {
            return;
        }
        self.progress.begin(epoch, 1);
        let (progress, log, of) = (Arc::clone(&self.progress), Arc::clone(&self.log), Arc::clone(&alerts));
        let done = move |decided: Vec<(usize, Decided)>| {
            progress.done(epoch);
            log.tell(&of, &decided);
        };
        // Without a ledger the epoch is never acknowledged, so that a restart repeats it.
        if let Err(Ended) = self.shared.ledger.record(alerts, done).await {
            tracing::error!(epoch, "the ledger has ended: actions stay undone until the next start");
        }
    }

    /// The oldest epoch of which an action isn't durable in the ledger, `u64::MAX` if none: offsets of epochs before it may be
    /// committed, once all their alerts were submitted.
    pub fn acked_epoch(&self) -> u64 {
        *self.acked().borrow()
    }

    /// [`Orchestrator::acked_epoch`] as it changes.
    pub fn acked(&self) -> watch::Receiver<u64> {
        self.progress.oldest()
    }

    /// What the ledger knows, and what may be decided of it.
    pub fn actions(&self) -> Actions {
        Actions { ledger: self.shared.ledger.clone(), log: Arc::clone(&self.log) }
    }

    /// What came of the actions so far.
    pub fn counts(&self) -> Counts {
        let (counters, log) = (&self.shared.counters, &self.log);
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Counts {
            sent: read(&counters.sent),
            retries: read(&counters.retries),
            failed: read(&counters.failed),
            refused: read(&counters.refused),
            logged: read(&log.logged),
            unconfigured: read(&log.unconfigured),
            held: read(&log.held),
            dry_run: read(&log.dry_runs),
        }
    }

    /// Receivers whose last attempt failed, with the reason, and the ledger if it can't be written.
    pub fn degraded(&self) -> BTreeMap<String, String> {
        let degraded = self.shared.degraded.lock().unwrap_or_else(PoisonError::into_inner);
        let receivers = degraded.iter().map(|(destination, reason)| (destination.name().to_owned(), reason.clone()));
        receivers.chain(self.shared.ledger.trouble().map(|reason| ("ledger".to_owned(), reason))).collect()
    }

    /// Stops: waits until every action was tried, or `deadline` has passed. What is left is in the ledger, for the next
    /// start. Returns [`Orchestrator::acked_epoch`] at the end; `u64::MAX` means that everything is in the ledger.
    pub async fn drain(self, deadline: Duration) -> u64 {
        let settle = async {
            let mut acked = self.acked();
            drop(acked.wait_for(|oldest| *oldest == progress::NOTHING_PENDING).await);
            for receiver in self.receivers.values() {
                receiver.settled().await;
            }
            self.shared.ledger.totals().await.unwrap_or_default()
        };
        let left = match tokio::time::timeout(deadline, settle).await {
            Ok(totals) => {
                totals.iter().filter(|(s, _)| matches!(s, State::Pending | State::Sent)).map(|(_, n)| n).sum()
            }
            Err(_) => 1u64,
        };
        if left > 0 {
            tracing::warn!("some response actions are still to be carried out: the next start goes on with them");
        }
        self.acked_epoch()
    }
}

fn client(limits: &Limits, only_public: bool) -> Result<reqwest::Client, String> {
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(limits.timeout)
        .user_agent(concat!("clawdstrike-edr/", env!("CARGO_PKG_VERSION")));
    let client = if only_public { client.dns_resolver(address::Public) } else { client };
    client.build().map_err(|e| format!("[response] the HTTP client doesn't start: {e}"))
}

impl Drop for Orchestrator {
    fn drop(&mut self) {
        self.tidying.abort();
    }
}

async fn tidy(ledger: Ledger) {
    let mut due = tokio::time::interval(TIDY);
    loop {
        due.tick().await;
        match ledger.tidy().await {
            Ok(0) => {}
            Ok(expired) => tracing::warn!(expired, "actions were approved by nobody in time, and have expired"),
            Err(Ended) => return,
        }
    }
}

/// The ledger, as the API shows it.
#[derive(Clone)]
pub struct Actions {
    ledger: Ledger,
    log: Arc<Log>,
}

impl Actions {
    /// The action whose id begins with this, if there is exactly one. `None`: there is none. Fails when the engine stops.
    pub async fn find(&self, id: &str) -> Result<Option<Entry>, Stopping> {
        self.ledger.find(id.to_owned()).await.map_err(|Ended| Stopping)
    }

    /// Those that pass the filter, the latest first, each with its turn; of those below the turn `below` at most `limit`. Before
    /// them, how many there are in all. Fails when the engine stops.
    pub async fn list(
        &self,
        filter: Filter,
        limit: usize,
        below: Option<i64>,
    ) -> Result<(u64, Vec<(i64, Entry)>), Stopping> {
        self.ledger.list(filter, limit, below).await.map_err(|Ended| Stopping)
    }

    /// The oldest changes that the store's copy hasn't got, of each action the latest. Fails when the engine stops.
    pub async fn uncopied(&self, limit: usize) -> Result<Vec<Change>, Stopping> {
        self.ledger.uncopied(limit).await.map_err(|Ended| Stopping)
    }

    /// Notes that the copy has all changes up to this one. Fails when the engine stops.
    pub async fn copied(&self, number: u64) -> Result<(), Stopping> {
        self.ledger.copied(number).await.map_err(|Ended| Stopping)
    }

    /// How many are in each state. Fails when the engine stops.
    pub async fn totals(&self) -> Result<Vec<(State, u64)>, Stopping> {
        self.ledger.totals().await.map_err(|Ended| Stopping)
    }

    /// Decides of an action; the answer is durable. Fails when the engine stops.
    pub async fn decide(&self, id: &str, decision: Decision, by: &str) -> Result<Result<Entry, Objection>, Stopping> {
        let decided = self.ledger.decide(id.to_owned(), decision, by.to_owned()).await.map_err(|Ended| Stopping)?;
        if let Ok(entry) = &decided {
            // Names of tokens are plain, ids come from agents.
            tracing::warn!(id = entry.key, by, alert_id = entry.alert_id, action = entry.action, agent_id = ?entry.agent_id, "action: {decision:?}");
            self.log.wake_all();
        }
        Ok(decided)
    }
}

/// The engine is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopping;

/// Says what was decided: to the log, to the counters, and to the receivers that have something to do.
#[derive(Default)]
struct Log {
    news: BTreeMap<Destination, Arc<watch::Sender<u64>>>,
    unconfigured_kinds: Mutex<BTreeSet<ActionKind>>,
    logged: AtomicU64,
    unconfigured: AtomicU64,
    held: AtomicU64,
    dry_runs: AtomicU64,
}

impl Log {
    fn tell(&self, alerts: &[Alert], decided: &[(usize, Decided)]) {
        let mut woken = BTreeSet::new();
        for (n, decided) in decided {
            match &decided.verdict {
                Verdict::Send(to) => drop(woken.insert(*to)),
                other => {
                    if let (Some(alert), Some(action)) = (alerts.get(*n), &decided.action) {
                        self.tell_of(alert, action.kind, other);
                    }
                }
            }
        }
        for to in woken {
            self.wake(to);
        }
    }

    fn wake(&self, to: Destination) {
        if let Some(news) = self.news.get(&to) {
            news.send_modify(|news| *news += 1);
        }
    }

    fn wake_all(&self) {
        self.news.keys().for_each(|to| self.wake(*to));
    }

    fn tell_of(&self, alert: &Alert, kind: ActionKind, verdict: &Verdict) {
        let (alert_id, action) = (&alert.alert_id, kind.name());
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        // Ids come from agents: `?` escapes them.
        match verdict {
            Verdict::Send(_) => {}
            Verdict::Log => {
                count(&self.logged);
                tracing::warn!(alert_id, rule_id = ?alert.rule_id, severity = ?alert.severity, agent_id = ?alert.agent_id, session_id = ?alert.session_id, "alert");
            }
            Verdict::Wait(_, reason) => {
                count(&self.held);
                tracing::warn!(alert_id, action, agent_id = ?alert.agent_id, "action waits for an approval: {reason}; see `clawdstrike-edr actions list --state waiting`");
            }
            Verdict::DryRun(to) => {
                count(&self.dry_runs);
                tracing::info!(alert_id, action, destination = to.name(), agent_id = ?alert.agent_id, session_id = ?alert.session_id, "dry run: action would be carried out");
            }
            Verdict::Unconfigured(to) => {
                count(&self.unconfigured);
                if self.unconfigured_kinds.lock().unwrap_or_else(PoisonError::into_inner).insert(kind) {
                    let receiver = to.name();
                    tracing::warn!(
                        action,
                        "rules ask for \"{action}\", but [response] has no \"{receiver}\": set it, or take the action out of the rules"
                    );
                }
            }
        }
    }
}
