//! `rules diff` of a running cluster: what `rules load` of these files would do now.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::load::{not_compiled, print_diagnostics};
use super::{count, tell_others};
use crate::cli::Exit;
use crate::cli::client::{ApiArgs, Client, Refused};
use crate::cli::output::{Format, Out, Table, field, severity_style, tell};
use crate::rule_files;

/// Above what the engine takes for it.
const SILENCE: Duration = Duration::from_secs(150);
/// Targets of evidence that a row shows.
const TARGETS: usize = 2;

pub(super) async fn run(paths: &[PathBuf], api: ApiArgs, format: Format) -> anyhow::Result<Exit> {
    let files = rule_files::read(paths).map_err(anyhow::Error::msg)?;
    files.check().map_err(anyhow::Error::msg)?;
    tell_others(&files);
    let body = json!({
        "files": files.files.iter().map(|f| json!({"name": f.name, "text": f.text})).collect::<Vec<_>>(),
    });
    let mut out = Out::new();
    let exit = match Client::patient(api, SILENCE)?.post(&["rules", "diff"], &body).await {
        Ok(foretold) => {
            for why in foretold["incomplete"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                tell(&format!("warning: incomplete: {why}"));
            }
            match format {
                Format::Json => out.document(&foretold)?,
                Format::Table => print(&mut out, &foretold)?,
            }
            match ["added", "removed", "changed"].iter().all(|kind| foretold["total"][*kind] == 0) {
                true => Exit::Ok,
                false => Exit::Findings,
            }
        }
        Err(error) => match error.downcast::<Refused>()? {
            refused if refused.body["diagnostics"].is_array() => {
                not_compiled(&mut out, format, &refused)?;
                Exit::Findings
            }
            refused => return Err(refused.into()),
        },
    };
    out.flush()?;
    Ok(exit)
}

fn print(out: &mut Out, foretold: &Value) -> anyhow::Result<()> {
    print_diagnostics(out, &foretold["warnings"])?;
    let rows = |kind: &str| foretold[kind].as_array().cloned().unwrap_or_default();
    let mut table =
        Table::new(["", "FIRST SEEN", "SEVERITY", "RULE", "AGENT", "SESSION", "MATCHES", "EVIDENCE", "BECOMES"]);
    let mut shown = 0;
    let mut row = |what: &str, alert: &Value, becomes: String| {
        shown += 1;
        let severity = field(alert, "severity");
        table.row(
            severity_style(&severity),
            [
                what.to_owned(),
                field(alert, "first_seen"),
                severity.clone(),
                field(alert, "rule_id"),
                field(alert, "agent_id"),
                field(alert, "session_id"),
                field(alert, "match_count"),
                evidence(alert),
                becomes,
            ],
        );
    };
    rows("added").iter().for_each(|alert| row("added", alert, String::new()));
    for pair in rows("removed") {
        let to = &pair["to"];
        let because = field(to, "retracted_because");
        let because = if because.is_empty() { String::new() } else { format!(": {because}") };
        row("removed", &pair["from"], format!("{}{because}", field(to, "status")));
    }
    rows("changed").iter().for_each(|pair| row("changed", &pair["to"], becomes(pair)));
    if shown > 0 {
        out.table(&table)?;
        out.line("")?;
    }
    let total = |kind: &str| foretold["total"][kind].as_u64().unwrap_or_default();
    let (added, removed, changed, same) = (total("added"), total("removed"), total("changed"), total("same"));
    let more = added + removed + changed - (shown as u64).min(added + removed + changed);
    if more > 0 {
        out.line(&format!("and {} that aren't shown", count(more as usize, "alert", "alerts")))?;
    }
    out.line(&format!(
        "as of epoch {}: {added} added, {removed} removed, {changed} changed, {same} as before",
        field(foretold, "as_of")
    ))
}

/// The last targets that prove an alert.
fn evidence(alert: &Value) -> String {
    let all: Vec<&str> =
        alert["evidence"].as_array().into_iter().flatten().filter_map(|e| e["target"].as_str()).collect();
    let last = all[all.len().saturating_sub(TARGETS)..].join(", ");
    if all.len() > TARGETS { format!("{} events, .. {last}", all.len()) } else { last }
}

/// What an alert would say otherwise: fields by name, with their values where these are short.
fn becomes(pair: &Value) -> String {
    let (from, to) = (&pair["from"], &pair["to"]);
    let names = [from, to].into_iter().filter_map(Value::as_object).flat_map(|fields| fields.keys());
    let mut names: Vec<&String> = names.filter(|name| from[name.as_str()] != to[name.as_str()]).collect();
    names.sort();
    names.dedup();
    let told = names.into_iter().map(|name| match &to[name.as_str()] {
        Value::Array(_) | Value::Object(_) => name.clone(),
        Value::Null => format!("no {name}"),
        _ => format!("{name} {}", field(to, name)),
    });
    told.collect::<Vec<_>>().join(", ")
}
