//! One receiver's queue: takes what the ledger has for it, in order, a bounded number of requests at a time, each retried on its
//! own. A receiver knows nothing of the others, so a slow one delays only itself.
//!
//! Of one alert one attempt is under way at a time, so first attempts come in the order of the ledger. What waits to be tried
//! again lets the next of its alert go first: an agent that can't be asked to log more is still quarantined.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::breaker::Breaker;
use super::pace::Pace;
use super::receiver::{Due, How, Landed, Receiver};

/// Rows that are asked of the ledger at a time.
const PULL: u32 = 256;

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
pub(super) fn start(receiver: Receiver, per_second: Option<u32>) -> Running {
    let (news, heard) = watch::channel(1);
    let (settled_in, settled) = watch::channel(0);
    let desk = Desk {
        receiver: Arc::new(receiver),
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
    flights: JoinSet<Option<Vec<Landed>>>,
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
                    Ok(Some(landed)) => landed.into_iter().for_each(|landed| self.landed(landed)),
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
            let mut together = vec![due];
            // What waits anyway; nothing waits for company.
            while together.len() < self.receiver.batch
                && let Some(next) = self.ready.pop_front()
            {
                match self.lanes.get_mut(&next.item.alert_id) {
                    Some(lane) => lane.push_back(next),
                    None => {
                        self.lanes.insert(next.item.alert_id.clone(), VecDeque::new());
                        together.push(next);
                    }
                }
            }
            let receiver = Arc::clone(&self.receiver);
            self.flights.spawn(async move { receiver.attempt(together).await });
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
