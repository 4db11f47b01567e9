//! `alerts ack`, `alerts close`, `alerts comment`.

use clap::Args;
use serde_json::json;

use crate::cli::client::{ApiArgs, Client};
use crate::cli::output::{Format, Out, field};
use crate::cli::{Exit, OutputArgs};

/// Acknowledge an alert: somebody has seen it, and takes care of it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  clawdstrike-edr alerts ack 4c3f1b52-8d7e-5a0b-9c1d-2e3f4a5b6c7d --comment 'mine'")]
pub(in crate::cli) struct AckArgs {
    #[command(flatten)]
    handle: HandleArgs,
}

/// Close an alert: it is done with. A further match opens it again.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  clawdstrike-edr alerts close 4c3f1b52-8d7e-5a0b-9c1d-2e3f4a5b6c7d --comment 'a test of ours'"
)]
pub(in crate::cli) struct CloseArgs {
    #[command(flatten)]
    handle: HandleArgs,
}

#[derive(Debug, Args)]
struct HandleArgs {
    /// The alert's id, as `alerts list` prints it.
    alert_id: String,
    /// What there is to say, kept with the alert.
    #[arg(long, value_name = "TEXT", default_value = "")]
    comment: String,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Say something about an alert; it is kept with it.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  clawdstrike-edr alerts comment 4c3f1b52-8d7e-5a0b-9c1d-2e3f4a5b6c7d 'asked the team'"
)]
pub(in crate::cli) struct CommentArgs {
    /// The alert's id, as `alerts list` prints it.
    alert_id: String,
    /// What there is to say.
    comment: String,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn acknowledge(args: AckArgs) -> anyhow::Result<Exit> {
    handle("acknowledge", args.handle).await
}

pub(super) async fn close(args: CloseArgs) -> anyhow::Result<Exit> {
    handle("close", args.handle).await
}

pub(super) async fn comment(args: CommentArgs) -> anyhow::Result<Exit> {
    let CommentArgs { alert_id, comment, api, output } = args;
    handle("comment", HandleArgs { alert_id, comment, api, output }).await
}

async fn handle(deed: &str, args: HandleArgs) -> anyhow::Result<Exit> {
    let body = json!({"comment": args.comment});
    let answer = Client::new(args.api)?.post(&["alerts", &args.alert_id, deed], &body).await?;
    let mut out = Out::new();
    match args.output.output {
        Format::Json => out.document(&answer)?,
        Format::Table => {
            let alert = &answer["alert"];
            out.line(&format!("{} is {}", field(alert, "alert_id"), field(alert, "status")))?;
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}
