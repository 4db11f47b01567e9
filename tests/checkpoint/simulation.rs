//! The checkpoint's protocol under a schedule of everything that may happen: several runs of one or two processes, each
//! stopped before every request to the storage, requests that fail, whose answers are lost, that are done late or half,
//! processes that are killed, segments that rot.
//!
//! What holds: a run begins with one whole cut that a run before it had made, none older than any that anybody was told is
//! durable; and nobody is told that of a cut that a run which has begun meanwhile doesn't know.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clawdstrike_edr::checkpoint::{self, Begun, Given, Maker, Manifest, Parts, Storage};
use clawdstrike_edr::frame::{self, Frame, Kind};
use clawdstrike_edr::inbox::PartitionId;
use clawdstrike_edr::spool::{Cut, Piece, Progress, Spooled};
use crossbeam_channel::bounded;
use object_store::memory::InMemory;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutPayload};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::FRAMES;
use crate::store::{Fate, Faulty, What};
use crate::turns::{Asked, Place, Turn, Turns};

/// Cuts that a run makes before it stops in good order.
const CUTS: u32 = 4;
/// Runs of a schedule, at most.
const RUNS: usize = 6;
/// Steps of a schedule, at most.
const STEPS: usize = 600;
/// So many segments are merged.
const MOST_SEGMENTS: usize = 5;
/// Requests within which the last run, which nothing disturbs, has made its cuts.
const LAST: usize = 2_000;

/// A cut: the number at which its run began, and its epoch.
type Id = (u64, u64);

/// What a cut holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Content {
    hits: BTreeSet<u128>,
    groups: BTreeMap<u128, u64>,
    positions: BTreeMap<u32, u64>,
}

/// What is true, whatever the storage says.
#[derive(Default)]
struct Truth {
    /// Each cut, with the one that it follows.
    cuts: HashMap<Id, (Option<Id>, Content)>,
    /// Runs, with what they began with.
    begun: Vec<(u64, Option<Id>)>,
    /// What somebody was told is durable.
    told: Vec<Manifest>,
    /// Segments that have rotted.
    rotten: BTreeSet<String>,
    /// Never goes back.
    clock: u64,
}

fn id(manifest: &Manifest) -> Id {
    (manifest.generation, manifest.epoch)
}

impl Truth {
    fn is_rotten(&self, manifest: &Manifest) -> bool {
        manifest.names().any(|name| self.rotten.contains(name))
    }

    /// Whether all that is in one cut is in another.
    fn holds(&self, cut: Option<Id>, within: Option<Id>) -> bool {
        let mut at = within;
        while at != cut && at.is_some() {
            at = at.and_then(|id| self.cuts[&id].0);
        }
        at == cut
    }
}

/// What the processes of a run know of it.
#[derive(Default)]
struct Run {
    /// The number of the manifest that process 0 began with, once the others may join.
    joined: Option<u64>,
    /// Epochs of cuts.
    cuts: Vec<u64>,
    /// There will be no more.
    over: bool,
}

