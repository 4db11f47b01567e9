//! The ledger of actions (SPEC §7): a SQLite file in the state folder of the process that responds. One thread owns it and
//! does what it is asked in order; all that waits is one transaction. Whoever asks is answered once that has ended well.
//!
//! A row is durable before its action is sent for the first time. What is written about an attempt needs to survive only the
//! process: a machine that loses power forgets at most the latest answers, and then repeats requests with the same key.

mod entry;
mod fleet;
mod policy;
mod record;
mod table;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::alert::Alert;
use crate::response::request::Destination;
use crate::wall_clock;
pub use entry::{Change, Decision, Entry, Filter, Objection, State};
pub(super) use fleet::{MOST_AGENTS, hour_of};
pub(super) use policy::{Policy, Verdict};
pub(super) use record::Decided;
use table::Table;
pub(super) use table::{Go, Item, Outcome, Work};

/// What may wait for the thread. Beyond, whoever asks waits too.
const WAITING: usize = 256;
/// What is done in one transaction at most.
const BATCH: usize = 256;
/// What can't be written is tried again after so long.
const AGAIN: Duration = Duration::from_millis(500);

/// The ledger has ended: its process stops.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended;

/// Something to be done within a transaction, again if that fails.
trait Order: Send {
    fn is_durable(&self) -> bool;
    fn run(&mut self, table: &mut Table, policy: &Policy) -> rusqlite::Result<()>;
    fn done(self: Box<Self>);
}

struct Ask<T, F, D> {
    durable: bool,
    work: F,
    value: Option<T>,
    done: D,
}

impl<T: Send, F, D> Order for Ask<T, F, D>
where
    F: FnMut(&mut Table, &Policy) -> rusqlite::Result<T> + Send,
    D: FnOnce(T) + Send,
{
    fn is_durable(&self) -> bool {
        self.durable
    }

    fn run(&mut self, table: &mut Table, policy: &Policy) -> rusqlite::Result<()> {
        self.value = Some((self.work)(table, policy)?);
        Ok(())
    }

    fn done(self: Box<Self>) {
        if let Some(value) = self.value {
            (self.done)(value);
        }
    }
}

/// Why nothing can be written at present.
type Trouble = Arc<Mutex<Option<String>>>;

/// A way to ask the ledger's thread, which ends with the last of them.
#[derive(Clone)]
pub(super) struct Ledger {
    to: mpsc::Sender<Box<dyn Order>>,
    trouble: Trouble,
}

