//! Restarts and loads of rules (SPEC §8): whatever the moment at which the cluster is killed, and with however many workers it
//! goes on from its checkpoint, and whenever rules are loaded, it ends with what the naive evaluator says. A rule that was
//! loaded into a running cluster sees the events from its windows before the watermark of that moment on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use clawdstrike_edr::checkpoint::Storage;
use clawdstrike_edr::inbox::again::{Ask, Asks, ask_again};
use clawdstrike_edr::inbox::{Inbox, Inboxes, PartitionId, Waker};
use clawdstrike_edr::loads::InForce;
use clawdstrike_edr::render::detect::Totals;
use clawdstrike_edr::render::export::Exported;
use clawdstrike_edr::render::settings::{Settings, SourceInfo};
use clawdstrike_edr::runtime::dead_letters;
use clawdstrike_edr::runtime::driver::{Crew, Cuts, Kept, Outlet, Sequencer, Shared};
use clawdstrike_edr::runtime::handle::{Loaded, Request};
use clawdstrike_edr::runtime::recovery::{Beginning, Coordinate};
use clawdstrike_edr::runtime::replay::{Collected, outcome};
use clawdstrike_edr::source::StartAt;
use clawdstrike_rules::plan::Rule;
use crossbeam_channel::bounded;
use object_store::memory::InMemory;
use tokio::sync::{mpsc, oneshot};

use super::*;

/// What the store has had, and when the cluster is killed.
struct Killed {
    store: Arc<Mutex<Collected>>,
    acked: Arc<AtomicU64>,
    /// Epochs that are still to close.
    left: u64,
    failure: Arc<OnceLock<String>>,
    load: Option<LoadLater>,
}

/// A load of rules after so many epochs.
struct LoadLater {
    epochs: u64,
    request: Request,
    to: mpsc::Sender<Request>,
    waker: Waker,
}

impl Killed {
    fn is_dead(&self) -> bool {
        self.failure.get().is_some()
    }
}

impl Outlet for Killed {
    fn offer(&mut self, batch: Exported, _totals: &Totals) -> Option<Exported> {
        if !self.is_dead() {
            self.store.lock().expect("no panic").take(batch);
        }
        None
    }

    fn closed(&mut self, epoch: u64, totals: &Totals) {
        if self.is_dead() {
            return;
        }
        self.store.lock().expect("no panic").count(totals);
        if let Some(load) = self.load.take() {
            match load.epochs.checked_sub(1) {
                Some(epochs) => self.load = Some(LoadLater { epochs, ..load }),
                None => {
                    // The run has ended: it goes on without.
                    let _ended = load.to.try_send(load.request);
                    load.waker.wake();
                }
            }
        }
        // Sometimes the store lags.
        if !epoch.is_multiple_of(3) {
            self.acked.store(epoch.saturating_sub(1), Ordering::Relaxed);
        }
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => {
                self.failure.get_or_init(|| "killed".to_owned());
            }
        }
    }

    fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }
}

/// What is run again and again.
struct World<'a> {
    case: &'a Case,
    storage: Storage,
    store: Arc<Mutex<Collected>>,
}

/// How one run goes.
struct Life {
    way: Way,
    /// Epochs until it is killed.
    epochs: u64,
    first_epoch: u64,
    rules: RuleSet,
    /// After so many epochs these are loaded.
    load: Option<(u64, RuleSet)>,
}

/// How it ended.
struct End {
    /// It came to the end of its input.
    ended: bool,
    /// The load was carried out, as far as is known.
    loaded: bool,
    /// The rules that were in force at last, as far as is known.
    in_force: InForce,
}

