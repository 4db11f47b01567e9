//! `replay`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use anyhow::bail;
use clap::{Args, ValueEnum};
use clawdstrike_rules::plan::RuleSet;
use clawdstrike_telemetry::time;
use serde_json::{Map, Value, json};

use super::output::{Format, Out, Table, risk_style, severity_style, tell};
use super::{Exit, instant};
use crate::alert::Alert;
use crate::config::{Duration, Limits};
use crate::rule_files;
use crate::runtime::replay::{self, OnChange, Outcome, Replay};
use crate::session::SessionView;
use crate::wall_clock;

/// Run files through the engine's own dataflow, offline, and print the alerts.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  clawdstrike-edr replay events.jsonl --rules rules
  clawdstrike-edr replay day-*.jsonl --rules rules --workers 4 --emit all
  kcat -C -e -t agent.events | clawdstrike-edr replay - --rules rules --fail-on-alert

Results are JSON lines in order of (first_seen, alert_id); progress and a summary go to standard error. No rate limit applies.
Files have no trusted clock: one record ahead of its time can re-time what follows, and the summary counts it.")]
pub(super) struct ReplayArgs {
    /// Files of JSON lines; `-` is standard input.
    #[arg(value_name = "FILE", required = true)]
    pub(super) files: Vec<PathBuf>,
    /// Rule files, or folders of them.
    #[arg(long, value_name = "PATH", required = true)]
    pub(super) rules: Vec<PathBuf>,
    /// Timely workers; the results are the same for any number.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) workers: u16,
    /// What to print: the final alerts, sessions, or both; or every version of every alert as it happened.
    #[arg(long, value_enum, default_value_t)]
    pub(super) emit: Emit,
    /// How results are printed.
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "json")]
    pub(super) output: Format,
    /// How late an event may be and keep its own time.
    #[arg(long, value_name = "DURATION", default_value_t = Limits::default().max_lateness)]
    pub(super) max_lateness: Duration,
    /// How far ahead of the reference time an event may be and keep its own time.
    #[arg(long, value_name = "DURATION", default_value_t = Limits::default().max_skew)]
    pub(super) max_skew: Duration,
    /// How long copies are recognised; at least as long as --max-lateness counts.
    #[arg(long, value_name = "DURATION", default_value_t = Limits::default().dedup_window)]
    pub(super) dedup_window: Duration,
    /// The wall clock, in RFC 3339, instead of this machine's.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub(super) now: Option<i64>,
    /// Exit with 1 if there is an alert.
    #[arg(long)]
    pub(super) fail_on_alert: bool,
}

/// What `replay` prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Emit {
    /// The final alerts, without retracted ones.
    #[default]
    Alerts,
    /// The sessions, every life of each.
    Sessions,
    /// The final alerts, then the sessions.
    All,
    /// Every version of every alert, as it happened.
    Changes,
}

pub(super) fn run(args: ReplayArgs) -> anyhow::Result<Exit> {
    let limits = Limits {
        max_lateness: args.max_lateness,
        max_skew: args.max_skew,
        dedup_window: args.dedup_window.max(args.max_lateness),
        ..Limits::default()
    };
    let compiled = compile(&args.rules)?;
    let progress = Arc::new(AtomicU64::new(0));
    let shown = Progress::start(progress.clone());
    let began = Instant::now();
    let outcome = replay::run(Replay {
        files: args.files.clone(),
        rules: compiled,
        workers: usize::from(args.workers),
        limits,
        now: args.now.unwrap_or_else(wall_clock::now),
        changes: (args.emit == Emit::Changes).then(|| Box::new(|a: &Alert| print_change(a)) as OnChange),
        progress,
    });
    shown.finish();
    let outcome = outcome.map_err(anyhow::Error::msg)?;
    print(&args, &outcome)?;
    summarise(&outcome, began.elapsed());
    let found = args.fail_on_alert && !outcome.alerts.is_empty();
    Ok(if found { Exit::Findings } else { Exit::Ok })
}

/// The rules of these files and folders; warnings go to standard error.
pub(super) fn compile(paths: &[PathBuf]) -> anyhow::Result<RuleSet> {
    let found = rule_files::read(paths).map_err(anyhow::Error::msg)?;
    found.check().map_err(anyhow::Error::msg)?;
    match clawdstrike_rules::compile(&found.files) {
        Ok(compiled) => {
            compiled.warnings.iter().for_each(|w| tell(&w.to_string()));
            Ok(compiled.set)
        }
        Err(errors) => bail!("the rules don't compile:\n{errors}"),
    }
}

