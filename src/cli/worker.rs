//! `worker`.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use super::Exit;

/// Run one process of the cluster (`up` starts them all; a Kubernetes StatefulSet runs these).
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  clawdstrike-edr worker --config edr/workers.toml --process 0")]
pub(super) struct WorkerArgs {
    /// The cluster's configuration.
    #[arg(long, value_name = "FILE", default_value = "workers.toml")]
    pub(super) config: PathBuf,
    /// Which process, from 0.
    #[arg(long, value_name = "N")]
    pub(super) process: usize,
}

pub(super) fn run(args: WorkerArgs) -> anyhow::Result<Exit> {
    bail!("process {} of \"{}\" needs the runtime", args.process, args.config.display())
}
