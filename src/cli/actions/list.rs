//! `actions list`.

use anstyle::Style;
use clap::Args;

use super::State;
use crate::cli::client::{ApiArgs, Client};
use crate::cli::output::{Format, Out, Table, field, severity_style};
use crate::cli::{Exit, OutputArgs, PageArgs};

/// List actions, the latest first.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  clawdstrike-edr actions list --state waiting\n  clawdstrike-edr actions list --state failed --agent agent-7"
)]
pub(in crate::cli) struct ListArgs {
    /// In this state. `failed` is the list of dead letters.
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Of this alert.
    #[arg(long, value_name = "ID")]
    alert: Option<String>,
    /// Of this agent.
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Of this rule.
    #[arg(long, value_name = "ID")]
    rule: Option<String>,
    #[command(flatten)]
    page: PageArgs,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: ListArgs) -> anyhow::Result<Exit> {
    let query = [
        ("state", args.state.map(State::name)),
        ("alert_id", args.alert),
        ("agent_id", args.agent),
        ("rule_id", args.rule),
    ];
    let answer = Client::new(args.api)?.list(&["actions"], &query, "actions", &args.page).await?;
    let mut out = Out::new();
    if args.output.output == Format::Json {
        out.document(&answer)?;
        out.flush()?;
        return Ok(Exit::Ok);
    }
    let rows = answer["actions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut table = Table::new(["UPDATED", "STATE", "ACTION", "RULE", "AGENT", "SESSION", "TRIES", "REASON", "ID"]);
    for action in rows {
        let style = match action["state"].as_str() {
            Some("failed" | "waiting") => severity_style("high"),
            _ => Style::new(),
        };
        let names = ["updated_at", "state", "action", "rule_id", "agent_id", "session_id", "attempts", "reason", "id"];
        let mut cells = names.map(|name| if action[name].is_null() { String::new() } else { field(action, name) });
        // Enough of it to be unique; `show` and the others take it.
        cells[8].truncate(16);
        table.row(style, cells);
    }
    out.table(&table)?;
    out.flush()?;
    args.page.tell_of_more(rows.len(), &answer);
    Ok(Exit::Ok)
}
