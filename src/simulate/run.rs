//! Drives the generator: pace, arrival order, destination, ground truth, and the summary at the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clawdstrike_telemetry::time;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::args::SimulateArgs;
use super::arrival::Arrivals;
use super::generator::{Attack, Simulator};
use super::output::{Line, Output};
use super::scenario::Scenario;
use crate::wall_clock;

/// Longest sleep of a paced run before it looks whether it shall stop, and shortest, which sets how many events go together.
const LONGEST_NAP: Duration = Duration::from_millis(100);
const SHORTEST_NAP: Duration = Duration::from_millis(1);
/// Attacks of one scenario that the summary names.
const SHOWN_ATTACKS: usize = 10;

/// Runs a simulation to its end, or until SIGINT or SIGTERM, and prints a summary to standard error. A reader that has gone
/// away (a closed pipe) is an end like any other. Errors: flags out of range, a destination that can't be opened, written or
/// reached, events that Kafka didn't take.
pub async fn run(args: &SimulateArgs) -> anyhow::Result<()> {
    let options = args.options(wall_clock::now()).map_err(|e| anyhow!(e))?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = Arc::new(AtomicBool::new(false));
    if args.until_stdin_ends {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            // Whoever holds the other end never writes: a read ends when they do.
            while std::io::stdin().read(&mut [0u8; 1]).is_ok_and(|n| n > 0) {}
            stop.store(true, Ordering::Relaxed);
        });
    }
    // It writes, sleeps and waits for brokers: none of that belongs on the runtime's own threads.
    let mut simulation = tokio::task::spawn_blocking({
        let (args, stop) = (args.clone(), Arc::clone(&stop));
        move || Run::start(&args, Simulator::new(options))?.finish(&stop)
    });
    let ended = tokio::select! {
        ended = &mut simulation => ended,
        _ = tokio::signal::ctrl_c() => { stop.store(true, Ordering::Relaxed); simulation.await }
        _ = terminate.recv() => { stop.store(true, Ordering::Relaxed); simulation.await }
    };
    eprint!("{}", ended.context("the simulation ended early")??);
    Ok(())
}

/// A simulation under way.
struct Run {
    simulator: Simulator,
    arrivals: Arrivals,
    output: Output,
    truth: Option<BufWriter<File>>,
    paced: bool,
    limit: u64,
    end: i64,
    events: u64,
    violations: u64,
    attacks: BTreeMap<Scenario, (u64, Vec<Attack>)>,
}

impl Run {
    fn start(args: &SimulateArgs, simulator: Simulator) -> anyhow::Result<Run> {
        let output = match (&args.to, &args.kafka) {
            (Some(path), _) => Output::files(path, args.files, args.append)?,
            (None, Some(brokers)) => Output::kafka(brokers)?,
            (None, None) => {
                return Err(anyhow!("events have nowhere to go: give \"--to FILE\" or \"--kafka BROKERS\""));
            }
        };
        let truth = match &args.truth {
            Some(path) => Some(BufWriter::new(
                File::create(path)
                    .with_context(|| format!("file \"{}\" can't be opened for writing", path.display()))?,
            )),
            None => None,
        };
        Ok(Run {
            arrivals: Arrivals::new(args.seed, args.disorder.0, args.duplicates),
            output,
            truth,
            paced: args.paced(),
            limit: args.events.unwrap_or(u64::MAX),
            end: args.duration.map_or(i64::MAX, |d| simulator.next_time().saturating_add(d.0)),
            simulator,
            events: 0,
            violations: 0,
            attacks: BTreeMap::new(),
        })
    }

    /// Runs until everything is written; returns the summary.
    fn finish(mut self, stop: &AtomicBool) -> anyhow::Result<String> {
        let began = Instant::now();
        let written = self.produce(began, stop).and_then(|()| self.output.finish());
        if let Err(error) = written
            && !is_closed_pipe(&error)
        {
            return Err(error);
        }
        if let Some(truth) = &mut self.truth {
            truth.flush().context("writing the attacks stopped")?;
        }
        Ok(self.summary(began.elapsed()))
    }

    fn produce(&mut self, began: Instant, stop: &AtomicBool) -> anyhow::Result<()> {
        let start = self.simulator.next_time();
        let mut line = Vec::new();
        let mut key = String::new();
        let direct = self.arrivals.in_order();
        while self.events < self.limit && !stop.load(Ordering::Relaxed) {
            let due = self.simulator.next_time();
            if due >= self.end {
                break;
            }
            if self.paced && !self.wait(due - start, began, stop)? {
                break;
            }
            line.clear();
            let emitted = self.simulator.next(&mut line);
            self.events += 1;
            self.violations += u64::from(!emitted.allowed);
            if direct {
                key.clear();
                if self.output.wants_key() {
                    key.extend([emitted.key.0, ":", emitted.key.1]);
                }
                self.output.write(Line { line: &line, key: &key, allowed: emitted.allowed, slot: emitted.slot })?;
            } else {
                self.arrivals.take(&line, &emitted);
                self.deliver(due)?;
            }
            self.note_attacks()?;
        }
        self.deliver(i64::MAX)
    }

    /// Sleeps until `due` microseconds after the beginning; false if the run shall stop.
    fn wait(&mut self, due: i64, began: Instant, stop: &AtomicBool) -> anyhow::Result<bool> {
        let due = Duration::from_micros(u64::try_from(due).unwrap_or(0));
        loop {
            let ahead = due.saturating_sub(began.elapsed());
            if ahead.is_zero() {
                return Ok(true);
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            self.output.flush()?;
            std::thread::sleep(ahead.clamp(SHORTEST_NAP, LONGEST_NAP));
        }
    }

    /// Writes what was held back and has arrived by now.
    fn deliver(&mut self, now: i64) -> anyhow::Result<()> {
        while let Some(record) = self.arrivals.arrived(now) {
            self.output.write(Line {
                line: &record.line,
                key: &record.key,
                allowed: record.allowed,
                slot: record.slot,
            })?;
        }
        Ok(())
    }

    fn note_attacks(&mut self) -> anyhow::Result<()> {
        if self.simulator.attacks().is_empty() {
            return Ok(());
        }
        for attack in self.simulator.take_attacks() {
            if let Some(truth) = &mut self.truth {
                let row = json!({
                    "scenario": attack.scenario,
                    "rule_id": attack.scenario.rule_id(),
                    "agent_id": attack.agent_id,
                    "session_id": attack.session_id,
                    "at": time::format(attack.at),
                });
                writeln!(truth, "{row}").context("writing the attacks stopped")?;
            }
            let (count, shown) = self.attacks.entry(attack.scenario).or_default();
            *count += 1;
            if shown.len() < SHOWN_ATTACKS {
                shown.push(attack);
            }
        }
        Ok(())
    }

    fn summary(&self, elapsed: Duration) -> String {
        let mut out = String::new();
        let seconds = elapsed.as_secs_f64();
        // Writing to a `String` can't fail.
        let _ = writeln!(
            out,
            "{} events ({} violations), {} copies in {seconds:.1} s: {:.0} events/s",
            self.events,
            self.violations,
            self.arrivals.copies(),
            self.events as f64 / seconds.max(1e-6),
        );
        for (scenario, (count, shown)) in &self.attacks {
            let _ = writeln!(out, "{}: {count} (rule {})", scenario.name(), scenario.rule_id());
            for attack in shown {
                let _ = writeln!(out, "  {} {} at {}", attack.agent_id, attack.session_id, time::format(attack.at));
            }
            if *count > shown.len() as u64 {
                let _ = writeln!(out, "  and {} more", count - shown.len() as u64);
            }
        }
        out
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
