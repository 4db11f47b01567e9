//! `alerts`: alerts of the live view, listed, one by one, or as they happen; and what analysts do with them.

mod handle;
mod list;
mod show;
mod watch;

use clap::{Args, Subcommand, ValueEnum};

use super::Exit;
use super::client::Parameter;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    List(list::ListArgs),
    Show(show::ShowArgs),
    Watch(watch::WatchArgs),
    Ack(handle::AckArgs),
    Close(handle::CloseArgs),
    Comment(handle::CommentArgs),
}

pub(super) async fn run(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::List(args) => list::run(args).await,
        Command::Show(args) => show::run(args).await,
        Command::Watch(args) => watch::run(args).await,
        Command::Ack(args) => handle::acknowledge(args).await,
        Command::Close(args) => handle::close(args).await,
        Command::Comment(args) => handle::comment(args).await,
    }
}

/// Which alerts.
#[derive(Debug, Args)]
struct FilterArgs {
    /// Of this tenant.
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// Of this rule.
    #[arg(long, value_name = "ID")]
    rule: Option<String>,
    /// Of this agent.
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Of this session.
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Of at least this severity.
    #[arg(long, value_enum)]
    min_severity: Option<Severity>,
    /// With this status. Without it lists leave retracted alerts out, and watches show all.
    #[arg(long, value_enum)]
    status: Option<Status>,
    /// With a match at or after this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Severity {
    Info,
    Low,
    Medium,
    High,
    Critical,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Status {
    Open,
    Updated,
    Retracted,
    Acknowledged,
    Closed,
}

impl FilterArgs {
    fn query(self) -> Vec<Parameter<'static>> {
        vec![
            ("tenant_id", self.tenant),
            ("rule_id", self.rule),
            ("agent_id", self.agent),
            ("session_id", self.session),
            ("min_severity", self.min_severity.map(|s| format!("{s:?}").to_lowercase())),
            ("status", self.status.map(|s| format!("{s:?}").to_lowercase())),
            ("since", self.since),
        ]
    }
}
