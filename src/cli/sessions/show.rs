//! `sessions show`.

use anstyle::Style;
use clap::Args;
use serde_json::Value;

use crate::cli::client::{ApiArgs, Client};
use crate::cli::output::{Format, Out, Table, field, severity_style};
use crate::cli::{Exit, OutputArgs};

/// Show one session, every live life of it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  clawdstrike-edr sessions show agent-7 session-42 --output json")]
pub(in crate::cli) struct ShowArgs {
    /// Whose session.
    agent: String,
    /// Which.
    session: String,
    /// Of this tenant; without it, of none.
    #[arg(long, value_name = "ID", default_value = "")]
    tenant: String,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: ShowArgs) -> anyhow::Result<Exit> {
    let (agent, session) = (args.agent, args.session);
    let client = Client::new(args.api)?;
    let answer = if is_dots(&agent) || is_dots(&session) {
        // URLs can't carry such a segment, whatever its encoding; the list's filter can.
        let query = [
            ("tenant_id", Some(args.tenant)),
            ("agent_id", Some(agent.clone())),
            ("session_id", Some(session.clone())),
        ];
        let answer = client.get(&["sessions"], &query).await?;
        anyhow::ensure!(
            answer["total"] != 0,
            "session \"{session}\" of agent \"{agent}\" is not in the live view; `sessions list` shows what is"
        );
        answer
    } else {
        client.get(&["sessions", &agent, &session], &[("tenant_id", Some(args.tenant))]).await?
    };
    let mut out = Out::new();
    match args.output.output {
        Format::Json => out.document(&answer)?,
        Format::Table => {
            for life in answer["sessions"].as_array().into_iter().flatten() {
                show(&mut out, life)?;
            }
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}

fn is_dots(segment: &str) -> bool {
    segment == "." || segment == ".."
}

fn show(out: &mut Out, life: &Value) -> anyhow::Result<()> {
    let mut facts = Table::new(["SESSION", ""]);
    let mut fact = |name: &str, value: String| facts.row(Style::new(), [name.to_owned(), value]);
    for name in ["tenant_id", "agent_id", "session_id", "status", "resumed", "risk_score", "events", "violations"] {
        fact(name, field(life, name));
    }
    let by_type = life["by_type"].as_object().into_iter().flatten();
    fact("by_type", by_type.map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", "));
    fact("unique_targets", super::unique_targets(life));
    for name in ["first_seen", "last_seen", "open_alerts"] {
        fact(name, field(life, name));
    }
    let flags = life["flags"].as_array().into_iter().flatten();
    fact("flags", flags.filter_map(Value::as_str).collect::<Vec<_>>().join(", "));
    out.table(&facts)?;
    out.line("")?;
    let mut events = Table::new(["LAST EVENTS", "TYPE", "ALLOWED", "TARGET"]);
    for event in life["last_events"].as_array().into_iter().flatten() {
        let style = if event["allowed"] == Value::Bool(false) { severity_style("medium") } else { Style::new() };
        events.row(style, ["time", "event_type", "allowed", "target"].map(|name| field(event, name)));
    }
    out.table(&events)?;
    out.line("")
}
