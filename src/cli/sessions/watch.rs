//! `sessions watch`.

use clap::Args;

use super::FilterArgs;
use crate::cli::client::{ApiArgs, Client};
use crate::cli::output::{escape, field, risk_style};
use crate::cli::watch::{Row, Watch, follow};
use crate::cli::{Exit, OutputArgs};

/// Show sessions as they change, until interrupted.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  clawdstrike-edr sessions watch --min-risk 50 --output json")]
pub(in crate::cli) struct WatchArgs {
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: WatchArgs) -> anyhow::Result<Exit> {
    let watch = Watch { client: Client::new(args.api)?, list: "sessions", query: args.filter.query() };
    let header = format!(
        "{:<27} {:>5} {:>8} {:>10} {:>7} {:>6} AGENT / SESSION",
        "LAST SEEN", "RISK", "EVENTS", "VIOLATIONS", "TARGETS", "ALERTS"
    );
    follow(watch, "session", &header, args.output.output, |session| {
        let risk = session["risk_score"].as_f64().unwrap_or_default();
        let names = ["last_seen", "events", "violations", "open_alerts", "agent_id", "session_id"];
        let [last_seen, events, violations, alerts, agent, id] =
            names.map(|name| escape(&field(session, name)).into_owned());
        let targets = super::unique_targets(session);
        let line =
            format!("{last_seen:<27} {risk:>5} {events:>8} {violations:>10} {targets:>7} {alerts:>6} {agent} / {id}");
        Row { line, style: risk_style(risk) }
    })
    .await
}
