//! Drives the dataflow on each worker. Worker 0 is the sequencer: it alone gives epochs and commands, so all workers see
//! them in one order; the others follow.
//!
//! An epoch is given when something has arrived (or a command waits), but not while [`OPEN_EPOCHS`] earlier ones are still
//! under way or exports wait for their takers: then workers stop reading, inboxes fill, and readers pause.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use clawdstrike_rules::plan::RuleSet;
use crossbeam_channel::{Receiver, Sender};
use timely::worker::Worker;
use tokio::sync::{mpsc, oneshot};

use super::handle::Request;
use crate::dead_letter::DeadRecord;
use crate::inbox::{Inbox, Inboxes, Message, PartitionId, Waker};
use crate::render::control::Command;
use crate::render::detect::Totals;
use crate::render::export::Exported;
use crate::render::ingest::IngestParts;
use crate::render::settings::Settings;
use crate::render::{self, Built, SECRET_BYTES};
use crate::view::Answer;

/// Epochs that may be under way at once.
const OPEN_EPOCHS: u64 = 3;
/// Exported batches that may wait for their takers before no more epochs are given.
const EXPORTS_WAITING: usize = 64;
/// An epoch is given at least so often, so that a stopped worker shows and timers run.
const IDLE: Duration = Duration::from_millis(500);
/// How long a stop waits for stores and receivers.
const DRAIN: Duration = Duration::from_secs(10);
/// How long a worker sleeps if nothing wakes it.
const PARK: Duration = Duration::from_millis(100);

/// What all workers of a process are given alike.
#[derive(Clone)]
pub struct Shared {
    /// Where dead letters go.
    pub dead: Sender<DeadRecord>,
    /// Takes positions that may be committed.
    pub commits: Sender<Vec<(PartitionId, u64)>>,
    /// How many sources will say when they have ended.
    pub sources: usize,
    /// Limits and sources.
    pub settings: Settings,
    /// Why a source of this process can't go on.
    pub failure: Arc<OnceLock<String>>,
}

/// What a worker is given.
struct Seat {
    inbox: Receiver<Message>,
    /// How its sources wake it.
    waker: Waker,
    shared: Shared,
}

/// The workers of a process before they begin: timely starts each on a thread of its own, where it takes its seat.
pub struct Crew {
    first: usize,
    seats: Vec<Mutex<Option<Seat>>>,
    sequencer: Mutex<Option<Sequencer>>,
}

impl Crew {
    /// One worker for each inbox; `sequencer` is for worker 0, if it is in this process.
    pub fn new(
        inboxes: &Inboxes,
        receivers: Vec<Receiver<Message>>,
        shared: Shared,
        sequencer: Option<Sequencer>,
    ) -> Crew {
        let seat = |(inbox, sender): (Receiver<Message>, &Inbox)| {
            Mutex::new(Some(Seat { inbox, waker: sender.waker().clone(), shared: shared.clone() }))
        };
        let seats = receivers.into_iter().zip(&inboxes.local).map(seat).collect();
        Crew { first: inboxes.first, seats, sequencer: Mutex::new(sequencer) }
    }

    /// Runs a worker to its end.
    ///
    /// # Errors
    /// Why a source can't go on.
    pub fn run(&self, worker: &mut Worker) -> Result<(), String> {
        let seat = take(&self.seats[worker.index() - self.first]).ok_or("a worker was started twice")?;
        let sequencer = if worker.index() == 0 { take(&self.sequencer) } else { None };
        run(worker, seat, sequencer)
    }
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// What worker 0 is given besides.
pub struct Sequencer {
    /// The first rule set.
    pub rules: Arc<RuleSet>,
    /// The wall clock of an offline replay; `None`: live.
    pub now: Option<i64>,
    /// The first epoch; larger than any of an earlier run, so that revisions never go back.
    pub first_epoch: u64,
    /// The least time between two epochs.
    pub tick: Duration,
    /// Requests.
    pub requests: mpsc::Receiver<Request>,
    /// Wakes worker 0 when there is a request.
    pub waker: Waker,
    /// Takes what leaves.
    pub outlet: Box<dyn Outlet>,
    /// Set to stop in good order.
    pub stop: Arc<AtomicBool>,
}

/// Takes what leaves the dataflow.
pub trait Outlet: Send {
    /// Offers a batch; gives it back if there is no room now.
    fn offer(&mut self, batch: Exported) -> Option<Exported>;
    /// All epochs before this one are closed; what they changed has been offered.
    fn closed(&mut self, epoch: u64, totals: &Totals);
    /// The epoch up to which everything is stored and sent.
    fn acked(&self) -> u64;
}

fn run(worker: &mut Worker, seat: Seat, sequencer: Option<Sequencer>) -> Result<(), String> {
    let Seat { inbox, waker, shared: Shared { dead, commits, sources, settings, failure } } = seat;
    let parts = IngestParts {
        settings,
        inbox,
        wake: Box::new(move |activator| {
            waker.set(move || {
                // The worker has ended: there is nobody to wake.
                let _ended = activator.activate();
            });
        }),
        dead,
        commits: Box::new(move |positions| {
            // Commits are only a report of progress: if the committer lags, a later one says more.
            let _lagging = commits.try_send(positions);
        }),
        sources,
        failure: failure.clone(),
    };
    let built = render::build(worker, parts);
    match sequencer {
        Some(sequencer) => Sequence::new(built, sequencer, failure.clone()).run(worker),
        None => {
            let Built { commands, probe, .. } = built;
            drop(commands);
            while !probe.done() {
                worker.step_or_park(Some(PARK));
            }
        }
    }
    failure.get().map_or(Ok(()), |reason| Err(reason.clone()))
}

struct Sequence {
    built: Built,
    given: Sequencer,
    failure: Arc<OnceLock<String>>,
    epoch: u64,
    last_tick: Instant,
    questions: HashMap<u64, oneshot::Sender<Answer>>,
    loads: Vec<(u64, oneshot::Sender<u64>)>,
    next_question: u64,
    told_closed: u64,
    told_acked: u64,
    command_waits: bool,
    draining: Option<(Instant, u64)>,
}

impl Sequence {
    fn new(built: Built, given: Sequencer, failure: Arc<OnceLock<String>>) -> Sequence {
        Sequence {
            epoch: given.first_epoch,
            built,
            given,
            failure,
            last_tick: Instant::now(),
            questions: HashMap::new(),
            loads: Vec::new(),
            next_question: 0,
            told_closed: 0,
            told_acked: 0,
            command_waits: true,
            draining: None,
        }
    }

