//! `agents`: live sessions rolled up per agent.

use clap::Args;

use super::client::{ApiArgs, Client};
use super::output::{Format, Out, Table, field, risk_style};
use super::{Exit, OutputArgs, PageArgs};

/// List agents, riskiest first.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  clawdstrike-edr agents --limit 20")]
pub(super) struct AgentsArgs {
    #[command(flatten)]
    page: PageArgs,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: AgentsArgs) -> anyhow::Result<Exit> {
    let page = [("limit", Some(args.page.limit.to_string())), ("offset", Some(args.page.offset.to_string()))];
    let answer = Client::new(args.api)?.get(&["agents"], &page).await?;
    let mut out = Out::new();
    if args.output.output == Format::Json {
        out.document(&answer)?;
        out.flush()?;
        return Ok(Exit::Ok);
    }
    let rows = answer["agents"].as_array().map(Vec::as_slice).unwrap_or_default();
    let columns = ["AGENT", "TENANT", "RISK", "SESSIONS", "EVENTS", "VIOLATIONS", "ALERTS", "LAST SEEN"];
    let names = ["agent_id", "tenant_id", "max_risk", "sessions", "events", "violations", "open_alerts", "last_seen"];
    let mut table = Table::new(columns);
    for agent in rows {
        table.row(risk_style(agent["max_risk"].as_f64().unwrap_or_default()), names.map(|name| field(agent, name)));
    }
    out.table(&table)?;
    out.flush()?;
    args.page.tell_of_more(rows.len(), answer["total"].as_u64().unwrap_or_default());
    Ok(Exit::Ok)
}
