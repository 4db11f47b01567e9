//! Drives the dataflow on each worker. Worker 0 is the sequencer: it alone gives epochs and commands, so all workers see
//! them in one order; the others follow.
//!
//! An epoch is given when something has arrived (or a command waits), but not while [`OPEN_EPOCHS`] earlier ones are still
//! under way or exports wait for their takers: then workers stop reading, inboxes fill, and readers pause.

mod loading;

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use clawdstrike_rules::plan::RuleSet;
use crossbeam_channel::{Receiver, Sender};
use timely::worker::Worker;
use tokio::sync::{mpsc, oneshot};

use super::handle::{Loaded, Request};
use super::journal::Told;
use super::recovery::KeepLoads;
use crate::dead_letter::DeadRecord;
use crate::inbox::again::AskAgain;
use crate::inbox::{Inbox, Inboxes, Message, PartitionId, Waker};
use crate::loads::{InForce, Next};
use crate::render::control::{Command, Restored};
use crate::render::detect::Totals;
use crate::render::export::Exported;
use crate::render::ingest::IngestParts;
use crate::render::settings::Settings;
use crate::render::{self, Built};
use crate::spool::{Progress, Spool, ToWriter};
use crate::view::Answer;
use loading::Loading;

/// Epochs that may be under way at once.
const OPEN_EPOCHS: u64 = 3;
/// Exported batches that may wait for their takers before no more epochs are given.
const EXPORTS_WAITING: usize = 64;
/// An epoch is given at least so often, so that a stopped worker shows and timers run.
const IDLE: Duration = Duration::from_millis(500);
/// A question waits so long for the epoch that it is answered after, unless earlier ones are under way; epochs lie no closer.
const QUESTION: Duration = Duration::from_millis(1);
/// How long a stop waits for stores and receivers, and then for the checkpoint.
const DRAIN: Duration = Duration::from_secs(10);
/// Rule sets that may wait to come in force.
const LOADS_WAITING: usize = 16;
/// How long a worker sleeps if nothing wakes it.
const PARK: Duration = Duration::from_millis(100);

/// What all workers of a process are given alike.
#[derive(Clone)]
pub struct Shared {
    /// Where dead letters go.
    pub dead: Sender<DeadRecord>,
    /// How many sources will say when they have ended.
    pub sources: usize,
    /// Limits and sources.
    pub settings: Settings,
    /// Why a source of this process can't go on.
    pub failure: Arc<OnceLock<String>>,
}

/// What a process's workers need for checkpoints.
#[derive(Default)]
pub struct Kept {
    /// Takes what they put aside; `None`: nothing is.
    pub spooled: Option<ToWriter>,
    /// How far partitions had been read when the checkpoint was made that the cluster begins with.
    pub before: HashMap<PartitionId, Progress>,
    /// That checkpoint's number; 0: there is none.
    pub checkpoint: u64,
    /// For each worker, its share of that checkpoint's frames; none: there are no frames.
    pub back: Vec<Receiver<Vec<u8>>>,
    /// For each worker, where it asks for what has been read before; none: it can't be had.
    pub again: Vec<AskAgain>,
}

/// What a worker is given.
struct Seat {
    inbox: Receiver<Message>,
    /// Its place in its process.
    place: usize,
    spooled: Option<ToWriter>,
    before: HashMap<PartitionId, Progress>,
    checkpoint: u64,
    back: Receiver<Vec<u8>>,
    again: Option<AskAgain>,
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
        kept: Kept,
        sequencer: Option<Sequencer>,
    ) -> Crew {
        let mut shares = kept.back.into_iter();
        let mut again = kept.again.into_iter();
        let seat = |(place, (inbox, sender)): (usize, (Receiver<Message>, &Inbox))| {
            Mutex::new(Some(Seat {
                inbox,
                place,
                spooled: kept.spooled.clone(),
                before: kept.before.clone(),
                checkpoint: kept.checkpoint,
                back: shares.next().unwrap_or_else(|| crossbeam_channel::bounded(0).1),
                again: again.next(),
                waker: sender.waker().clone(),
                shared: shared.clone(),
            }))
        };
        let seats = receivers.into_iter().zip(&inboxes.local).enumerate().map(seat).collect();
        Crew { first: inboxes.first, seats, sequencer: Mutex::new(sequencer) }
    }

    /// Runs a worker to its end.
    ///
    /// # Errors
    /// Why a source can't go on.
    pub fn run(&self, worker: &mut Worker) -> Result<(), String> {
        let seat = take(&self.seats[worker.index() - self.first]).ok_or("a worker was started twice")?;
        let sequencer = if worker.index() == 0 { take(&self.sequencer) } else { None };
        run(worker, seat, sequencer, self.first == 0)
    }
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// What worker 0 is given besides.
pub struct Sequencer {
    /// The first rule set.
    pub rules: Arc<RuleSet>,
    /// The cluster's secret for hashes.
    pub secret: Vec<u8>,
    /// What the checkpoint says of the world that the cluster begins with, if there is one.
    pub restored: Option<Restored>,
    /// The rules that were in force then, if it tells.
    pub before: Option<Before>,
    /// Makes loads of rules durable before they come in force; `None`: they needn't be.
    pub keep_loads: Option<KeepLoads>,
    /// What was told after that checkpoint, by a run that was killed.
    pub told: Told,
    /// When checkpoints are made, if they are.
    pub cuts: Option<Cuts>,
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
    /// Called when epochs have closed on all workers, or wait for their takers, now and then.
    pub alive: Box<dyn FnMut() + Send>,
    /// Set to stop in good order.
    pub stop: Arc<AtomicBool>,
}

