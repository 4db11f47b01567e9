//! Nothing waits for a database (SPEC §8): a PostgreSQL that is away for long while events and attacks go on. Measured are the
//! delay of alerts before, meanwhile and afterwards, and memory; afterwards every row must be there.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clawdstrike_test_services::Service as _;

use crate::figures::{self, table};
use crate::run::keep;
use crate::services::{Services, Setup, SourceKind, StoreKind};
use crate::trial::{Finished, Scale, Trial};

/// An attack and a look at the health each time.
const BEAT: Duration = Duration::from_secs(1);
/// Beats between two looks at memory.
const MEMORY_EVERY: u64 = 10;
/// An archive that has all but what was written in so many seconds is no longer behind.
const BEHIND: usize = 2;
/// How long the health may take to say how it is.
const NOTICED: Duration = Duration::from_secs(60);

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub struct StoreOutage {
    /// Where events come from.
    pub source: SourceKind,
    /// What the cluster is like, and what is written.
    pub scale: Scale,
    /// How long the database is there before, and afterwards while the load goes on.
    pub around: Duration,
    /// How long it is away.
    pub away: Duration,
}

/// A time of the run, and what the health said meanwhile.
struct Phase {
    of: figures::Phase,
    /// When the health said first that the store is degraded, and when it said first that it isn't any more.
    degraded: Option<Duration>,
    well: Option<Duration>,
    /// When the archive had all but the last seconds' events.
    archived: Option<Duration>,
    /// Looks that got no answer.
    unanswered: usize,
}

/// Runs it against the program `binary`, and prints what it shows.
///
/// # Errors
/// What isn't as it must be, or what stood in the way.
pub fn store_outage(binary: &Path, outage: &StoreOutage) -> anyhow::Result<()> {
    let services = Services::start(Setup { source: outage.source, store: StoreKind::Postgres })?;
    let folder = tempfile::tempdir()?;
    go(binary, folder.path(), &services, outage).map_err(|error| keep(folder, error))
}

fn go(binary: &Path, folder: &Path, services: &Services, outage: &StoreOutage) -> anyhow::Result<()> {
    let rate = outage.scale.rate;
    let postgres = services.postgres.clone().context("there is no database")?;
    let mut trial = Trial::start(binary, folder, services, outage.scale)?;
    println!("events, resident memory in MiB of `up` and of each process, and what the state folder takes:");
    let before = phase("before", &mut trial, rate, outage.around)?;
    postgres.stop().map_err(anyhow::Error::msg)?;
    let away = phase("away", &mut trial, rate, outage.away)?;
    postgres.restart().map_err(anyhow::Error::msg)?;
    let after = phase("after", &mut trial, rate, outage.around)?;
    let phases = [before, away, after];
    let mut finished = trial.finish()?;
    finished.wrong.extend(unnoticed(&phases));
    print(&phases, &finished);
    let caught_up = match phases[2].archived {
        Some(at) => format!("had caught up {:.0} s after the store was back", at.as_secs_f64()),
        None => {
            let at = finished.archived_at.saturating_duration_since(phases[2].of.began);
            format!("had everything {:.0} s after the store was back, without load at the end", at.as_secs_f64())
        }
    };
    println!("in the store: {}; the archive {caught_up}", finished.counts);
    if !finished.wrong.is_empty() {
        bail!("{}", finished.wrong.join("\n"));
    }
    Ok(())
}

/// So long, an attack a second.
fn phase(name: &'static str, trial: &mut Trial, rate: u32, time: Duration) -> anyhow::Result<Phase> {
    let (began, written) = (Instant::now(), trial.load.events());
    let of = figures::Phase { name, began, took: time, events: 0, memory: trial.cluster.memory() };
    let mut phase = Phase { of, degraded: None, well: None, archived: None, unanswered: 0 };
    for beat in 1.. {
        if began.elapsed() >= time {
            break;
        }
        trial.check()?;
        trial.load.attack();
        let health = trial.api.health();
        match health.as_ref().map(|h| h["degraded"]["store"].is_string()) {
            Some(true) => {
                phase.degraded.get_or_insert(began.elapsed());
                // Well again and then not: only the last word counts.
                phase.well = None;
            }
            Some(false) => drop(phase.well.get_or_insert(began.elapsed())),
            None => phase.unanswered += 1,
        }
        let count = |what: &str| health.as_ref().and_then(|h| h[what].as_u64()).unwrap_or(0) as usize;
        if count("archived") + rate as usize * BEHIND >= trial.load.events() {
            phase.archived.get_or_insert(began.elapsed());
        }
        if beat % MEMORY_EVERY == 0 {
            phase.of.memory = trial.cluster.memory();
            println!(
                "{:>6.0} s {name:<6} {:>9} written {:>9} read {:>9} archived  {:?}, state {} MiB",
                began.elapsed().as_secs_f64(),
                trial.load.events(),
                count("events"),
                count("archived"),
                phase.of.memory,
                trial.state_size()
            );
        }
        // A rate, not a wait for anything.
        std::thread::sleep((BEAT * beat as u32).saturating_sub(began.elapsed()));
    }
    (phase.of.took, phase.of.events) = (began.elapsed(), trial.load.events() - written);
    Ok(phase)
}

/// What the health should have said, and didn't.
fn unnoticed([before, away, after]: &[Phase; 3]) -> Vec<String> {
    let mut wrong = Vec::new();
    if let Some(at) = before.degraded {
        wrong.push(format!("the store was degraded {at:?} after the beginning, and nothing was wrong with it"));
    }
    if away.degraded.is_none_or(|at| at > NOTICED.min(away.of.took))
        || away.well.is_some_and(|well| Some(well) > away.degraded)
    {
        wrong.push(format!(
            "while the store was away it was degraded from {:?} on, and well {:?}",
            away.degraded, away.well
        ));
    }
    if after.well.is_none_or(|at| at > NOTICED.min(after.of.took)) {
        wrong.push(format!("with the store back it was well only after {:?}", after.well));
    }
    wrong
}

fn print(phases: &[Phase; 3], finished: &Finished) {
    let lines = table(phases.iter().map(|phase| &phase.of), &finished.attacks, &finished.receiver);
    println!("{}", lines[0]);
    for (phase, line) in phases.iter().zip(&lines[1..]) {
        match phase.unanswered {
            0 => println!("{line}"),
            n => println!("{line}  (the health didn't answer {n} times)"),
        }
    }
    let told = |at: Option<Duration>| at.map_or("never".to_owned(), |at| format!("after {:.0} s", at.as_secs_f64()));
    println!("health: degraded {} away, well {} back", told(phases[1].degraded), told(phases[2].well));
}