impl Ledger {
    /// Opens the file, or makes it, and starts the thread.
    ///
    /// # Errors
    /// It can't be used, and what to do.
    pub(super) fn open(path: &Path, policy: Policy) -> Result<Ledger, String> {
        let table = Table::open(path)?;
        let (to, from) = mpsc::channel(WAITING);
        let trouble = Trouble::default();
        let told = trouble.clone();
        std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || run(table, &policy, from, &told))
            .map_err(|e| format!("no thread for the ledger: {e}; raise the limit of processes"))?;
        Ok(Ledger { to, trouble })
    }

    /// Why nothing can be written at present.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes versions of alerts; `done` is called once their rows are durable, with what is new.
    pub(super) async fn record(
        &self,
        alerts: Arc<[Alert]>,
        done: impl FnOnce(Vec<(usize, Decided)>) + Send + 'static,
    ) -> Result<(), Ended> {
        let work = move |table: &mut Table, policy: &Policy| {
            let now = wall_clock::now();
            let mut all = Vec::new();
            for (n, alert) in alerts.iter().enumerate() {
                all.extend(table.record(alert, policy, now)?.into_iter().map(|decided| (n, decided)));
            }
            Ok(all)
        };
        self.send(true, work, done).await
    }

    /// Sessions of these agents, as (tenant_id, agent_id), have changed. It is written before whatever is asked next.
    pub(super) async fn saw(&self, agents: Vec<(String, String)>) -> Result<(), Ended> {
        self.send(false, move |table, _| table.saw(&agents, wall_clock::now()), drop).await
    }

    pub(super) async fn queue(&self, to: Destination, after: i64, limit: u32) -> Result<Vec<Item>, Ended> {
        self.ask(false, move |table, _| table.queue(to, after, limit)).await
    }

    pub(super) async fn go(&self, item: Item) -> Result<Go, Ended> {
        self.ask(false, move |table, _| table.go(&item, wall_clock::now())).await
    }

    pub(super) async fn attempted(&self, key: String, outcome: Outcome) -> Result<(), Ended> {
        self.ask(false, move |table, _| table.attempted(&key, &outcome, wall_clock::now())).await
    }

    pub(super) async fn decide(
        &self,
        key: String,
        decision: Decision,
        by: String,
    ) -> Result<Result<Entry, Objection>, Ended> {
        self.ask(true, move |table, policy| table.decide(&key, decision, &by, policy, wall_clock::now())).await
    }

    pub(super) async fn find(&self, key: String) -> Result<Option<Entry>, Ended> {
        self.ask(false, move |table, _| table.find(&key)).await
    }

    pub(super) async fn list(
        &self,
        filter: Filter,
        limit: usize,
        below: Option<i64>,
    ) -> Result<(u64, Vec<(i64, Entry)>), Ended> {
        self.ask(false, move |table, _| table.list(&filter, limit, below)).await
    }

    pub(super) async fn uncopied(&self, limit: usize) -> Result<Vec<Change>, Ended> {
        self.ask(false, move |table, _| table.uncopied(limit)).await
    }

    pub(super) async fn copied(&self, number: u64) -> Result<(), Ended> {
        self.ask(false, move |table, _| table.copied(number)).await
    }

    pub(super) async fn totals(&self) -> Result<Vec<(State, u64)>, Ended> {
        self.ask(false, |table, _| table.totals()).await
    }

    pub(super) async fn tidy(&self) -> Result<usize, Ended> {
        self.ask(false, |table, policy| table.tidy(policy, wall_clock::now())).await
    }

    async fn ask<T: Send + 'static>(
        &self,
        durable: bool,
        work: impl FnMut(&mut Table, &Policy) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Ended> {
        let (answer, answered) = oneshot::channel();
        // Whoever asked may be gone.
        self.send(durable, work, move |value| drop(answer.send(value))).await?;
        answered.await.map_err(|_| Ended)
    }

    async fn send<T: Send + 'static>(
        &self,
        durable: bool,
        work: impl FnMut(&mut Table, &Policy) -> rusqlite::Result<T> + Send + 'static,
        done: impl FnOnce(T) + Send + 'static,
    ) -> Result<(), Ended> {
        self.to.send(Box::new(Ask { durable, work, value: None, done })).await.map_err(|_| Ended)
    }
}

fn run(mut table: Table, policy: &Policy, mut from: mpsc::Receiver<Box<dyn Order>>, trouble: &Trouble) {
    while let Some(first) = from.blocking_recv() {
        let mut orders = vec![first];
        while orders.len() < BATCH
            && let Ok(further) = from.try_recv()
        {
            orders.push(further);
        }
        while let Err(error) = transact(&mut table, policy, &mut orders) {
            table.rollback();
            let reason = format!("nothing can be written to the ledger: {error}; responses wait");
            let known = trouble.lock().unwrap_or_else(PoisonError::into_inner).replace(reason.clone());
            if known.as_ref() != Some(&reason) {
                tracing::error!("{reason}");
            }
            if from.is_closed() {
                return;
            }
            std::thread::sleep(AGAIN);
        }
        trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
        for order in orders {
            order.done();
        }
    }
}

fn transact(table: &mut Table, policy: &Policy, orders: &mut [Box<dyn Order>]) -> rusqlite::Result<()> {
    table.begin_transaction(orders.iter().any(|order| order.is_durable()))?;
    for order in orders.iter_mut() {
        order.run(table, policy)?;
    }
    table.commit()
}
