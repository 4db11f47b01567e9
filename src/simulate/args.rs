//! What `simulate` may be asked for: its flags, and their check. Knows nothing of how events are made or sent.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::Scenario;
use super::generator::Options;
use crate::config::Duration;

/// Most concurrent sessions: about 80 bytes each.
const MAX_SESSIONS: usize = 10_000_000;
/// Most files at a time.
const MAX_FILES: usize = 1_024;
/// Longest disorder, in microseconds: what is held back for it must fit in memory.
const MAX_DISORDER: i64 = 3_600_000_000;

/// Seeded agents at normal work, with attacks that the shipped rules must catch.
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("destination").required(true).args(["to", "kafka"]))]
pub struct SimulateArgs {
    /// Write JSON lines to this file (`-`: standard output).
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// Split by session over so many files: FILE-0, FILE-1, ... before the extension.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "to")]
    pub files: usize,
    /// Add to files that exist instead of replacing them.
    #[arg(long, requires = "to")]
    pub append: bool,
    /// Send to these Kafka brokers, `host:port` separated by commas: allowed events to the topic `agent.events`, violations to
    /// `agent.violations`, with the key `agent:session`.
    #[arg(long, value_name = "BROKERS")]
    pub kafka: Option<String>,
    /// Stop after so many events (copies not counted).
    #[arg(long, value_name = "N")]
    pub events: Option<u64>,
    /// Stop after this much event time, such as 90s or 10m.
    #[arg(long, value_name = "D")]
    pub duration: Option<Duration>,
    /// Events per second, in real time; 0: as fast as possible.
    #[arg(long, value_name = "R", default_value_t = 0.0)]
    pub rate: f64,
    /// With `--rate 0`: events per second of event time.
    #[arg(long, value_name = "R", default_value_t = 1_000.0)]
    pub event_rate: f64,
    /// Same seed and start, same events.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Agents.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub agents: usize,
    /// Sessions of each agent at the same time.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub sessions: usize,
    /// Events after which a session ends and another begins, on average; 0: never.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub session_events: u32,
    /// Attack to run; may be repeated. Default: all, in turn.
    #[arg(long, value_name = "NAME", value_enum)]
    pub scenario: Vec<Scenario>,
    /// Begin an attack every so many events of normal work, about; 0: none.
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    pub attack_every: u64,
    /// Share of events whose target was never seen before, 0 to 0.6.
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    pub fresh_targets: f64,
    /// Event time of the first event, RFC 3339. Default: now, or with `--rate 0` so that the last event is now.
    #[arg(long, value_name = "T")]
    pub start: Option<String>,
    /// Let events arrive up to this long after later ones, such as 30s.
    #[arg(long, value_name = "D", default_value_t = Duration(0))]
    pub disorder: Duration,
    /// Share of events of which a copy arrives too, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub duplicates: f64,
    /// Stop when standard input ends, as it does when a supervisor is gone.
    #[arg(long)]
    pub until_stdin_ends: bool,
    /// Write the attacks that must be found to this file, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub truth: Option<PathBuf>,
}

impl SimulateArgs {
    /// Real time or not.
    pub(super) fn paced(&self) -> bool {
        self.rate > 0.0
    }

    /// Events per second of event time.
    pub(super) fn events_per_second(&self) -> f64 {
        if self.paced() { self.rate } else { self.event_rate }
    }

    /// Checks all flags; `now` is the wall clock in microseconds since 1970.
    pub(super) fn options(&self, now: i64) -> Result<Options, String> {
        self.check()?;
        Ok(Options {
            seed: self.seed,
            agents: self.agents,
            sessions_per_agent: self.sessions,
            session_events: self.session_events,
            scenarios: if self.scenario.is_empty() { Scenario::ALL.to_vec() } else { self.scenario.clone() },
            attack_share: if self.attack_every == 0 { 0.0 } else { 1.0 / self.attack_every as f64 },
            start: self.start(now)?,
            rate: self.events_per_second(),
            fresh_targets: self.fresh_targets,
        })
    }

    fn check(&self) -> Result<(), String> {
        let within = |flag: &str, value: f64, from: f64, to: f64| {
            if (from..=to).contains(&value) {
                Ok(())
            } else {
                Err(format!("\"{flag}\" is {value}: expected {from} to {to}"))
            }
        };
        within("--rate", self.rate, 0.0, 1e9)?;
        within("--event-rate", self.event_rate, 0.001, 1e9)?;
        within("--fresh-targets", self.fresh_targets, 0.0, 0.6)?;
        within("--duplicates", self.duplicates, 0.0, 1.0)?;
        within("--files", self.files as f64, 1.0, MAX_FILES as f64)?;
        within("--disorder", self.disorder.0 as f64 / 1e6, 0.0, MAX_DISORDER as f64 / 1e6)?;
        let sessions = self.agents.saturating_mul(self.sessions);
        if sessions == 0 || sessions > MAX_SESSIONS {
            return Err(format!("\"--agents\" times \"--sessions\" is {sessions}: expected 1 to {MAX_SESSIONS}"));
        }
        if self.files > 1 && self.to.as_deref().is_some_and(|path| path.as_os_str() == "-") {
            return Err("\"--files\" can't split standard output: give \"--to\" a file".into());
        }
        if !self.paced() && self.events.is_none() && self.duration.is_none() {
            return Err("nothing says when to stop: give \"--events N\" or \"--duration D\", or a \"--rate\" to run until interrupted".into());
        }
        Ok(())
    }

    fn start(&self, now: i64) -> Result<i64, String> {
        if let Some(text) = &self.start {
            return clawdstrike_telemetry::time::parse(text).ok_or_else(|| {
                format!("\"--start {text}\" is not a time: expected RFC 3339, such as 2024-05-06T10:00:00Z")
            });
        }
        if self.paced() {
            return Ok(now);
        }
        // No event may lie ahead of the engine's clock, or it would be re-timed.
        let by_count = self.events.map_or(f64::MAX, |n| n as f64 / self.event_rate * 1e6);
        let by_time = self.duration.map_or(f64::MAX, |d| d.0 as f64);
        Ok(now.saturating_sub(by_count.min(by_time) as i64))
    }
}
