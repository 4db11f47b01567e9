//! `up`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, anyhow, bail};
use clap::Args;

use super::output::Format;
use super::{Exit, OutputArgs};
use crate::config::{Config, Source};
use crate::runtime::{process, up};
use crate::wall_clock;

/// Launch and supervise all processes of the cluster on this machine; SIGTERM or Ctrl-C stops them in good order.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  clawdstrike-edr up --config edr/workers.toml
  clawdstrike-edr up --simulate          # with simulated agents, to see it work

Alerts are printed to standard output as they are detected, the log goes to standard error.")]
pub(super) struct UpArgs {
    /// The cluster's configuration.
    #[arg(long, value_name = "FILE", default_value = "workers.toml")]
    pub(super) config: PathBuf,
    /// Let simulated agents work and attack beside the cluster: writes into the folder of its first JSONL source.
    #[arg(long)]
    pub(super) simulate: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// Events a second of the simulated agents.
const SIMULATED_RATE: &str = "300";
/// One attack in so many events.
const SIMULATED_ATTACKS: &str = "300";

pub(super) fn run(args: UpArgs) -> anyhow::Result<Exit> {
    let (config, path) = process::load(&args.config).map_err(anyhow::Error::msg)?;
    let simulate = if args.simulate { Some(simulator(&config)?) } else { None };
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signals(stop.clone())?;
    let format = match args.output.output {
        Format::Json => "json",
        Format::Table => "table",
    };
    let head_args = ["--show-alerts", "--output", format].map(str::to_owned).to_vec();
    up::run(&up::Up { config, path, head_args, simulate, stop }).map_err(|e| anyhow!(e))?;
    Ok(Exit::Ok)
}

fn simulator(config: &Config) -> anyhow::Result<Vec<String>> {
    let folder = config.sources.iter().find_map(|s| match s {
        Source::Jsonl { path, follow: true, .. } => Some(path),
        _ => None,
    });
    let Some(folder) = folder else {
        bail!(
            "--simulate writes into the folder of a JSONL source, and the configuration has none; use `clawdstrike-edr simulate --kafka BROKERS` beside `up`"
        );
    };
    std::fs::create_dir_all(folder).with_context(|| format!("folder \"{}\"", folder.display()))?;
    let now = wall_clock::now() / 1_000_000;
    let file = folder.join(format!("simulated-{now}.jsonl"));
    let args = [
        "simulate",
        "--rate",
        SIMULATED_RATE,
        "--attack-every",
        SIMULATED_ATTACKS,
        "--agents",
        "20",
        "--until-stdin-ends",
    ];
    let mut args: Vec<String> = args.map(str::to_owned).to_vec();
    args.extend(["--seed".to_owned(), now.to_string(), "--to".to_owned(), file.display().to_string()]);
    Ok(args)
}

fn stop_on_signals(stop: Arc<AtomicBool>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            if let (Ok(mut terminate), Ok(mut interrupt)) =
                (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
            {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                stop.store(true, Ordering::Relaxed);
            }
        });
    });
    Ok(())
}
