//! Living rules under load (SPEC §8, Hot reload): rule sets are loaded again and again while events and attacks go on, and in the
//! middle of it a process is killed. Measured are the delay of alerts before, meanwhile and afterwards, how long a load takes,
//! and the answer to a question about a session; afterwards every row must be there. The rules that change match nothing: the rule that attacks fulfil stays as it is,
//! and must miss none.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use serde_json::{Value, json};

use crate::figures::{Delays, Phase, table};
use crate::load::{self, RULE};
use crate::run::keep;
use crate::services::{Services, Setup};
use crate::trial::{Scale, Trial};

/// An attack each time.
const BEAT: Duration = Duration::from_millis(100);
/// What a kill may disturb.
const DISTURBED: Duration = Duration::from_secs(15);
/// How long a load may take.
const LOADED: Duration = Duration::from_secs(30);
/// What SPEC promises of a load of 1,000 rules.
const BOUND: Duration = Duration::from_secs(1);

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub struct Reloads {
    /// Where events come from, and where rows go.
    pub setup: Setup,
    /// What the cluster is like, and what is written.
    pub scale: Scale,
    /// How long no rules are loaded before, and afterwards.
    pub around: Duration,
    /// How long rules are loaded.
    pub during: Duration,
    /// Loads in a minute.
    pub per_minute: u32,
    /// Rules that each load changes.
    pub rules: usize,
}

/// What became of loads.
#[derive(Default)]
struct Loads {
    took: Delays,
    /// Why others weren't taken, while the cluster started again.
    failed: Vec<String>,
}

/// Runs it against the program `binary`, and prints what it shows.
///
/// # Errors
/// A row isn't as it must be, or what stood in the way.
pub fn reloads(binary: &Path, reloads: &Reloads) -> anyhow::Result<()> {
    let services = Services::start(reloads.setup)?;
    let folder = tempfile::tempdir()?;
    go(binary, folder.path(), &services, reloads).map_err(|error| keep(folder, error))
}

fn go(binary: &Path, folder: &Path, services: &Services, reloads: &Reloads) -> anyhow::Result<()> {
    let mut trial = Trial::start(binary, folder, services, reloads.scale)?;
    let url = format!("{}/v1/rules", trial.cluster.api());
    let over = AtomicBool::new(false);
    let (mut calm, mut meanwhile) = (Delays::default(), Delays::default());
    let before = phase("before", &mut trial, reloads.around, &mut calm)?;
    let half = reloads.during / 2;
    let (phases, loads) = std::thread::scope(|scope| {
        let loader = scope.spawn(|| load(&url, reloads, &over));
        let phases = (|| {
            let first = phase("loads", &mut trial, half, &mut meanwhile)?;
            trial.cluster.kill_process(1);
            let kill = phase("a kill", &mut trial, DISTURBED, &mut Delays::default())?;
            let second = phase("loads", &mut trial, half, &mut meanwhile)?;
            Ok::<_, anyhow::Error>([before, first, kill, second])
        })();
        over.store(true, Ordering::Relaxed);
        let loads = loader.join().map_err(|_| anyhow!("the thread that loads rules panicked"))?;
        Ok::<_, anyhow::Error>((phases?, loads?))
    })?;
    let after = phase("after", &mut trial, reloads.around, &mut calm)?;
    let answers = trial.api.answers();
    let mut finished = trial.finish()?;
    let phases: Vec<Phase> = phases.into_iter().chain([after]).collect();
    table(phases.iter(), &finished.attacks, &finished.receiver).iter().for_each(|line| println!("{line}"));
    println!(
        "{} loads of {} new rules: p50 {:.0} ms, p99 {:.0} ms, most {:.0} ms; {} not taken",
        loads.took.count(),
        reloads.rules,
        loads.took.percentile(50),
        loads.took.percentile(99),
        loads.took.percentile(100),
        loads.failed.len(),
    );
    loads.failed.iter().for_each(|why| println!("  not taken: {why}"));
    for (when, asked) in [("without loads", calm), ("with loads", meanwhile)] {
        println!(
            "{} questions about a session, {when}: p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms",
            asked.count(),
            asked.percentile(50),
            asked.percentile(99),
            asked.percentile(100)
        );
    }
    if let Some((all, ranges)) = answers {
        let share = |(range, within): &(String, u64)| format!("{range} s {:.1} %", 100.0 * *within as f64 / all as f64);
        let shares: Vec<String> = ranges.iter().map(share).collect();
        println!("{all} of them, and of the archive's, inside of the engine since the kill: {}", shares.join(", "));
    }
    println!("in the store: {}", finished.counts);
    if loads.took.percentile(50) > BOUND.as_secs_f64() * 1_000.0 {
        finished.wrong.push(format!("half of the loads took longer than {BOUND:?}"));
    }
    if !finished.wrong.is_empty() {
        bail!("{}", finished.wrong.join("\n"));
    }
    Ok(())
}

