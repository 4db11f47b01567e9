//! `replay`.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, ValueEnum};
use clawdstrike_telemetry::time;

use super::Exit;
use super::output::Format;
use crate::config::{Duration, Limits};

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

/// Microseconds since 1970.
fn instant(text: &str) -> Result<i64, String> {
    time::parse(text).ok_or_else(|| "expected a time in RFC 3339, such as 2024-05-01T12:00:00Z".to_owned())
}

pub(super) fn run(args: ReplayArgs) -> anyhow::Result<Exit> {
    bail!("replay of {} files needs the runtime", args.files.len())
}
