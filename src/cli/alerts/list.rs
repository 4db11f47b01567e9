//! `alerts list`.

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::FilterArgs;
use crate::cli::client::{ApiArgs, Client};
use crate::cli::output::{Table, field, severity_style};
use crate::cli::{Exit, OutputArgs, PageArgs};

/// List alerts.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  clawdstrike-edr alerts list --min-severity high --limit 20")]
pub(in crate::cli) struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Latest match, latest opened, severest, or riskiest session first.
    #[arg(long, value_enum, default_value = "last-seen")]
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
    LastSeen,
    FirstSeen,
    Severity,
    Risk,
}

impl Sort {
    fn parameter(self) -> &'static str {
        match self {
            Sort::LastSeen => "last_seen",
            Sort::FirstSeen => "first_seen",
            Sort::Severity => "severity",
            Sort::Risk => "risk",
        }
    }
}

pub(super) async fn run(args: ListArgs) -> anyhow::Result<Exit> {
    let mut query = args.filter.query();
    query.push(("sort", Some(args.sort.parameter().to_owned())));
    let answer = Client::new(args.api)?.list(&["alerts"], &query, "alerts", &args.page).await?;
    args.page.show(&answer, "alerts", args.output.output, table)
}

fn table(alerts: &[Value]) -> Table {
    let columns = ["LAST SEEN", "SEVERITY", "STATUS", "RULE", "AGENT", "SESSION", "MATCHES", "RISK", "ALERT"];
    let names = [
        "last_seen",
        "severity",
        "status",
        "rule_id",
        "agent_id",
        "session_id",
        "match_count",
        "risk_score",
        "alert_id",
    ];
    let mut table = Table::new(columns);
    for alert in alerts {
        table.row(severity_style(&field(alert, "severity")), names.map(|name| field(alert, name)));
    }
    table
}
