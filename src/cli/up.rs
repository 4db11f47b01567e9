//! `up`.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use super::{Exit, OutputArgs};

/// Launch and supervise all processes of the cluster on this machine; SIGTERM or Ctrl-C stops them in good order.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  clawdstrike-edr up --config edr/workers.toml")]
pub(super) struct UpArgs {
    /// The cluster's configuration.
    #[arg(long, value_name = "FILE", default_value = "workers.toml")]
    pub(super) config: PathBuf,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) fn run(args: UpArgs) -> anyhow::Result<Exit> {
    bail!("\"{}\" can't be brought up: {:?} output needs the runtime", args.config.display(), args.output.output)
}
