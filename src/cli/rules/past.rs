//! Past events of `rules backtest` and `rules diff`: which, and running rules over them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use clap::Args;
use clawdstrike_rules::plan::RuleSet;
use clawdstrike_telemetry::time;

use crate::cli::output::tell;
use crate::cli::replay::Progress;
use crate::cli::{Usage, instant};
use crate::config::Config;
use crate::runtime::backtest::{self, Backtest, Past};
use crate::runtime::replay::Outcome;
use crate::wall_clock;

/// Which events.
#[derive(Debug, Args)]
pub(super) struct PastArgs {
    /// The cluster's configuration: its store has the events, its limits count. By default, workers.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Files of JSON lines to read instead of the store, whole; may be given several times.
    #[arg(long, value_name = "FILE")]
    events: Vec<PathBuf>,
    /// Alerts with a match at this time or later, in RFC 3339.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    from: Option<i64>,
    /// Events up to this time, in RFC 3339; by default, now.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    to: Option<i64>,
    /// Timely workers, by default 1; the results are the same for any number.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
}

/// A span of the past, and where its events are.
pub(super) struct Window {
    past: Past,
    config: Config,
    workers: usize,
    now: i64,
    /// Of the first match that counts, microseconds since 1970.
    pub(super) from: i64,
    /// Of the last event that counts.
    pub(super) to: i64,
}

impl PastArgs {
    /// Past events were asked for.
    pub(super) fn is_given(&self) -> bool {
        let PastArgs { config, events, from, to, workers } = self;
        config.is_some() || !events.is_empty() || from.is_some() || to.is_some() || workers.is_some()
    }

    /// Finds out what was asked for. Without `--from` it begins `last` before the end; of files, with their first event.
    pub(super) fn window(self, last: i64) -> anyhow::Result<Window> {
        let now = wall_clock::now();
        let to = self.to.unwrap_or(now);
        let from = self.from.unwrap_or(if self.events.is_empty() { to.saturating_sub(last) } else { i64::MIN });
        if from > to {
            let (from, to) = (time::format(from), time::format(to));
            return Err(Usage(format!("--from {from} is after --to {to}: expected an earlier time")).into());
        }
        // Files need no cluster: only its limits are asked for, if there is one.
        let config = self.config.unwrap_or_else(|| "workers.toml".into());
        let config = match self.events.is_empty() || config.exists() {
            true => Config::load(&config).map_err(anyhow::Error::msg)?,
            false => Config::default(),
        };
        let past = if self.events.is_empty() { Past::Store(config.store.clone()) } else { Past::Files(self.events) };
        Ok(Window { past, config, workers: usize::from(self.workers.unwrap_or(1)), now, from, to })
    }
}

impl Window {
    /// Runs rules over the window, with a progress display.
    pub(super) fn run(&self, rules: &RuleSet) -> anyhow::Result<Outcome> {
        let progress = Arc::new(AtomicU64::new(0));
        let shown = Progress::start(progress.clone());
        let outcome = backtest::run(Backtest {
            rules,
            past: &self.past,
            from: self.from,
            to: self.to,
            workers: self.workers,
            limits: self.config.limits.clone(),
            now: self.now,
            progress,
        });
        shown.finish();
        let outcome = outcome.map_err(anyhow::Error::msg)?;
        let dead: u64 = outcome.dead_letters.values().sum();
        if dead > 0 {
            tell(&format!("{dead} records are no valid events; alerts that need them are missing"));
        }
        if outcome.sampled {
            tell(
                "the store has only a share of low-risk events of this span ([store.sampling]): rules that need others than those in \
                 force then may find less than they would have",
            );
        }
        if outcome.groups_shed > 0 {
            let groups = outcome.groups_shed;
            tell(&format!(
                "{groups} groups lost events for want of memory, so alerts may be missing; take a shorter span, or more [limits] state_memory"
            ));
        }
        Ok(outcome)
    }

    /// The cluster's rules.
    pub(super) fn rules(&self) -> PathBuf {
        self.config.rules.path.clone()
    }

    /// From when to when, for people.
    pub(super) fn told(&self) -> (Option<String>, String) {
        ((self.from > i64::MIN).then(|| time::format(self.from)), time::format(self.to))
    }
}