struct World {
    memory: Arc<InMemory>,
    /// As it is.
    storage: Storage,
    truth: Mutex<Truth>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a cut's frames and positions say.
fn content(storage: &Storage, manifest: &Manifest) -> Result<Content, String> {
    let (to, from) = bounded(1_024);
    checkpoint::feed(storage, manifest, 0, 1, &[to])?;
    let pieces: Vec<Vec<u8>> = from.into_iter().collect();
    let mut found = Content::default();
    let mut latest: BTreeMap<u128, (u64, u64)> = BTreeMap::new();
    for frame in pieces.iter().flat_map(|piece| frame::read(piece)).map(|frame| frame.unwrap()) {
        if frame.kind == Kind::Hit {
            assert!(found.hits.insert(frame.key), "an event is there twice: {}", frame.key);
        } else {
            let value = u64::from_le_bytes(frame.body.try_into().unwrap());
            let known = latest.entry(frame.key).or_default();
            *known = (frame.epoch, value).max(*known);
        }
    }
    found.groups = latest.into_iter().map(|(key, (_, value))| (key, value)).collect();
    found.positions = manifest.positions.iter().map(|p| (p.partition, p.progress.next)).collect();
    Ok(found)
}

/// What a process puts aside for a cut: an event and two groups, of which each cut has the one again.
fn put_aside(world: &World, process: usize, epoch: u64, to: &mut Content) -> [Spooled; 2] {
    let (mut events, mut groups) = (Vec::new(), Vec::new());
    let (hit, often, once) = (u128::from(epoch) << 8 | process as u128, process as u128, u128::from(epoch) << 16);
    let value = epoch.to_le_bytes();
    Frame { kind: Kind::Hit, key: hit, epoch, until: i64::MAX, body: b"hit" }.write(&mut events);
    for key in [often, once | process as u128] {
        Frame { kind: Kind::Group, key, epoch, until: i64::MAX, body: &value }.write(&mut groups);
        to.groups.insert(key, epoch);
    }
    assert!(to.hits.insert(hit), "an epoch was given twice: {epoch} of {:?}", lock(&world.truth).begun);
    to.positions.insert(process as u32, epoch * 10);
    let piece = |class, until, frames| Spooled::Piece(0, Piece { class, until, frames });
    [piece(0, None, groups), piece(1 + (epoch % 2) as u8, Some(i64::MAX), events)]
}

fn cut(process: usize, epoch: u64) -> Spooled {
    let progress = Progress { next: epoch * 10, largest: None, latest: None, append: true, largest_timestamp: None };
    let partitions = vec![(PartitionId { source: 0, partition: process as u32 }, progress)];
    Spooled::Cut(0, Cut { epoch, watermark: Some(100), over: Some(100), partitions, in_force: None })
}

/// The run has begun.
fn check_beginning(world: &World, begun: &Begun) {
    let mut truth = lock(&world.truth);
    let with = begun.found.latest.as_ref().map(id);
    for told in truth.told.iter().filter(|told| !truth.is_rotten(told)) {
        assert!(truth.holds(Some(id(told)), with), "{with:?} is begun with, and {:?} was durable", id(told));
    }
    truth.begun.push((begun.generation, with));
    for manifest in [&begun.found.latest, &begun.found.before].into_iter().flatten() {
        if !truth.is_rotten(manifest) {
            let known = truth.cuts.get(&id(manifest)).map(|(_, content)| content.clone());
            assert_eq!(content(&world.storage, manifest).ok(), known, "{:?}", id(manifest));
        }
    }
}

/// Somebody is told that a cut is durable.
fn check_told(world: &World, manifest: &Manifest) {
    let mut truth = lock(&world.truth);
    let known = truth.cuts.get(&id(manifest)).map(|(_, content)| content.clone());
    assert_eq!(content(&world.storage, manifest).ok(), known, "{:?}", id(manifest));
    for (generation, with) in truth.begun.iter().filter(|(generation, _)| *generation > manifest.generation) {
        let is_known = truth.holds(Some(id(manifest)), *with);
        assert!(is_known, "{:?} is told to be durable, and run {generation} began with {with:?}", id(manifest));
    }
    truth.told.push(manifest.clone());
}

/// Process 0 of a run.
fn lead(place: &Place, world: &Arc<World>, storage: &Storage, processes: usize, run: &Mutex<Run>, name: u64) {
    let begun = match checkpoint::begin(storage, FRAMES) {
        Ok(begun) => begun,
        Err(reason) => {
            let truth = lock(&world.truth);
            let is_lost = reason.contains("none of the") && truth.told.iter().any(|told| !truth.is_rotten(told));
            assert!(!is_lost, "{reason}");
            return;
        }
    };
    check_beginning(world, &begun);
    let (generation, floor) = (begun.generation, begun.epoch);
    let with = begun.found.latest.clone();
    let tell = world.clone();
    let given = Given {
        storage: storage.clone(),
        begun,
        processes,
        frames: FRAMES,
        secret: "00".into(),
        sources: vec!["events".into()],
        acked: Box::new(|| 0),
        most_segments: MOST_SEGMENTS,
        done: Box::new(move |manifest| manifest.into_iter().for_each(|manifest| check_told(&tell, manifest))),
        failed: Box::new(|_| {}),
    };
    let mut maker = Maker::new(given, Arc::new(AtomicBool::new(false)));
    maker.clear_leftovers();
    let mut state = Content::default();
    if let Some(with) = &with {
        let truth = lock(&world.truth);
        let (rotten, known) = (truth.rotten.clone(), truth.cuts[&id(with)].1.clone());
        drop(truth);
        match content(storage, with) {
            Ok(found) => assert_eq!(found, known, "{:?}", id(with)),
            Err(reason) if reason.contains("damaged") => {
                assert!(rotten.iter().any(|name| reason.contains(name)), "{reason}");
                return;
            }
            // It can't be read: the run ends.
            Err(_) => return,
        }
        state = known;
    }
    lock(run).joined = Some(with.as_ref().map_or(0, |with| with.sequence));
    let mut parts = Parts::new(storage.clone(), 0, 1, name << 8);
    let mut parent = with.as_ref().map(id);
    let mut epoch = floor.max(with.map_or(0, |with| with.epoch)).max(lock(&world.truth).clock);
    for _ in 0..CUTS {
        place.pass();
        epoch += 1;
        let own = put_aside(world, 0, epoch, &mut state);
        for process in 1..processes {
            put_aside(world, process, epoch, &mut state);
        }
        lock(&world.truth).cuts.insert((generation, epoch), (parent, state.clone()));
        parent = Some((generation, epoch));
        lock(run).cuts.push(epoch);
        for piece in own {
            parts.take(piece);
        }
        parts.take(cut(0, epoch));
        if !maker.make(epoch) {
            return;
        }
    }
}

/// Any other process of a run.
fn follow(place: &Place, world: &World, storage: &Storage, process: usize, run: &Mutex<Run>, name: u64) {
    let Ok(found) = checkpoint::find(storage, FRAMES) else { return };
    while lock(run).joined.is_none() && !lock(run).over {
        place.pass();
    }
    // Its workers refuse to begin with another cut.
    if lock(run).joined != Some(found.latest.map_or(0, |latest| latest.sequence)) {
        return;
    }
    let mut parts = Parts::new(storage.clone(), process, 1, name << 8 | process as u64);
    for n in 0.. {
        let next = || lock(run).cuts.get(n).copied();
        while next().is_none() && !lock(run).over {
            place.pass();
        }
        let Some(epoch) = next() else { return };
        for piece in put_aside(world, process, epoch, &mut Content::default()) {
            parts.take(piece);
        }
        parts.take(cut(process, epoch));
    }
}

/// A segment of the latest cut rots, if the one before it doesn't need it.
fn rot(world: &World, which: usize) {
    let Ok(found) = checkpoint::find(&world.storage, FRAMES) else { return };
    let (Some(latest), Some(before)) = (&found.latest, &found.before) else { return };
    let mut truth = lock(&world.truth);
    let kept: BTreeSet<&str> = before.names().collect();
    let own: Vec<&str> = latest.names().filter(|name| !kept.contains(name)).collect();
    if own.is_empty() || truth.is_rotten(latest) || truth.is_rotten(before) {
        return;
    }
    let name = own[which % own.len()];
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let path = name.into();
        let mut bytes = world.memory.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
        bytes[0] ^= 1;
        world.memory.put_opts(&path, PutPayload::from(bytes), Default::default()).await.unwrap();
    });
    truth.rotten.insert(name.to_owned());
}