/// So long, an attack and a question about a session each beat.
fn phase(name: &'static str, trial: &mut Trial, time: Duration, asked: &mut Delays) -> anyhow::Result<Phase> {
    let (began, written) = (Instant::now(), trial.load.events());
    for beat in 1.. {
        if began.elapsed() >= time {
            break;
        }
        trial.check()?;
        trial.load.attack();
        let (agent, session) = load::names(beat as usize * 7_919 % trial.sessions);
        let asking = Instant::now();
        if trial.api.get(&format!("/v1/sessions/{agent}/{session}")).is_some() {
            asked.add(asking.elapsed());
        }
        // A rate, not a wait for anything.
        std::thread::sleep((BEAT * beat).saturating_sub(began.elapsed()));
    }
    let (took, events) = (began.elapsed(), trial.load.events() - written);
    Ok(Phase { name, began, took, events, memory: trial.cluster.memory() })
}

/// Loads one set after another at its rate, until it is over.
fn load(url: &str, reloads: &Reloads, over: &AtomicBool) -> anyhow::Result<Loads> {
    let client = reqwest::Client::builder().timeout(LOADED).build()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let pause = Duration::from_secs(60) / reloads.per_minute;
    let mut loads = Loads::default();
    let began = Instant::now();
    for number in 1u32.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let body = json!({"files": [
            {"name": "rule.yaml", "text": RULE},
            {"name": "changing.yaml", "text": changing(number, reloads.rules)},
        ]});
        let asked = Instant::now();
        let answer = runtime.block_on(async {
            let answer = client.post(url).json(&body).send().await?;
            let status = answer.status();
            Ok::<_, reqwest::Error>((status, answer.text().await?))
        });
        match answer {
            Ok((status, _)) if status.is_success() => loads.took.add(asked.elapsed()),
            Ok((status, text)) => loads.failed.push(format!("{status}: {text}")),
            Err(error) => loads.failed.push(error.to_string()),
        }
        // A rate, not a wait for anything.
        std::thread::sleep((pause * number).saturating_sub(began.elapsed()));
    }
    Ok(loads)
}

/// So many rules that no load had before, and that nothing matches.
fn changing(number: u32, rules: usize) -> String {
    let rule = |n: usize| {
        let step =
            |step: &str| json!({"event_type": "file_access", "target_glob": format!("/never/{number}/{n}/{step}")});
        let condition = json!({"type": "sequence", "window": "10s", "events": [step("a"), step("b")]});
        json!({"id": format!("CHANGING_{n}"), "name": "changing", "severity": "low", "conditions": [condition]})
    };
    json!({"rules": (0..rules).map(rule).collect::<Vec<Value>>()}).to_string()
}

#[cfg(test)]
mod tests {
    use clawdstrike_rules::{SourceFile, compile};

    use super::*;

    #[test]
    fn each_load_changes_all_of_its_rules() {
        let hashes = |number| {
            let file = SourceFile { name: "changing.yaml".into(), text: changing(number, 3) };
            let set = compile(&[file]).expect("rules that compile").set;
            set.rules.iter().map(|rule| rule.version.clone()).collect::<Vec<_>>()
        };
        assert_eq!(hashes(1).len(), 3);
        assert!(hashes(1).iter().all(|hash| !hashes(2).contains(hash)));
    }
}
