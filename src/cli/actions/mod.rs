//! `actions`: what alerts asked for and what came of it, from the ledger; and decisions about it.

mod decide;
mod list;
mod show;

use clap::{Subcommand, ValueEnum};

use super::Exit;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    List(list::ListArgs),
    Show(show::ShowArgs),
    Approve(decide::ApproveArgs),
    Reject(decide::RejectArgs),
    Retry(decide::RetryArgs),
}

pub(super) async fn run(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::List(args) => list::run(args).await,
        Command::Show(args) => show::run(args).await,
        Command::Approve(args) => decide::approve(args).await,
        Command::Reject(args) => decide::reject(args).await,
        Command::Retry(args) => decide::retry(args).await,
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    Pending,
    Sent,
    Acknowledged,
    Failed,
    Rejected,
    Waiting,
    Expired,
    Cancelled,
}

impl State {
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}
