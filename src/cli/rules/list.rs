//! `rules list`.

use clap::Args;

use crate::cli::client::{ApiArgs, Client};
use crate::cli::output::{Format, Out, Table, field, severity_style, shorten, tell};
use crate::cli::{Exit, OutputArgs};

/// List the rules in force in a running engine.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  clawdstrike-edr rules list --api http://127.0.0.1:7878")]
pub(in crate::cli) struct ListArgs {
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Characters of a version that a table shows.
const VERSION: usize = 12;

pub(super) async fn run(args: ListArgs) -> anyhow::Result<Exit> {
    let answer = Client::new(args.api)?.get(&["rules"], &[]).await?;
    let mut out = Out::new();
    if args.output.output == Format::Json {
        out.document(&answer)?;
        out.flush()?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(["RULE", "SEVERITY", "SHADOW", "VERSION", "WHERE", "NAME"]);
    for rule in answer["rules"].as_array().into_iter().flatten() {
        let severity = field(rule, "severity");
        let style = severity_style(&severity);
        let version = field(rule, "version").chars().take(VERSION).collect();
        let place = format!("{}:{}", field(rule, "file"), field(rule, "line"));
        table.row(style, [field(rule, "id"), severity, field(rule, "shadow"), version, place, field(rule, "name")]);
    }
    out.table(&table)?;
    out.flush()?;
    if let Some(error) = answer["last_error"].as_str() {
        tell("the last load was refused, and these rules stayed in force:");
        tell(&shorten(error, MAX_ERROR_CHARS));
    }
    Ok(Exit::Ok)
}

/// How much of the last error is repeated here.
const MAX_ERROR_CHARS: usize = 4000;
