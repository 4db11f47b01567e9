//! What happens when, from a seed: a step writes some more of the log, waits, and then something fails.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::services::{Setup, SourceKind, StoreKind};

/// Processes, and workers in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Processes.
    pub processes: usize,
    /// Timely workers in each.
    pub threads: usize,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.processes, self.threads)
    }
}

/// Kinds of [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// [`Fault::KillProcess`]
    KillProcess,
    /// [`Fault::StopProcess`]
    StopProcess,
    /// [`Fault::PauseProcess`]
    PauseProcess,
    /// [`Fault::KillAll`]
    KillAll,
    /// [`Fault::Restart`]
    Restart,
    /// [`Fault::KillBroker`]
    KillBroker,
    /// [`Fault::KillDatabase`]
    KillDatabase,
    /// [`Fault::Reload`]
    Reload,
}

impl Kind {
    /// What a cluster of this setup can suffer; what comes more often is named more often.
    pub fn all(setup: Setup) -> Vec<Kind> {
        let mut kinds = vec![Kind::KillProcess; 3];
        kinds.extend([Kind::StopProcess, Kind::PauseProcess, Kind::KillAll, Kind::Restart, Kind::Reload]);
        if setup.source == SourceKind::Kafka {
            kinds.push(Kind::KillBroker);
        }
        if setup.store == StoreKind::Postgres {
            kinds.extend([Kind::KillDatabase; 2]);
        }
        kinds
    }
}

/// What happens to a running cluster. A victim is counted round the processes that run then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to one of its processes.
    KillProcess(usize),
    /// SIGSTOP to one of its processes, for good.
    StopProcess(usize),
    /// SIGSTOP to one of its processes, and SIGCONT after so long.
    PauseProcess(usize, Duration),
    /// SIGKILL to `up`, then a start in this shape.
    KillAll(Shape),
    /// SIGTERM, then a start in this shape.
    Restart(Shape),
    /// SIGKILL to the broker, which is back after so long.
    KillBroker(Duration),
    /// SIGKILL to the database, which is back after so long; meanwhile the schedule goes on.
    KillDatabase(Duration),
    /// The rules folder changes: a file is written anew, and there is a new rule, with records for it.
    Reload,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::KillProcess(victim) => write!(f, "SIGKILL to process {victim}"),
            Fault::StopProcess(victim) => write!(f, "SIGSTOP to process {victim}"),
            Fault::PauseProcess(victim, pause) => write!(f, "SIGSTOP to process {victim}, SIGCONT after {pause:?}"),
            Fault::KillAll(shape) => write!(f, "SIGKILL to all, then {shape}"),
            Fault::Restart(shape) => write!(f, "SIGTERM, then {shape}"),
            Fault::KillBroker(pause) => write!(f, "SIGKILL to the broker, back after {pause:?}"),
            Fault::KillDatabase(pause) => write!(f, "SIGKILL to the database, back after {pause:?}"),
            Fault::Reload => write!(f, "reload"),
        }
    }
}

/// When a step's fault comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// After so long, in which its records are written little by little.
    After(Duration),
    /// Once the offsets of its records are committed: they are in a checkpoint, and stored.
    Committed,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// When.
    pub moment: Moment,
    /// What.
    pub fault: Fault,
}

/// A whole run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// What rules and records follow from.
    pub seed: u64,
    /// Partitions of the log.
    pub partitions: usize,
    /// The first shape.
    pub shape: Shape,
    /// In this order.
    pub steps: Vec<Step>,
}

impl Schedule {
    /// A random one with so many faults of these kinds, each as likely as another.
    pub fn random(seed: u64, source: SourceKind, faults: usize, kinds: &[Kind]) -> Schedule {
        let mut rng = StdRng::seed_from_u64(seed);
        // Files: one. Of several, one that nobody writes to just now holds nothing back, so what comes there next may be too late.
        let partitions = if source == SourceKind::Kafka { *[1, 3].choose(&mut rng).unwrap_or(&1) } else { 1 };
        let shape = shape(&mut rng);
        let steps = (0..faults).map(|_| step(&mut rng, kinds)).collect();
        Schedule { seed, partitions, shape, steps }
    }

    /// 1 process with 1 thread, then 3 with 2, then 2 with 1; the first change in good order, the second by force, and both
    /// when everything before is durable.
    pub fn rescale(seed: u64) -> Schedule {
        let shape = |processes, threads| Shape { processes, threads };
        let step = |fault| Step { moment: Moment::Committed, fault };
        let steps = vec![step(Fault::Restart(shape(3, 2))), step(Fault::KillAll(shape(2, 1)))];
        Schedule { seed, partitions: 3, shape: shape(1, 1), steps }
    }
}

fn shape(rng: &mut StdRng) -> Shape {
    Shape { processes: rng.random_range(1..=3), threads: rng.random_range(1..=2) }
}

fn step(rng: &mut StdRng, kinds: &[Kind]) -> Step {
    let mut pause = |from: u64, to: u64| Duration::from_millis(rng.random_range(from..to));
    let moment = Moment::After(pause(50, 2_500));
    // `up` takes a process for hung after 4 s: some are noticed, some are not.
    let stopped = pause(100, 6_000);
    let away = pause(500, 8_000);
    let victim = rng.random_range(0..6);
    let shape = shape(rng);
    let fault = match kinds.choose(rng).unwrap_or(&Kind::KillProcess) {
        Kind::KillProcess => Fault::KillProcess(victim),
        Kind::StopProcess => Fault::StopProcess(victim),
        Kind::PauseProcess => Fault::PauseProcess(victim, stopped),
        Kind::KillAll => Fault::KillAll(shape),
        Kind::Restart => Fault::Restart(shape),
        Kind::KillBroker => Fault::KillBroker(away),
        Kind::KillDatabase => Fault::KillDatabase(away),
        Kind::Reload => Fault::Reload,
    };
    Step { moment, fault }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}, {} partitions, {}", self.seed, self.partitions, self.shape)?;
        for Step { moment, fault } in &self.steps {
            match moment {
                Moment::After(pause) => write!(f, "\n  after {pause:?}: {fault}")?,
                Moment::Committed => write!(f, "\n  once all is committed: {fault}")?,
            }
        }
        Ok(())
    }
}