fn kind(name: &str, value: Value) -> Value {
    let mut line = Map::new();
    line.insert("kind".into(), json!(name));
    if let Value::Object(fields) = value {
        line.extend(fields);
    }
    Value::Object(line)
}

/// A version, as it happens. A reader that has gone away is noticed when the results are printed.
fn print_change(alert: &Alert) {
    let mut value = kind("alert", alert.to_json());
    value["revision"] = json!(alert.revision);
    let mut out = Out::new();
    let _reader_gone = out.json_line(&value).and_then(|()| out.flush());
}

fn print(args: &ReplayArgs, outcome: &Outcome) -> anyhow::Result<()> {
    let mut out = Out::new();
    let (alerts, sessions) = match args.emit {
        Emit::Alerts => (true, false),
        Emit::Sessions => (false, true),
        Emit::All => (true, true),
        Emit::Changes => (false, false),
    };
    match args.output {
        Format::Json => {
            for alert in outcome.alerts.iter().filter(|_| alerts) {
                out.json_line(&kind("alert", alert.to_json()))?;
            }
            for session in outcome.sessions.iter().filter(|_| sessions) {
                out.json_line(&kind("session", session.to_json()))?;
            }
        }
        Format::Table => {
            if alerts {
                out.table(&alert_table(&outcome.alerts))?;
            }
            if sessions {
                out.table(&session_table(&outcome.sessions))?;
            }
        }
    }
    out.flush()
}

pub(super) fn alert_table(alerts: &[Alert]) -> Table {
    let mut table = Table::new(["FIRST SEEN", "SEVERITY", "RULE", "AGENT", "SESSION", "MATCHES", "RISK", "ALERT"]);
    for a in alerts {
        let severity = a.severity.name().to_owned();
        table.row(
            severity_style(&severity),
            [
                time::format(a.first_seen),
                severity.clone(),
                a.rule_id.clone(),
                a.agent_id.clone(),
                a.session_id.clone(),
                a.match_count.to_string(),
                a.risk_score.to_string(),
                a.alert_id.clone(),
            ],
        );
    }
    table
}

fn session_table(sessions: &[SessionView]) -> Table {
    let mut table = Table::new(["FIRST SEEN", "AGENT", "SESSION", "EVENTS", "VIOLATIONS", "TARGETS", "RISK"]);
    for s in sessions {
        table.row(
            risk_style(s.risk_score),
            [
                time::format(s.first_seen),
                s.agent_id.clone(),
                s.session_id.clone(),
                s.events.to_string(),
                s.violations.to_string(),
                s.unique_targets.to_string(),
                s.risk_score.to_string(),
            ],
        );
    }
    table
}

fn summarise(outcome: &Outcome, took: std::time::Duration) {
    let dead: u64 = outcome.dead_letters.values().sum();
    let seconds = took.as_secs_f64();
    let rate = (outcome.events + dead) as f64 / seconds.max(1e-6);
    tell(&format!("{} events in {seconds:.2} s ({rate:.0} events/s), {} re-timed", outcome.events, outcome.retimed));
    if outcome.retimed > 0 {
        tell("files have no trusted clock: one record ahead of its time can re-time what follows");
    }
    if outcome.groups_shed > 0 {
        tell(&format!(
            "{} groups lost kept events for want of memory, so alerts may be missing; replay fewer events at a time",
            outcome.groups_shed
        ));
    }
    tell(&format!("{dead} dead letters"));
    for (reason, n) in &outcome.dead_letters {
        tell(&format!("  {reason}: {n}"));
    }
    tell(&format!("{} alerts", outcome.alerts.len()));
    let mut by_rule: BTreeMap<&str, u64> = BTreeMap::new();
    for alert in &outcome.alerts {
        *by_rule.entry(&alert.rule_id).or_default() += 1;
    }
    for (rule, n) in by_rule {
        tell(&format!("  {rule}: {n}"));
    }
}

/// A spinner with a number of records, or of something else; on a terminal only.
pub(super) struct Progress {
    stop: mpsc::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Progress {
    pub(super) fn start(records: Arc<AtomicU64>) -> Progress {
        Progress::of("records", records)
    }

    /// The same of something else.
    pub(super) fn of(what: &'static str, count: Arc<AtomicU64>) -> Progress {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let bar = indicatif::ProgressBar::new_spinner();
            while let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(std::time::Duration::from_millis(200))
            {
                bar.set_position(count.load(Ordering::Relaxed));
                bar.set_message(format!("{} {what}", bar.position()));
                bar.tick();
            }
            bar.finish_and_clear();
        });
        Progress { stop, thread }
    }

    pub(super) fn finish(self) {
        drop(self.stop);
        // It only draws.
        let _drawn = self.thread.join();
    }
}