/// One step of a schedule.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// This one of the threads that wait goes on, and its request meets this.
    Go(usize, Fate),
    /// Another run starts; if none is there, a segment may rot before.
    Start { processes: usize, rots: Option<usize> },
    /// This one of the threads that wait dies.
    Kill(usize),
    /// One of the requests that are late is done.
    DoLate(usize),
}

fn steps() -> impl Strategy<Value = Step> {
    let fate = prop::sample::select(vec![Fate::Refused, Fate::Unheard, Fate::Late, Fate::Torn]);
    let which = || 0usize..64;
    prop_oneof![
        180 => which().prop_map(|which| Step::Go(which, Fate::Done)),
        6 => (which(), fate).prop_map(|(which, fate)| Step::Go(which, fate)),
        3 => (1usize..=2, prop::option::of(which())).prop_map(|(processes, rots)| Step::Start { processes, rots }),
        2 => which().prop_map(Step::Kill),
        2 => which().prop_map(Step::DoLate),
    ]
}

struct Simulation {
    world: Arc<World>,
    turns: Turns,
    /// Of each thread: its run's number, and its view of the storage.
    threads: Vec<(usize, Arc<Faulty>)>,
    runs: usize,
    doomed: BTreeSet<usize>,
}

impl Simulation {
    fn new() -> Simulation {
        let memory: Arc<InMemory> = Arc::default();
        let storage = Storage::object_store(memory.clone(), "memory").unwrap();
        let world = Arc::new(World { memory, storage, truth: Mutex::default() });
        Simulation { world, turns: Turns::default(), threads: Vec::new(), runs: 0, doomed: BTreeSet::new() }
    }

