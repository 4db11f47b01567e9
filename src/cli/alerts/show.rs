//! `alerts show`.

use anstyle::Style;
use clap::Args;
use serde_json::Value;

use crate::cli::client::{ApiArgs, Client};
use crate::cli::output::{Format, Out, Table, field, severity_style};
use crate::cli::{Exit, OutputArgs};

/// Show one alert with its evidence.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  clawdstrike-edr alerts show 4c3f1b52-8d7e-5a0b-9c1d-2e3f4a5b6c7d")]
pub(in crate::cli) struct ShowArgs {
    /// The alert's id, as `alerts list` prints it.
    alert_id: String,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: ShowArgs) -> anyhow::Result<Exit> {
    let answer = Client::new(args.api)?.get(&["alerts", &args.alert_id], &[]).await?;
    let mut out = Out::new();
    match args.output.output {
        Format::Json => out.document(&answer)?,
        Format::Table => show(&mut out, &answer["alert"])?,
    }
    out.flush()?;
    Ok(Exit::Ok)
}

const FACTS: [&str; 18] = [
    "alert_id",
    "rule_id",
    "rule_name",
    "rule_version",
    "severity",
    "status",
    "retracted_because",
    "superseded_by",
    "tenant_id",
    "agent_id",
    "session_id",
    "first_seen",
    "last_seen",
    "match_count",
    "risk_score",
    "shadow",
    "backfilled",
    "rule_removed",
];

fn show(out: &mut Out, alert: &Value) -> anyhow::Result<()> {
    let mut facts = Table::new(["ALERT", ""]);
    let mut fact = |name: &str, value: String| facts.row(Style::new(), [name.to_owned(), value]);
    for name in FACTS.into_iter().filter(|name| !alert[*name].is_null()) {
        fact(name, field(alert, name));
    }
    let group = alert["group"].as_object().into_iter().flatten();
    fact("group", group.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", "));
    for name in ["attack", "actions"] {
        let values = alert[name].as_array().into_iter().flatten();
        fact(name, values.filter_map(Value::as_str).collect::<Vec<_>>().join(", "));
    }
    out.table(&facts)?;
    out.line("")?;
    let mut evidence = Table::new(["EVIDENCE", "STEP", "TYPE", "ALLOWED", "TARGET", "EVENT"]);
    for event in alert["evidence"].as_array().into_iter().flatten() {
        let style = if event["allowed"] == Value::Bool(false) { severity_style("medium") } else { Style::new() };
        evidence.row(style, ["time", "step", "event_type", "allowed", "target", "id"].map(|name| field(event, name)));
    }
    out.table(&evidence)?;
    let Some(notes) = alert["handling"].as_array() else { return Ok(()) };
    out.line("")?;
    let mut table = Table::new(["HANDLED", "BY", "DEED", "COMMENT"]);
    for note in notes {
        table.row(Style::new(), ["time", "by", "deed", "comment"].map(|name| field(note, name)));
    }
    out.table(&table)
}
