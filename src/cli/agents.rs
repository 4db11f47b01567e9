//! `agents`: live sessions rolled up per agent.

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::client::{ApiArgs, Client};
use super::output::{Table, field, risk_style};
use super::{Exit, OutputArgs, PageArgs};

/// List agents.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  clawdstrike-edr agents --limit 20")]
pub(super) struct AgentsArgs {
    /// Of this tenant.
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// With a session of at least this risk score.
    #[arg(long, value_name = "SCORE")]
    min_risk: Option<f64>,
    /// Riskiest, latest or busiest first, or those with most open alerts.
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
    OpenAlerts,
}

impl Sort {
    fn parameter(self) -> &'static str {
        match self {
            Sort::Risk => "risk",
            Sort::LastSeen => "last_seen",
            Sort::Events => "events",
            Sort::OpenAlerts => "open_alerts",
        }
    }
}

pub(super) async fn run(args: AgentsArgs) -> anyhow::Result<Exit> {
    let query = [
        ("tenant_id", args.tenant),
        ("min_risk", args.min_risk.map(|risk| risk.to_string())),
        ("sort", Some(args.sort.parameter().to_owned())),
    ];
    let answer = Client::new(args.api)?.list(&["agents"], &query, "agents", &args.page).await?;
    args.page.show(&answer, "agents", args.output.output, table)
}

fn table(agents: &[Value]) -> Table {
    let columns = ["AGENT", "TENANT", "RISK", "SESSIONS", "EVENTS", "VIOLATIONS", "ALERTS", "LAST SEEN"];
    let names = ["agent_id", "tenant_id", "max_risk", "sessions", "events", "violations", "open_alerts", "last_seen"];
    let mut table = Table::new(columns);
    for agent in agents {
        table.row(risk_style(agent["max_risk"].as_f64().unwrap_or_default()), names.map(|name| field(agent, name)));
    }
    table
}