/// What new rules of a run begin after that goes on from a checkpoint.
pub struct Before {
    /// The rules that were in force.
    pub in_force: InForce,
    /// The event-time bound.
    pub watermark: Option<i64>,
    /// How far had been read.
    pub read: Vec<Next>,
}

impl Sequencer {
    /// Of a run over what ends, by this wall clock: as fast as it can, without checkpoints, asked nothing.
    pub fn offline(rules: RuleSet, secret: Vec<u8>, now: i64, outlet: Box<dyn Outlet>) -> Sequencer {
        Sequencer {
            rules: Arc::new(rules),
            secret,
            restored: None,
            before: None,
            keep_loads: None,
            told: Told::default(),
            cuts: None,
            now: Some(now),
            first_epoch: 1,
            tick: Duration::ZERO,
            requests: mpsc::channel(1).1,
            waker: Waker::default(),
            outlet,
            alive: Box::new(|| {}),
            stop: Arc::default(),
        }
    }
}

/// When checkpoints are made, and how far they have come.
#[derive(Clone)]
pub struct Cuts {
    /// The least time between two.
    pub every: Duration,
    /// The epoch of the latest that was asked for.
    pub given: Arc<AtomicU64>,
    /// The epoch of the latest that is durable.
    pub durable: Arc<AtomicU64>,
    /// The epoch at whose end everything was back, from the checkpoint that the cluster began with; until it is known,
    /// [`u64::MAX`].
    pub live: Arc<AtomicU64>,
}

impl Cuts {
    /// None was made yet.
    pub fn new(every: Duration) -> Cuts {
        Cuts { every, given: Arc::default(), durable: Arc::default(), live: Arc::new(AtomicU64::new(u64::MAX)) }
    }
}

/// Takes what leaves the dataflow.
pub trait Outlet: Send {
    /// Offers a batch; gives it back if there is no room now. `totals` are at least as far.
    fn offer(&mut self, batch: Exported, totals: &Totals) -> Option<Exported>;
    /// All epochs before this one are closed; what they changed has been offered.
    fn closed(&mut self, epoch: u64, totals: &Totals);
    /// The epoch up to which everything is stored and sent.
    fn acked(&self) -> u64;
    /// What a killed run had told is told again as it stands, in this epoch.
    fn reconciled(&mut self, _epoch: u64) {}
}

