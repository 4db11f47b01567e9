//! `alerts watch`.

use clap::Args;

use super::FilterArgs;
use crate::cli::client::{ApiArgs, Client};
use crate::cli::output::{escape, field, severity_style};
use crate::cli::watch::{Row, Watch, follow};
use crate::cli::{Exit, OutputArgs};

/// Show alerts as they happen: every version, until interrupted.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  clawdstrike-edr alerts watch --min-severity high --output json")]
pub(in crate::cli) struct WatchArgs {
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: WatchArgs) -> anyhow::Result<Exit> {
    let watch = Watch { client: Client::new(args.api)?, list: "alerts", query: args.filter.query() };
    let header = format!(
        "{:<27} {:<8} {:<9} {:>7} {:<36} RULE, AGENT / SESSION",
        "LAST SEEN", "SEVERITY", "STATUS", "MATCHES", "ALERT"
    );
    follow(watch, "alert", &header, args.output.output, |alert| {
        let names = ["last_seen", "severity", "status", "match_count", "alert_id", "rule_id", "agent_id", "session_id"];
        let cells = names.map(|name| escape(&field(alert, name)).into_owned());
        let [last_seen, severity, status, matches, id, rule, agent, session] = &cells;
        let line =
            format!("{last_seen:<27} {severity:<8} {status:<9} {matches:>7} {id:<36} {rule}, {agent} / {session}");
        Row { line, style: severity_style(severity) }
    })
    .await
}
