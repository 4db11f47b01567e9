//! Restarts (SPEC §8, Recovery): whatever the moment at which the cluster is killed, and with however many workers it goes on
//! from its checkpoint, it ends with what the naive evaluator says.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use clawdstrike_edr::checkpoint::Storage;
use clawdstrike_edr::inbox::{Inbox, Inboxes, PartitionId};
use clawdstrike_edr::render::detect::Totals;
use clawdstrike_edr::render::export::Exported;
use clawdstrike_edr::render::settings::{Settings, SourceInfo};
use clawdstrike_edr::runtime::dead_letters;
use clawdstrike_edr::runtime::driver::{Crew, Cuts, Outlet, Sequencer, Shared};
use clawdstrike_edr::runtime::recovery::{Beginning, Coordinate};
use clawdstrike_edr::runtime::replay::{Collected, outcome};
use clawdstrike_edr::source::StartAt;
use crossbeam_channel::bounded;
use object_store::memory::InMemory;

use super::*;

/// What the store has had, and when the cluster is killed.
struct Killed {
    store: Arc<Mutex<Collected>>,
    acked: Arc<AtomicU64>,
    /// Epochs that are still to close.
    left: u64,
    failure: Arc<OnceLock<String>>,
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

/// Runs the cluster until its input ends or so many epochs have closed; says whether it came to the end.
fn life(
    rules: &RuleSet,
    case: &Case,
    way: Way,
    storage: &Storage,
    store: &Arc<Mutex<Collected>>,
    epochs: u64,
    first_epoch: u64,
) -> Result<bool, String> {
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
    let cuts = Cuts::new(Duration::ZERO);
    let acked = Arc::new(AtomicU64::new(0));
    let outlet = Killed { store: store.clone(), acked: acked.clone(), left: epochs, failure: failure.clone() };
    let (journal, told) = beginning.journal(&names)?;
    let outlet = Box::new(journal.before(Box::new(outlet), cuts.clone())?);
    let sequencer = Sequencer {
        restored: beginning.restored(),
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
        let config = timely::Config::process(way.workers);
        let guards = timely::execute(config, move |worker| crew.run(worker))?;
        drop(inboxes);
        guards.join().into_iter().try_for_each(|worker| worker?)
    });
    drop(writer.to);
    writer.thread.join().map_err(|_| "the writer panicked")?;
    coordinator.stop();
    dead_thread.join().map_err(|_| "the dead-letter writer panicked")?;
    match ended {
        Ok(()) => Ok(true),
        Err(reason) if reason == "killed" => Ok(false),
        Err(reason) => Err(reason),
    }
}

fn check_restarts(level: Level, seed: u64, sizes: Sizes, way: Way) -> Result<(), TestCaseError> {
    let case = case(seed, level, &sizes);
    let rules = compiled(&case.rules);
    let mut rng = StdRng::seed_from_u64(way.seed);
    let storage = Storage::object_store(Arc::new(InMemory::new()), "memory").expect("a storage");
    let store = Arc::new(Mutex::new(Collected::default()));
    let mut lives = Vec::new();
    let mut first_epoch = 1;
    let mut ended = false;
    while !ended {
        let workers = rng.random_range(1..=3);
        // At last it lives to the end.
        let epochs = if lives.len() < 3 { rng.random_range(2..40) } else { u64::MAX };
        lives.push((workers, epochs));
        let way = Way { workers, seed: rng.random(), ..way };
        let run = life(&rules, &case, way, &storage, &store, epochs, first_epoch);
        ended = run.map_err(|reason| TestCaseError::fail(format!("{level:?}, seed {seed}: {reason}")))?;
        // As the wall clock does, epochs go on.
        first_epoch += 1 << 32;
    }
    let judge = naive::evaluate(&rules, &case.files, &case.options);
    let engine = outcome(std::mem::take(&mut *store.lock().expect("no panic")));
    let found = outcomes_differ(&judge, &engine);
    prop_assert!(found.is_empty(), "{level:?}, seed {seed}, {sizes:?}, {way:?}, {lives:?}\n{found}\n{}", case.rules);
    Ok(())
}

#[test]
fn whenever_it_is_killed_it_ends_as_the_judge_says() {
    // A case is four runs.
    hold_as_asked(4, |seed, sizes, way| check_restarts(Level::Full, seed, sizes, way));
}