    fn run(mut self, worker: &mut Worker) {
        let thread = std::thread::current();
        self.given.waker.set(move || thread.unpark());
        self.built.commands.advance_to(self.epoch);
        let mut secret = vec![0u8; SECRET_BYTES];
        if let Err(error) = getrandom::fill(&mut secret) {
            self.failure.get_or_init(|| format!("no random numbers from the operating system: {error}"));
        }
        self.built.commands.send(Command::Start { secret, now: self.given.now });
        let rules = (*self.given.rules).clone();
        self.built.commands.send(Command::Rules(Box::new(rules)));
        while self.failure.get().is_none() && !self.is_done() {
            self.take_requests();
            let wait = self.tick();
            worker.step_or_park(Some(wait));
            self.hand_out();
        }
        let Sequence { built, mut given, .. } = self;
        let Built { commands, probe, exports, totals } = built;
        drop(commands);
        while !probe.done() {
            worker.step_or_park(Some(PARK));
        }
        let batches = std::mem::take(&mut exports.borrow_mut().batches);
        for batch in batches {
            let mut waiting = Some(batch);
            while let Some(batch) = waiting {
                waiting = given.outlet.offer(batch);
                if waiting.is_some() {
                    std::thread::yield_now();
                }
            }
        }
        given.outlet.closed(u64::MAX, &totals.borrow());
    }

    /// Whether there is nothing left to give epochs for.
    fn is_done(&mut self) -> bool {
        if self.given.now.is_some() {
            return self.built.totals.borrow().finished;
        }
        if self.given.stop.load(Ordering::Relaxed) && self.draining.is_none() {
            self.built.commands.send(Command::Drain);
            self.command_waits = true;
            self.draining = Some((Instant::now(), self.epoch + 1));
        }
        // Two epochs for the commands to come through: to read no more, then what has been acknowledged.
        self.draining.is_some_and(|(since, after)| {
            let sent = self.told_acked > after && self.closed() > self.told_acked + 1;
            sent || since.elapsed() > DRAIN
        })
    }

    /// All epochs before this one are closed.
    fn closed(&self) -> u64 {
        self.built.probe.with_frontier(|f| f.first().copied().unwrap_or(u64::MAX))
    }

    fn take_requests(&mut self) {
        while let Ok(request) = self.given.requests.try_recv() {
            self.command_waits = true;
            match request {
                Request::Peek(query, answer) => {
                    let id = self.next_question;
                    self.next_question += 1;
                    self.questions.insert(id, answer);
                    self.built.commands.send(Command::Peek { id, query });
                }
                Request::Rules(set, loaded) => {
                    self.built.commands.send(Command::Rules(Box::new((*set).clone())));
                    self.loads.push((self.epoch, loaded));
                }
            }
        }
    }

    /// Gives the next epoch if it is time; says how long to sleep at most.
    fn tick(&mut self) -> Duration {
        let acked = self.given.outlet.acked();
        if acked > self.told_acked {
            self.told_acked = acked;
            if self.given.now.is_none() {
                self.built.commands.send(Command::Acked(acked));
            }
        }
        let since = self.last_tick.elapsed();
        let under_way = self.epoch.saturating_sub(self.closed());
        let room = under_way < OPEN_EPOCHS && self.built.exports.borrow().batches.len() < EXPORTS_WAITING;
        let wanted = self.command_waits || self.built.totals.borrow().pending || since >= IDLE;
        if !room || !wanted {
            return PARK.min(IDLE.saturating_sub(since)).max(Duration::from_millis(1));
        }
        if since < self.given.tick {
            return self.given.tick - since;
        }
        self.built.totals.borrow_mut().pending = false;
        self.command_waits = false;
        self.epoch += 1;
        self.built.commands.advance_to(self.epoch);
        self.last_tick = Instant::now();
        Duration::from_millis(1)
    }

    /// Hands out what has left the dataflow.
    fn hand_out(&mut self) {
        let closed = self.closed();
        loop {
            let Some(batch) = self.built.exports.borrow_mut().batches.pop_front() else { break };
            if let Some(back) = self.given.outlet.offer(batch) {
                self.built.exports.borrow_mut().batches.push_front(back);
                return;
            }
        }
        let answers = std::mem::take(&mut self.built.exports.borrow_mut().answers);
        for (id, answer) in answers {
            if let Some(question) = self.questions.remove(&id) {
                // Whoever asked may have given up.
                let _given_up = question.send(answer);
            }
        }
        if closed > self.told_closed {
            self.told_closed = closed;
            self.given.outlet.closed(closed, &self.built.totals.borrow());
            for (epoch, loaded) in std::mem::take(&mut self.loads) {
                if epoch < closed {
                    let _given_up = loaded.send(epoch + 1);
                } else {
                    self.loads.push((epoch, loaded));
                }
            }
        }
    }
}