fn run(worker: &mut Worker, seat: Seat, sequencer: Option<Sequencer>, with_first: bool) -> Result<(), String> {
    let Seat { inbox, place, spooled, before, checkpoint, back, again, waker, shared } = seat;
    let Shared { dead, sources, settings, failure } = shared;
    let names = settings.sources.iter().map(|source| source.name.clone()).collect();
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
        before,
        checkpoint,
        back,
        again,
        spool: spooled.map(|to| Rc::new(RefCell::new(Spool::new(place, to)))),
        sources,
        failure: failure.clone(),
    };
    let built = render::build(worker, parts);
    match sequencer {
        Some(sequencer) => Sequence::new(built, sequencer, names, failure.clone()).run(worker),
        None => {
            let Built { commands, probe, .. } = built;
            drop(commands);
            while !probe.done() {
                worker.step_or_park(Some(PARK));
                // Worker 0 of another process can't be told, and has no use for what is left here.
                if let Some(reason) = failure.get()
                    && !with_first
                {
                    tracing::error!("{reason}");
                    std::process::exit(1);
                }
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
    /// Names of the sources, by their places.
    sources: Vec<String>,
    in_force: InForce,
    /// What rules are read again for; 0: none waits.
    fill: u32,
    fills: u32,
    /// Rule sets that wait for the one before.
    to_load: VecDeque<(Arc<RuleSet>, oneshot::Sender<Loaded>)>,
    /// The next one, until it is durable.
    loading: Option<Loading>,
    loads: Vec<(u64, Option<i64>, oneshot::Sender<Loaded>)>,
    next_question: u64,
    told_closed: u64,
    command_waits: bool,
    question_waits: bool,
    /// From the end of this epoch on records are read.
    live: Option<u64>,
    last_cut: Instant,
    /// The cut that isn't durable yet.
    cutting: Option<u64>,
    reconciled: bool,
    stopping: Stopping,
}

/// How far a stop in good order has come.
#[derive(Clone, Copy)]
enum Stopping {
    No,
    /// No more is read; stores and receivers are waited for from this epoch on.
    Draining(Instant, u64),
    /// The last checkpoint is waited for.
    Keeping(Instant, u64),
    Done,
}

impl Sequence {
    fn new(built: Built, given: Sequencer, sources: Vec<String>, failure: Arc<OnceLock<String>>) -> Sequence {
        Sequence {
            epoch: given.first_epoch,
            built,
            given,
            failure,
            last_tick: Instant::now(),
            questions: HashMap::new(),
            sources,
            in_force: InForce::default(),
            fill: 0,
            fills: 0,
            to_load: VecDeque::new(),
            loading: None,
            loads: Vec::new(),
            next_question: 0,
            told_closed: 0,
            command_waits: true,
            question_waits: false,
            live: None,
            last_cut: Instant::now(),
            cutting: None,
            reconciled: false,
            stopping: Stopping::No,
        }
    }

    fn run(mut self, worker: &mut Worker) {
        let thread = std::thread::current();
        self.given.waker.set(move || thread.unpark());
        self.built.commands.advance_to(self.epoch);
        let secret = std::mem::take(&mut self.given.secret);
        self.built.commands.send(Command::Start { secret, now: self.given.now, restored: self.given.restored });
        let rules = self.given.rules.clone();
        let in_force = match self.given.before.take() {
            Some(Before { in_force, watermark, read }) => in_force.then(&rules, watermark, read),
            None => InForce::first(&rules),
        };
        self.switch(&rules, in_force);
        self.built.commands.send(Command::Handle(self.given.told.handled()));
        while self.failure.get().is_none() && !self.is_done() {
            self.go_live(worker.peers());
            self.note_filled();
            if self.live.is_some() {
                self.take_requests();
                self.load();
                self.reconcile();
                self.cut_in_time();
            }
            let wait = self.tick();
            worker.step_or_park(Some(wait));
            self.hand_out();
        }
        let Sequence { built, mut given, loads, .. } = self;
        let Built { commands, probe, exports, totals } = built;
        drop(commands);
        while !probe.done() {
            worker.step_or_park(Some(PARK));
        }
        let batches = std::mem::take(&mut exports.borrow_mut().batches);
        for batch in batches {
            let mut waiting = Some(batch);
            while let Some(batch) = waiting {
                waiting = given.outlet.offer(batch, &totals.borrow());
                if waiting.is_some() {
                    std::thread::yield_now();
                }
            }
        }
        given.outlet.closed(u64::MAX, &totals.borrow());
        for (epoch, watermark, loaded) in loads {
            let _given_up = loaded.send(Loaded { epoch: epoch + 1, watermark });
        }
    }

    /// Whether there is nothing left to give epochs for.
    fn is_done(&mut self) -> bool {
        if self.given.now.is_some() {
            return self.fill == 0
                && self.built.totals.borrow().finished
                && (self.reconciled || self.given.cuts.is_none());
        }
        let acked = self.given.outlet.acked();
        self.stopping = match self.stopping {
            Stopping::No if self.given.stop.load(Ordering::Relaxed) && self.live.is_none() => Stopping::Done,
            Stopping::No if self.given.stop.load(Ordering::Relaxed) => {
                self.send(Command::Drain);
                Stopping::Draining(Instant::now(), self.epoch)
            }
            Stopping::Draining(since, read) if acked > read || since.elapsed() > DRAIN => {
                let since = Instant::now();
                if self.given.cuts.is_some() { Stopping::Keeping(since, self.cut()) } else { Stopping::Done }
            }
            // With it stores learn of the last sessions.
            Stopping::Keeping(since, last) if self.is_durable(last) && acked >= last || since.elapsed() > DRAIN => {
                Stopping::Done
            }
            other => other,
        };
        matches!(self.stopping, Stopping::Done)
    }

    fn send(&mut self, command: Command) {
        self.built.commands.send(command);
        self.command_waits = true;
    }

    /// Once all workers have their groups back, records are read.
    fn go_live(&mut self, workers: usize) {
        if self.live.is_none() && self.built.totals.borrow().put_back == workers {
            self.send(Command::Live);
            self.live = Some(self.epoch);
            if self.given.restored.is_some() {
                tracing::info!(epoch = self.epoch, "what the checkpoint held is back on all workers; reading begins");
            }
            if let Some(cuts) = &self.given.cuts {
                cuts.live.store(self.epoch, Ordering::Relaxed);
            }
        }
    }

    /// Once everything that a killed run had read is read again, what it had told is told as it stands.
    fn reconcile(&mut self) {
        if !self.reconciled && self.given.told.is_reached(&self.built.totals.borrow()) {
            self.reconciled = true;
            if self.given.restored.is_some() {
                tracing::info!(epoch = self.epoch, "read as far again as before; what was told is told as it stands");
            }
            let suspects = std::mem::take(&mut self.given.told).into_suspects();
            self.send(Command::Reconcile(Box::new(suspects)));
            self.given.outlet.reconciled(self.epoch);
        }
    }

    fn cut_in_time(&mut self) {
        let Some(cuts) = &self.given.cuts else { return };
        let every = cuts.every;
        let under_way = self.cutting.is_some_and(|epoch| !self.is_durable(epoch));
        if !under_way && self.last_cut.elapsed() >= every && matches!(self.stopping, Stopping::No) {
            self.cut();
        }
    }

    /// Asks for a cut; gives its epoch.
    fn cut(&mut self) -> u64 {
        self.send(Command::Checkpoint);
        if let Some(cuts) = &self.given.cuts {
            cuts.given.store(self.epoch, Ordering::Relaxed);
        }
        self.last_cut = Instant::now();
        self.cutting = Some(self.epoch);
        self.epoch
    }

    fn is_durable(&self, epoch: u64) -> bool {
        self.given.cuts.as_ref().is_some_and(|cuts| cuts.durable.load(Ordering::Relaxed) >= epoch)
    }

    /// All epochs before this one are closed.
    fn closed(&self) -> u64 {
        self.built.probe.with_frontier(|f| f.first().copied().unwrap_or(u64::MAX))
    }

    fn take_requests(&mut self) {
        while let Ok(request) = self.given.requests.try_recv() {
            match request {
                Request::Peek(query, answer) => {
                    let id = self.next_question;
                    self.next_question += 1;
                    self.questions.insert(id, answer);
                    self.send(Command::Peek { id, query });
                    self.question_waits = true;
                }
                Request::Handle(id, handling) => self.send(Command::Handle(vec![(id, handling)])),
                Request::Moment(answer) => {
                    // Whoever asked may have given up.
                    let _given_up = answer.send(self.moment());
                }
                Request::Rules(set, loaded) => {
                    // Of more, those are dropped that ask: nobody waits for so many.
                    if self.to_load.len() < LOADS_WAITING {
                        self.to_load.push_back((set, loaded));
                    }
                }
            }
        }
    }

    /// Gives the next epoch if it is time; says how long to sleep at most.
    fn tick(&mut self) -> Duration {
        let since = self.last_tick.elapsed();
        let under_way = self.epoch.saturating_sub(self.closed());
        let room = under_way < OPEN_EPOCHS && self.built.exports.borrow().batches.len() < EXPORTS_WAITING;
        let wanted = self.command_waits || self.built.totals.borrow().pending || since >= IDLE;
        if !room || !wanted {
            return PARK.min(IDLE.saturating_sub(since)).max(Duration::from_millis(1));
        }
        let tick = if self.question_waits { QUESTION.min(self.given.tick) } else { self.given.tick };
        if since < tick {
            return tick - since;
        }
        self.built.totals.borrow_mut().pending = false;
        (self.command_waits, self.question_waits) = (false, false);
        self.epoch += 1;
        self.built.commands.advance_to(self.epoch);
        self.last_tick = Instant::now();
        Duration::from_millis(1)
    }

    /// Hands out what has left the dataflow.
    fn hand_out(&mut self) {
        let closed = self.closed();
        let answers = std::mem::take(&mut self.built.exports.borrow_mut().answers);
        for (id, answer) in answers {
            if let Some(question) = self.questions.remove(&id) {
                // Whoever asked may have given up.
                let _given_up = question.send(answer);
            }
        }
        loop {
            let Some(batch) = self.built.exports.borrow_mut().batches.pop_front() else { break };
            self.given.told.clear(&batch);
            if let Some(back) = self.given.outlet.offer(batch, &self.built.totals.borrow()) {
                self.built.exports.borrow_mut().batches.push_front(back);
                // Another process would have to wait, too.
                (self.given.alive)();
                return;
            }
        }
        if closed > self.told_closed && self.live.is_some_and(|live| live < closed) {
            self.told_closed = closed;
            (self.given.alive)();
            self.given.outlet.closed(closed, &self.built.totals.borrow());
            for (epoch, watermark, loaded) in std::mem::take(&mut self.loads) {
                if epoch < closed {
                    let _given_up = loaded.send(Loaded { epoch: epoch + 1, watermark });
                } else {
                    self.loads.push((epoch, watermark, loaded));
                }
            }
        }
    }
}