    fn start(&mut self, processes: usize) {
        let run: Arc<Mutex<Run>> = Arc::default();
        self.runs += 1;
        for process in 0..processes {
            let (world, run, name) = (self.world.clone(), run.clone(), self.runs as u64);
            let (tell, told) = bounded(1);
            self.turns.start(move |place| {
                let (asks, memory) = (place.clone(), &world.memory);
                let store = Faulty::new(memory, move |what, name| asks.ask(what, name));
                tell.send(store.clone()).unwrap();
                let storage = Storage::object_store(store, "faulty").unwrap().without_pauses();
                match process {
                    0 => {
                        lead(place, &world, &storage, processes, &run, name);
                        lock(&run).over = true;
                    }
                    _ => follow(place, &world, &storage, process, &run, name),
                }
            });
            self.threads.push((self.runs, told.recv().unwrap()));
        }
    }

    /// Threads that wait, with what they ask.
    fn waiting(&self) -> Result<Vec<(usize, Option<Asked>)>, String> {
        let mut waiting = Vec::new();
        for (at, turn) in self.turns.all().into_iter().enumerate() {
            match turn {
                Turn::Waiting(asked) => waiting.push((at, asked)),
                Turn::Ended(Some(why)) => return Err(why),
                _ => {}
            }
        }
        Ok(waiting)
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        lock(&self.world.truth).clock += 1;
        let mut waiting = self.waiting()?;
        if !self.doomed.is_empty() {
            let dying = waiting.iter().filter(|(at, _)| self.doomed.contains(at));
            dying.for_each(|(at, _)| self.turns.grant(*at, None));
            waiting = self.waiting()?;
        }
        let of = |which: usize| waiting.get(which % waiting.len().max(1));
        match step {
            Step::Start { processes, rots } if self.runs < RUNS => {
                if let (true, Some(which)) = (waiting.is_empty(), rots) {
                    rot(&self.world, which);
                }
                self.start(processes);
            }
            Step::Start { .. } => {}
            Step::DoLate(which) => self.threads[which % self.threads.len()].1.do_late(which),
            Step::Kill(which) => of(which).iter().for_each(|(at, _)| self.turns.grant(*at, None)),
            Step::Go(which, fate) => {
                let Some((at, asked)) = of(which) else { return Ok(()) };
                let fate = if self.may_be(fate, asked.as_ref()) { fate } else { Fate::Done };
                if fate == Fate::Torn {
                    // The machine has lost its power.
                    let run = self.threads[*at].0;
                    self.doomed.extend((0..self.threads.len()).filter(|other| self.threads[*other].0 == run));
                }
                self.turns.grant(*at, Some(fate));
            }
        }
        Ok(())
    }

