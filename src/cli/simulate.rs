//! `simulate`.

use clap::Args;

use super::Exit;
use crate::simulate::SimulateArgs;

/// Write the telemetry of simulated agents, at work and under attack.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  clawdstrike-edr simulate --to events/agents.jsonl --rate 100
  clawdstrike-edr simulate --to events.jsonl --events 100000 --seed 7 --scenario credential-exfiltration
  clawdstrike-edr simulate --kafka 127.0.0.1:9092 --rate 5000 --duration 10m

The same seed and start give the same events. What was simulated, attacks above all, is told on standard error.")]
pub(super) struct SimulateCommand {
    #[command(flatten)]
    args: SimulateArgs,
}

pub(super) async fn run(command: SimulateCommand) -> anyhow::Result<Exit> {
    crate::simulate::run(&command.args).await?;
    Ok(Exit::Ok)
}
