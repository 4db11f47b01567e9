//! How long a cluster takes to be back (SPEC §8, Recovery: 10 s at 100,000 open sessions): one process after another is killed
//! under load, and each time an attack is made at once, in a session that was open before. Its alert ends the time; the
//! engine's log tells the parts.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use clawdstrike_telemetry::time;

use crate::run::keep;
use crate::services::{Services, Setup};
use crate::trial::{Scale, Trial};
use crate::wait::wait;

/// What SPEC promises.
const BOUND: Duration = Duration::from_secs(10);
/// Between two kills: longer than a generation takes to count as steady for the supervisor, and than a checkpoint.
const STEADY: Duration = Duration::from_secs(15);

/// A part of the time, and the words of the log that end it. What every process says ends with the last of them.
const PARTS: [(&str, &str); 4] = [
    ("noticed", "runtime::up: "),
    ("manifest read", "going on from a checkpoint"),
    ("state back", "what the checkpoint held is back"),
    ("read again", "read as far again as before"),
];

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub struct Recovery {
    /// Where events come from, and where rows go.
    pub setup: Setup,
    /// What the cluster is like, and what is written.
    pub scale: Scale,
    /// How often a process is killed.
    pub kills: usize,
}

/// Runs it against the program `binary`, and prints what it shows.
///
/// # Errors
/// A recovery took longer than it may, a row isn't as it must be, or what stood in the way.
pub fn recovery(binary: &Path, recovery: &Recovery) -> anyhow::Result<()> {
    let services = Services::start(recovery.setup)?;
    let folder = tempfile::tempdir()?;
    go(binary, folder.path(), &services, recovery).map_err(|error| keep(folder, error))
}

fn go(binary: &Path, folder: &Path, services: &Services, recovery: &Recovery) -> anyhow::Result<()> {
    let mut trial = Trial::start(binary, folder, services, recovery.scale)?;
    print!("seconds after a kill{:>9}", "process");
    PARTS.iter().for_each(|(name, _)| print!("{name:>15}"));
    println!("{:>15}", "alert");
    let mut slow = 0;
    for kill in 0..recovery.kills {
        go_on(&mut trial, STEADY)?;
        let victim = kill % recovery.scale.shape.processes;
        let log = folder.join("log");
        let said_before = std::fs::metadata(&log)?.len() as usize;
        let (killed, killed_at) = (Instant::now(), now());
        trial.cluster.kill_process(victim);
        trial.load.attack();
        let session = wait("the attack", || Ok(trial.load.attacks().get(kill).map(|attack| attack.session.clone())))?;
        let arrived = wait("its alert", || {
            trial.check()?;
            Ok(trial.receiver.arrival(&session))
        })?;
        let took = arrived.saturating_duration_since(killed);
        // Sources go on to their end after it.
        go_on(&mut trial, STEADY)?;
        let said = std::fs::read(&log)?;
        let said = String::from_utf8_lossy(&said[said_before..]).into_owned();
        print!("{:>20}{victim:>9}", kill + 1);
        PARTS.iter().for_each(|(_, words)| print!("{:>15}", shown(last_said(&said, words), killed_at)));
        println!("{:>15.2}", took.as_secs_f64());
        slow += usize::from(took > BOUND);
    }
    let finished = trial.finish()?;
    println!("in the store: {}", finished.counts);
    let mut wrong = finished.wrong;
    if slow > 0 {
        wrong.push(format!("{slow} of {} recoveries took longer than {BOUND:?}", recovery.kills));
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

/// The load goes on for so long.
fn go_on(trial: &mut Trial, time: Duration) -> anyhow::Result<()> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        trial.check()?;
        // Time under load, not a wait for anything.
        std::thread::sleep(time / 50);
    }
    Ok(())
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// When a line with these words was written last, in microseconds since 1970.
fn last_said(log: &str, words: &str) -> Option<i64> {
    let at = |line: &str| {
        // `[process 0] 2026-01-02T03:04:05.678901Z  INFO ...`, or without the process.
        let said = line.split_once("] ").filter(|_| line.starts_with('[')).map_or(line, |(_, said)| said);
        said.split_whitespace().next().and_then(time::parse)
    };
    log.lines().filter(|line| line.contains(words)).filter_map(at).next_back()
}

fn shown(said: Option<i64>, killed_at: i64) -> String {
    said.map_or("-".to_owned(), |at| format!("{:.2}", (at - killed_at) as f64 / 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_process_ends_a_part() {
        let log = "2026-01-02T03:04:05.000001Z ERROR e::runtime::up: process 1 has ended; its last words:\n\
                   2026-01-02T03:04:01Z WARN e::x: an earlier word\nThe cluster starts again in 100ms\n\
                   [process 0] 2026-01-02T03:04:06.5Z  INFO e::recovery: going on from a checkpoint\n\
                   [process 1] 2026-01-02T03:04:07.5Z  INFO e::recovery: going on from a checkpoint\n";
        let from = time::parse("2026-01-02T03:04:05Z").expect("a time");
        assert_eq!(last_said(log, "runtime::up: "), Some(from + 1));
        assert_eq!(shown(last_said(log, "going on"), from), "2.50");
        assert_eq!(shown(last_said(log, "never said"), from), "-");
    }
}