/// Sends files again to whoever asks for them.
pub(super) fn feed_again(asks: Asks, files: Vec<Vec<u8>>, way: Way) {
    let files = Arc::new(files);
    let mut threads = Vec::new();
    for ask in asks {
        if let Ask::Begin(_, local) = ask {
            let (files, inboxes) = (files.clone(), Inboxes { first: 0, peers: way.workers, local });
            threads.push(std::thread::spawn(move || feed(&files, way, &|_| 0, &inboxes)));
        }
    }
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

/// Runs the cluster until its input ends or so many epochs have closed.
fn life(World { case, storage, store }: &World<'_>, life: Life) -> Result<End, String> {
    let Life { way, epochs, first_epoch, rules, load } = life;
    let (local, receivers): (Vec<Inbox>, Vec<_>) = (0..way.workers).map(|_| Inbox::new()).unzip();
    let inboxes = Inboxes { first: 0, peers: way.workers, local };
    let sources = vec![SourceInfo { name: "file".into(), by_reference: false }];
    let settings = Settings { epoch_records: way.epoch_records, ..Settings::new(&limits(&case.options), sources) };
    let (dead, dead_thread) = dead_letters::start(None)?;
    let failure = Arc::new(OnceLock::new());
    let fail = || {
        let failure = failure.clone();
        move |reason: String| {
            failure.get_or_init(|| reason);
        }
    };
    let names = ["file".to_owned()];
    let beginning = Beginning::load(storage.clone(), 0)?;
    let StartAt::Positions(start) = beginning.start_at(&names) else { return Err("no positions".into()) };
    let (written, cuts_written) = bounded(16);
    let writer = beginning.writer(0, way.workers, Some(written))?;
    let kept = beginning.keep(&names, (0, way.workers, way.workers), &writer, fail())?;
    let (again, asks) = ask_again(&inboxes.local);
    let kept = Kept { again, ..kept };
    let (to, requests) = mpsc::channel(1);
    let waker = Waker::default();
    let (tell, told_loaded) = oneshot::channel::<Loaded>();
    let set = load.as_ref().map(|(_, set)| Arc::new(set.clone()));
    let load = load.zip(set.clone()).map(|((epochs, _), set)| LoadLater {
        epochs,
        request: Request::Rules(set, tell),
        to,
        waker: waker.clone(),
    });
    let mut in_force = match beginning.before() {
        Some(before) => before.in_force.then(&rules, before.watermark, Vec::new()),
        None => InForce::first(&rules),
    };
    let cuts = Cuts::new(Duration::ZERO);
    let acked = Arc::new(AtomicU64::new(0));
    let outlet = Killed { store: store.clone(), acked: acked.clone(), left: epochs, failure: failure.clone(), load };
    let (journal, told) = beginning.journal(&names)?;
    let outlet = Box::new(journal.before(Box::new(outlet), cuts.clone())?);
    let sequencer = Sequencer {
        restored: beginning.restored(),
        before: beginning.before(),
        keep_loads: Some(beginning.keep_loads(waker.clone())?),
        requests,
        waker,
        told,
        cuts: Some(cuts.clone()),
        first_epoch: first_epoch.max(beginning.latest_epoch() + 1),
        ..Sequencer::offline(rules.clone(), beginning.secret()?, case.options.now, outlet)
    };
    let cluster = Coordinate { processes: 1, sources: &names, secret: &sequencer.secret, cuts };
    let coordinator = beginning.coordinate(&cluster, cuts_written, acked, |_| {}, fail())?;
    let shared = Shared { dead, sources: 1, settings, failure: failure.clone() };
    let crew = Crew::new(&inboxes, receivers, shared, kept, Some(sequencer));
    let ended = std::thread::scope(|scope| -> Result<(), String> {
        let from = |partition| start.get(&PartitionId { source: 0, partition }).copied().unwrap_or(0);
        let to = inboxes.clone();
        scope.spawn(move || feed(&case.files, way, &from, &to));
        scope.spawn(move || feed_again(asks, case.files.clone(), way));
        let config = timely::Config::process(way.workers);
        let guards = timely::execute(config, move |worker| crew.run(worker))?;
        drop(inboxes);
        guards.join().into_iter().try_for_each(|worker| worker?)
    });
    drop(writer.to);
    writer.thread.join().map_err(|_| "the writer panicked")?;
    coordinator.stop();
    dead_thread.join().map_err(|_| "the dead-letter writer panicked")?;
    let loaded = told_loaded.blocking_recv();
    if let (Some(set), Ok(loaded)) = (&set, &loaded) {
        in_force = in_force.then(set, loaded.watermark, Vec::new());
    }
    let loaded = loaded.is_ok();
    match ended {
        Ok(()) => Ok(End { ended: true, loaded, in_force }),
        Err(reason) if reason == "killed" => Ok(End { ended: false, loaded, in_force }),
        Err(reason) => Err(reason),
    }
}

/// A rule sees no event before this time.
fn horizon(rule: &Rule, in_force: &InForce) -> i64 {
    let known = in_force.rules.iter().find(|loaded| loaded.rule == rule.id && loaded.version == rule.version);
    let load = in_force.loads.iter().find(|load| known.is_some_and(|loaded| loaded.load == load.number));
    let longest = rule.conditions.iter().map(|condition| condition.window()).max().unwrap_or(0);
    let back = if rule.conditions.len() > 1 { 2 * longest } else { longest };
    load.and_then(|load| load.watermark).map_or(i64::MIN, |watermark| watermark - back)
}

/// `kills` lives that are killed, then one to the end; `loads`: in each of them other rules may be loaded.
fn check_lives(
    level: Level,
    seed: u64,
    sizes: Sizes,
    way: Way,
    kills: usize,
    loads: bool,
) -> Result<(), TestCaseError> {
    let case = case(seed, level, &sizes);
    let all = compiled(&case.rules);
    let mut rng = StdRng::seed_from_u64(way.seed);
    let storage = Storage::object_store(Arc::new(InMemory::new()), "memory").expect("a storage");
    let world = World { case: &case, storage, store: Arc::new(Mutex::new(Collected::default())) };
    let mut lives = Vec::new();
    let some = |rng: &mut StdRng| {
        let rules = all.rules.iter().filter(|_| rng.random_bool(0.5)).cloned().collect();
        RuleSet { rules, ..all.clone() }
    };
    let mut rules = if loads { some(&mut rng) } else { all.clone() };
    // Rules that may have gone: what they had found then stays. It isn't known what that was.
    let mut gone: Vec<String> = Vec::new();
    let end = loop {
        let last = lives.len() == kills;
        let workers = rng.random_range(1..=3);
        let epochs = if last { u64::MAX } else { rng.random_range(2..40) };
        let load = (loads && rng.random_bool(0.8)).then(|| (rng.random_range(1..20), some(&mut rng)));
        lives.push((workers, epochs, load.as_ref().map(|(at, set)| (*at, set.rules.len()))));
        let way = Way { workers, seed: rng.random(), ..way };
        // As the wall clock does, epochs go on.
        let first_epoch = 1 + ((lives.len() as u64) << 32);
        let next = load.as_ref().map(|(_, set)| set.clone());
        let run = life(&world, Life { way, epochs, first_epoch, rules: rules.clone(), load });
        let end = run.map_err(|reason| TestCaseError::fail(format!("{level:?}, seed {seed}: {reason}")))?;
        if let Some(next) = next {
            let lacks = |set: &RuleSet, id: &str| set.rules.iter().all(|rule| rule.id != id);
            gone.extend(rules.rules.iter().map(|rule| rule.id.clone()).filter(|id| lacks(&next, id)));
            if end.loaded {
                rules = next;
            } else {
                gone.extend(next.rules.iter().map(|rule| rule.id.clone()).filter(|id| lacks(&rules, id)));
            }
        }
        if end.ended {
            break end;
        }
    };
    let mut judge = naive::evaluate_from(&rules, &case.files, &case.options, |rule| horizon(rule, &end.in_force));
    let mut engine = outcome(std::mem::take(&mut *world.store.lock().expect("no panic")));
    engine.alerts.retain(|alert| !gone.contains(&alert.rule_id));
    judge.alerts.retain(|alert| !gone.contains(&alert.rule_id));
    let found = outcomes_differ(&judge, &engine);
    prop_assert!(
        found.is_empty(),
        "{level:?}, seed {seed}, {sizes:?}, {way:?}, {lives:?}, {:?}\n{found}\n{}",
        end.in_force,
        case.rules
    );
    Ok(())
}

#[test]
fn whenever_it_is_killed_it_ends_as_the_judge_says() {
    // A case is four runs.
    hold_as_asked(4, |seed, sizes, way| check_lives(Level::Full, seed, sizes, way, 3, false));
}

#[test]
fn whenever_rules_are_loaded_they_end_as_the_judge_says() {
    // Reading again takes time, too.
    hold_as_asked(8, |seed, sizes, way| check_lives(Level::Full, seed, sizes, way, 0, true));
}

#[test]
fn whenever_rules_are_loaded_and_it_is_killed_it_ends_as_the_judge_says() {
    hold_as_asked(8, |seed, sizes, way| check_lives(Level::Full, seed, sizes, way, 3, true));
}
