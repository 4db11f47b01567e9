//! `actions approve`, `actions reject`, `actions retry`.

use clap::Args;
use serde_json::{Value, json};

use crate::cli::client::{ApiArgs, Client};
use crate::cli::output::{Format, Out, field, tell};
use crate::cli::{Exit, OutputArgs, PageArgs};

/// Failed actions that are tried again at a time.
const FAILED: PageArgs = PageArgs { limit: 100_000, cursor: None };

/// Carry out an action that waits for an approval; under `[response] four_eyes` two people must say so.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  clawdstrike-edr actions approve 5106da8e85907fa6")]
pub(in crate::cli) struct ApproveArgs {
    #[command(flatten)]
    which: WhichArgs,
}

/// Decide against an action that waits, or that wasn't sent yet.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  clawdstrike-edr actions reject 5106da8e85907fa6")]
pub(in crate::cli) struct RejectArgs {
    #[command(flatten)]
    which: WhichArgs,
}

#[derive(Debug, Args)]
struct WhichArgs {
    /// The action's id or the beginning of it, as `actions list` prints it.
    id: String,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Try a failed action again, or all of them.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  clawdstrike-edr actions retry 5106da8e85907fa6\n  clawdstrike-edr actions retry --failed"
)]
pub(in crate::cli) struct RetryArgs {
    /// The action's id or the beginning of it, as `actions list` prints it.
    #[arg(required_unless_present = "failed")]
    id: Option<String>,
    /// All that have failed and whose alerts weren't retracted.
    #[arg(long, conflicts_with = "id")]
    failed: bool,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn approve(args: ApproveArgs) -> anyhow::Result<Exit> {
    one("approve", args.which).await
}

pub(super) async fn reject(args: RejectArgs) -> anyhow::Result<Exit> {
    one("reject", args.which).await
}

pub(super) async fn retry(args: RetryArgs) -> anyhow::Result<Exit> {
    if let Some(id) = args.id {
        return one("retry", WhichArgs { id, api: args.api, output: args.output }).await;
    }
    let client = Client::new(args.api)?;
    let query = [("state", Some("failed".to_owned()))];
    let answer = client.list(&["actions"], &query, "actions", &FAILED).await?;
    let failed = answer["actions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut out = Out::new();
    let mut refused = 0;
    for action in failed.iter().filter(|action| action["alert_retracted"] == Value::Bool(false)) {
        match client.post(&["actions", &field(action, "id"), "retry"], &json!({})).await {
            Ok(answer) => say(&mut out, &answer, args.output.output)?,
            Err(error) => {
                refused += 1;
                tell(&format!("{}: {error:#}", field(action, "id")));
            }
        }
    }
    out.flush()?;
    Ok(if refused == 0 { Exit::Ok } else { Exit::Findings })
}

async fn one(decision: &str, args: WhichArgs) -> anyhow::Result<Exit> {
    let answer = Client::new(args.api)?.post(&["actions", &args.id, decision], &json!({})).await?;
    let mut out = Out::new();
    say(&mut out, &answer, args.output.output)?;
    out.flush()?;
    Ok(Exit::Ok)
}

fn say(out: &mut Out, answer: &Value, format: Format) -> anyhow::Result<()> {
    if format == Format::Json {
        return out.document(answer);
    }
    let action = &answer["action"];
    let needs = if action["state"] == "waiting" { ": a second person must approve it" } else { "" };
    out.text(&format!(
        "{} ({} of {}) is {}{needs}",
        field(action, "id"),
        field(action, "action"),
        field(action, "agent_id"),
        field(action, "state")
    ))
}
