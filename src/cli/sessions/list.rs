//! `sessions list`.

use clap::{Args, ValueEnum};

use super::FilterArgs;
use crate::cli::client::{ApiArgs, Client};
use crate::cli::{Exit, OutputArgs, PageArgs};

/// List live sessions.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  clawdstrike-edr sessions list --min-risk 50 --active --sort last-seen")]
pub(in crate::cli) struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Riskiest, latest, busiest or oldest first.
    #[arg(long, value_enum, default_value = "risk")]
    sort: Sort,
    #[command(flatten)]
    page: PageArgs,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Sort {
    Risk,
    LastSeen,
    Events,
    FirstSeen,
}

impl Sort {
    fn parameter(self) -> &'static str {
        match self {
            Sort::Risk => "risk",
            Sort::LastSeen => "last_seen",
            Sort::Events => "events",
            Sort::FirstSeen => "first_seen",
        }
    }
}

pub(super) async fn run(args: ListArgs) -> anyhow::Result<Exit> {
    let mut query = args.filter.query();
    query.push(("sort", Some(args.sort.parameter().to_owned())));
    let answer = Client::new(args.api)?.list(&["sessions"], &query, "sessions", &args.page).await?;
    args.page.show(&answer, "sessions", args.output.output, super::table)
}
