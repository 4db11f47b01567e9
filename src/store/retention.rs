//! Retention: what is due is removed a little at a time, beside the writing and on a connection of its own, so that no
//! alert waits for it.
//!
//! Events go by their time, and their hourly counts stay; alerts, sessions and hours by their last event, if at all. In
//! TimescaleDB events are the business of its own policies, which are kept as the configuration says.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Store;
use crate::config::Retention;
use crate::wall_clock;

/// A start has better things to do.
const FIRST: Duration = Duration::from_secs(300);
/// From the end of one sweep to the beginning of the next: how far a bound on size may be exceeded.
const PAUSE: Duration = Duration::from_secs(60);

const HOUR: i64 = 3_600_000_000;

/// What a sweep has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Events; those of `before_their_time` too.
    pub events: u64,
    /// Events that only a bound on size has removed.
    pub before_their_time: u64,
    /// Alerts.
    pub alerts: u64,
    /// Lives of sessions.
    pub sessions: u64,
    /// Actions.
    pub actions: u64,
    /// Hourly counts of an agent and a type.
    pub hours: u64,
    /// The bound on size is exceeded although no event is left.
    pub still_too_large: bool,
}

/// What is older is removed; microseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    pub(super) events: i64,
    pub(super) history: Option<i64>,
    /// Of hours, which begin earlier than their last event.
    pub(super) hours: Option<i64>,
}

impl Due {
    pub(super) fn at(now: i64, retention: &Retention) -> Due {
        let history = retention.history.map(|kept| now.saturating_sub(kept.0));
        Due {
            events: now.saturating_sub(retention.events.0),
            history,
            hours: history.map(|due| due.saturating_sub(HOUR) + 1),
        }
    }
}

impl Store {
    /// Removes what is due at this time (microseconds since 1970; of a server's clock and this one the earlier counts, so
    /// that one clock that runs ahead removes nothing). May be repeated and interrupted.
    ///
    /// # Errors
    /// The store doesn't answer, or has no tables yet; the text names it and says why. What was removed until then is gone.
    pub async fn sweep(&mut self, now: i64) -> Result<Removed, String> {
        match self {
            Store::Sqlite(store) => store.sweep(now).await,
            Store::Postgres(store) => store.sweep(now).await,
        }
    }

    /// The same store, with no connection yet.
    fn apart(&self) -> Store {
        match self {
            Store::Sqlite(store) => Store::Sqlite(store.apart()),
            Store::Postgres(store) => Store::Postgres(store.apart()),
        }
    }
}

/// The task that sweeps; it ends when this is dropped.
pub(super) struct Sweeper {
    trouble: watch::Receiver<Option<String>>,
    task: JoinHandle<()>,
}

impl Sweeper {
    /// Starts the task on the current tokio runtime.
    pub(super) fn start(store: &Store) -> Sweeper {
        let (sender, trouble) = watch::channel(None);
        Sweeper { trouble, task: tokio::spawn(run(store.apart(), sender)) }
    }

    /// Why the last sweep couldn't remove what was due.
    pub(super) fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.trouble.clone()
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(mut store: Store, trouble: watch::Sender<Option<String>>) {
    sleep(FIRST).await;
    loop {
        let now = match store.sweep(wall_clock::now()).await {
            Ok(removed) => {
                tell(&removed);
                let full =
                    "[store.retention] max_size is exceeded by alerts and sessions alone: raise it, or set history";
                removed.still_too_large.then(|| full.to_owned())
            }
            Err(error) => Some(error),
        };
        trouble.send_if_modified(|before| {
            let news = *before != now;
            if let Some(reason) = now.as_ref().filter(|_| news) {
                tracing::warn!(reason, "old rows are not removed; trying again every minute");
            }
            *before = now;
            news
        });
        sleep(PAUSE).await;
    }
}

fn tell(removed: &Removed) {
    let Removed { events, before_their_time, alerts, sessions, actions, hours, .. } = *removed;
    if before_their_time > 0 {
        tracing::warn!(
            events = before_their_time,
            "the store is larger than [store.retention] max_size: its oldest events were removed before their time"
        );
    }
    if events + alerts + sessions + actions + hours > 0 {
        tracing::info!(events, alerts, sessions, actions, hours, "retention has removed rows");
    }
}
