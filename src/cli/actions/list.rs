//! `actions list`.

use anstyle::Style;
use clap::Args;
use serde_json::Value;

use super::State;
use crate::cli::client::{ApiArgs, Client};
use crate::cli::output::{Table, field, severity_style};
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
    args.page.show(&answer, "actions", args.output.output, table)
}

fn table(actions: &[Value]) -> Table {
    let mut table = Table::new(["UPDATED", "STATE", "ACTION", "RULE", "AGENT", "SESSION", "TRIES", "REASON", "ID"]);
    for action in actions {
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
    table
}
