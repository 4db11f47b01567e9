//! `sessions`: live sessions, listed, one by one, or as they change.

mod list;
mod show;
mod watch;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::Exit;
use super::client::Parameter;
use super::output::{Table, field, risk_style};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    List(list::ListArgs),
    Show(show::ShowArgs),
    Watch(watch::WatchArgs),
}

pub(super) async fn run(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::List(args) => list::run(args).await,
        Command::Show(args) => show::run(args).await,
        Command::Watch(args) => watch::run(args).await,
    }
}

/// Which sessions.
#[derive(Debug, Args)]
struct FilterArgs {
    /// Of this tenant.
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// Of this agent.
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// With this id.
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// With at least this risk score.
    #[arg(long, value_name = "SCORE")]
    min_risk: Option<f64>,
    /// Idle ones only.
    #[arg(long, conflicts_with = "active")]
    idle: bool,
    /// Active ones only.
    #[arg(long)]
    active: bool,
    /// With an event at or after this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
}

impl FilterArgs {
    fn query(self) -> Vec<Parameter<'static>> {
        let idle = match (self.idle, self.active) {
            (true, _) => Some("true".to_owned()),
            (_, true) => Some("false".to_owned()),
            _ => None,
        };
        vec![
            ("tenant_id", self.tenant),
            ("agent_id", self.agent),
            ("session_id", self.session),
            ("min_risk", self.min_risk.map(|risk| risk.to_string())),
            ("idle", idle),
            ("since", self.since),
        ]
    }
}

const COLUMNS: [&str; 10] =
    ["AGENT", "SESSION", "TENANT", "STATUS", "RISK", "EVENTS", "VIOLATIONS", "TARGETS", "ALERTS", "LAST SEEN"];

fn cells(session: &Value) -> [String; 10] {
    let names = ["agent_id", "session_id", "tenant_id", "status", "risk_score", "events", "violations"];
    let [agent, id, tenant, status, risk, events, violations] = names.map(|name| field(session, name));
    let targets = unique_targets(session);
    [
        agent,
        id,
        tenant,
        status,
        risk,
        events,
        violations,
        targets,
        field(session, "open_alerts"),
        field(session, "last_seen"),
    ]
}

/// The number of distinct targets, with a `~` where it is an estimate.
fn unique_targets(session: &Value) -> String {
    let estimate = session["unique_targets_exact"] == Value::Bool(false);
    format!("{}{}", if estimate { "~" } else { "" }, field(session, "unique_targets"))
}

fn table(sessions: &[Value]) -> Table {
    let mut table = Table::new(COLUMNS);
    for session in sessions {
        table.row(risk_style(session["risk_score"].as_f64().unwrap_or_default()), cells(session));
    }
    table
}
