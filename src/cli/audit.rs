//! `audit`: who changed what, asked of a running engine (`list`), and whether the trail is whole, read from its files (`verify`).

use std::path::PathBuf;

use anstyle::Style;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{ApiArgs, Client};
use super::output::{Format, Out, Table, field, severity_style, tell};
use super::{Exit, OutputArgs, PageArgs, block_on};
use crate::audit::Audit;
use crate::config::Config;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    List(ListArgs),
    Verify(VerifyArgs),
}

/// List what was changed, or refused, and by whom; the latest first.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  clawdstrike-edr audit list --limit 20
  clawdstrike-edr audit list --limit 5000 --output json

Needs the permission read:audit.")]
pub(super) struct ListArgs {
    #[command(flatten)]
    page: PageArgs,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Check that no row of the audit trail was removed, changed or moved. Exits with 1 and names the first that was.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  clawdstrike-edr audit verify --config edr/workers.toml    the whole trail, from its first row to its last
  clawdstrike-edr audit verify copies/audit-000000004711.jsonl

One file alone may begin with any row: the answer says with which.")]
pub(super) struct VerifyArgs {
    /// One file of a trail; without it, the whole trail of the configuration's state folder.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The cluster's configuration.
    #[arg(long, value_name = "FILE", default_value = "workers.toml")]
    config: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::List(args) => block_on(list(args)),
        Command::Verify(args) => verify(&args),
    }
}

async fn list(args: ListArgs) -> anyhow::Result<Exit> {
    let answer = Client::new(args.api)?.list(&["audit"], &[], "rows", &args.page).await?;
    if answer["unreadable"].as_u64().is_some_and(|lines| lines > 0) {
        tell(&format!(
            "warning: {} lines are no whole rows: `clawdstrike-edr audit verify` names them",
            answer["unreadable"]
        ));
    }
    args.page.show(&answer, "rows", args.output.output, table)
}

fn table(rows: &[Value]) -> Table {
    let mut table = Table::new(["ROW", "TIME", "WHO", "FROM", "ACTION", "OUTCOME", "DETAIL"]);
    for row in rows {
        let outcome = field(row, "outcome");
        let style = if outcome == "refused" { severity_style("medium") } else { Style::new() };
        let cells = [field(row, "seq"), field(row, "time"), who(&row["who"]), field(row, "from"), field(row, "action")];
        let [seq, time, who, from, action] = cells;
        table.row(style, [seq, time, who, from, action, outcome, detail(&row["detail"])]);
    }
    table
}

fn who(who: &Value) -> String {
    match (field(who, "name"), field(who, "role")) {
        (name, role) if role.is_empty() => format!("{} {name}", field(who, "kind")).trim().to_owned(),
        (name, role) => format!("{name} ({role})"),
    }
}

/// `a=1 b=x`.
fn detail(detail: &Value) -> String {
    let members = detail.as_object().into_iter().flatten();
    let members = members.map(|(name, _)| format!("{name}={}", field(detail, name)));
    members.collect::<Vec<_>>().join(" ")
}

fn verify(args: &VerifyArgs) -> anyhow::Result<Exit> {
    let verified = match &args.file {
        Some(file) => Audit::verify_file(file),
        None => Audit::of(&Config::load(&args.config).map_err(anyhow::Error::msg)?.cluster.state).verify(),
    };
    let mut out = Out::new();
    let exit = match (&verified, args.output.output) {
        (Ok(v), Format::Json) => {
            let torn_end = &v.torn_end;
            out.document(&json!({"ok": true, "first": v.first, "last": v.last, "hash": v.hash, "torn": v.torn, "torn_end": torn_end}))?;
            Exit::Ok
        }
        (Err(error), Format::Json) => {
            out.document(&json!({"ok": false, "error": error}))?;
            Exit::Findings
        }
        (Ok(v), Format::Table) => {
            match v.last {
                0 => out.line("the trail has no rows")?,
                last => {
                    out.text(&format!("rows {} to {last} are whole; the last one's hash is {}", v.first, v.hash))?
                }
            }
            for place in &v.torn {
                out.text(&format!("note: {place} is torn, as the row after it says: its writer was killed"))?;
            }
            if let Some(place) = &v.torn_end {
                out.text(&format!("note: {place} is torn: its writer was killed, and the next row will say so"))?;
            }
            Exit::Ok
        }
        (Err(error), Format::Table) => {
            out.text(&format!("broken: {error}"))?;
            Exit::Findings
        }
    };
    out.flush()?;
    Ok(exit)
}