    fn may_be(&self, fate: Fate, asked: Option<&(What, String)>) -> bool {
        let Some((what, name)) = asked else { return fate == Fate::Done };
        let is_put = matches!(what, What::Put | What::Create);
        match fate {
            Fate::Done | Fate::Refused | Fate::Unheard => true,
            Fate::Late => is_put || *what == What::Delete,
            // Of a first cut that is torn nobody can tell that it was never durable.
            Fate::Torn if name.starts_with("manifests") => {
                let truth = lock(&self.world.truth);
                truth.told.iter().any(|told| !truth.is_rotten(told))
            }
            Fate::Torn => is_put,
        }
    }

    /// Everything ends, and one more run, which nothing disturbs, goes on.
    fn finish(&mut self) -> Result<(), String> {
        for (at, _) in self.waiting()? {
            self.turns.grant(at, None);
        }
        let told_before = lock(&self.world.truth).told.len();
        self.waiting()?;
        let begun = lock(&self.world.truth).begun.len();
        let mut attempts = 0;
        for step in 0..LAST {
            let waiting = self.waiting()?;
            match waiting.first() {
                Some((at, _)) => self.turns.grant(*at, Some(Fate::Done)),
                // Of a rotten segment the first only learns.
                None if attempts < 2 && lock(&self.world.truth).told.len() < told_before + CUTS as usize => {
                    attempts += 1;
                    lock(&self.world.truth).clock += step as u64;
                    self.start(1);
                }
                None => break,
            }
        }
        let truth = lock(&self.world.truth);
        let is_lost = truth.told[told_before..].is_empty();
        // Without any cut that was told to be durable, a run may refuse to begin.
        if is_lost && (truth.begun.len() > begun || !truth.told.is_empty()) {
            return Err(format!(
                "no further run makes a cut, after {:?}",
                truth.told.iter().map(id).collect::<Vec<_>>()
            ));
        }
        Ok(())
    }
}

/// What came of a schedule.
fn simulate(schedule: &[Step]) -> Result<Simulation, String> {
    let mut simulation = Simulation::new();
    simulation.start(1);
    schedule.iter().try_for_each(|step| simulation.step(*step))?;
    simulation.finish()?;
    Ok(simulation)
}

#[test]
fn whatever_happens_a_run_begins_with_the_latest_cut_that_was_durable() {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let (mut took_over, mut merged, mut passed_over) = (0, 0, 0);
    let seen = Mutex::new((&mut took_over, &mut merged, &mut passed_over));
    let judged = runner.run(&prop::collection::vec(steps(), 0..STEPS), |schedule| {
        let simulation = simulate(&schedule).map_err(TestCaseError::fail)?;
        let (truth, mut seen) = (lock(&simulation.world.truth), lock(&seen));
        *seen.0 += truth.begun.iter().filter(|(_, with)| with.is_some()).count();
        *seen.1 += truth.told.windows(2).filter(|told| id(&told[0]) == id(&told[1])).count();
        *seen.2 += truth.told.iter().filter(|told| truth.is_rotten(told)).count();
        Ok(())
    });
    if let Err(failure) = judged {
        panic!("{failure}");
    }
    // It isn't about nothing.
    let cases = runner.config().cases as usize;
    assert!(took_over > cases && merged > cases / 4 && passed_over > cases / 32, "{took_over} {merged} {passed_over}");
}
