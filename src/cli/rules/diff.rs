//! `rules diff`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use clawdstrike_telemetry::time;
use serde_json::{Value, json};

use super::count;
use super::live;
use super::past::PastArgs;
use crate::alert::Alert;
use crate::cli::client::ApiArgs;
use crate::cli::output::{Format, Out, Table, severity_style};
use crate::cli::replay::compile;
use crate::cli::{Exit, OutputArgs, block_on};
use crate::runtime::backtest::lead;

/// Without `--from` the span has at least this length: an hour.
const LEAST: i64 = 3_600_000_000;
/// What a version of an alert may have otherwise without being another: these say nothing of what was found.
const INCIDENTAL: [&str; 2] = ["rule_version", "risk_score"];

/// Tell which alerts a proposed rule set would add, remove and change: in a running cluster, or over past events.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  clawdstrike-edr rules diff proposed
  clawdstrike-edr rules diff rules/ai-threats.yaml mine.yaml --output json
  clawdstrike-edr rules diff proposed --against rules --events monday.jsonl
  clawdstrike-edr rules diff proposed --config workers.toml
  clawdstrike-edr rules diff proposed --from 2026-11-25T00:00:00Z --output json

With none of --against, --config, --events, --from, --to and --workers the running cluster is asked what `rules load` of these
files would do now. They are the whole set: open alerts of rules that aren't in it are touched, too. The cluster reads its live
window again for that, which may take up to 120 s; what it couldn't see is told on standard error (`incomplete` in JSON).

With one of them both sets run here, over the same past events; by default those of the store in the last hour, or in the longest
window of a rule if that is longer.

Nothing is loaded, acts or is stored. Exits with 1 if there is a difference.")]
pub(in crate::cli) struct DiffArgs {
    /// The proposed set: rule files, and folders of *.yaml and *.yml.
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// The set to compare with, over past events; by default, the rules of the configuration.
    #[arg(long, value_name = "PATH")]
    against: Vec<PathBuf>,
    #[command(flatten)]
    past: PastArgs,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: DiffArgs) -> anyhow::Result<Exit> {
    if args.against.is_empty() && !args.past.is_given() {
        return block_on(live::run(&args.paths, args.api, args.output.output));
    }
    let proposed = compile(&args.paths)?;
    let window = args.past.window(lead(&proposed).max(LEAST))?;
    let against = if args.against.is_empty() { vec![window.rules()] } else { args.against };
    let current = window.run(&compile(&against)?)?;
    let proposed = window.run(&proposed)?;
    let difference = Difference::of(&current.alerts, &proposed.alerts);
    let mut out = Out::new();
    match args.output.output {
        Format::Json => {
            let (from, to) = window.told();
            let mut json = difference.json();
            (json["from"], json["to"], json["events"]) = (json!(from), json!(to), json!(proposed.events));
            out.document(&json)?;
        }
        Format::Table => difference.print(&mut out, proposed.events)?,
    }
    out.flush()?;
    Ok(if difference.is_none() { Exit::Ok } else { Exit::Findings })
}

/// What another rule set changes.
#[derive(Debug, Default)]
struct Difference<'a> {
    added: Vec<&'a Alert>,
    removed: Vec<&'a Alert>,
    /// As it is, and as it would be.
    changed: Vec<(&'a Alert, &'a Alert)>,
    same: usize,
}

impl<'a> Difference<'a> {
    fn of(current: &'a [Alert], proposed: &'a [Alert]) -> Difference<'a> {
        let mut known: BTreeMap<&str, &Alert> = current.iter().map(|a| (a.alert_id.as_str(), a)).collect();
        let mut out = Difference::default();
        for alert in proposed {
            match known.remove(alert.alert_id.as_str()) {
                None => out.added.push(alert),
                Some(old) if found(old) == found(alert) => out.same += 1,
                Some(old) => out.changed.push((old, alert)),
            }
        }
        out.removed = current.iter().filter(|a| known.contains_key(a.alert_id.as_str())).collect();
        out
    }

    fn is_none(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }

    fn json(&self) -> Value {
        let all = |alerts: &[&Alert]| alerts.iter().map(|a| a.to_json()).collect::<Vec<_>>();
        let changed = self.changed.iter().map(|(old, new)| json!({"from": old.to_json(), "to": new.to_json()}));
        json!({
            "from": null,
            "to": null,
            "events": null,
            "added": all(&self.added),
            "removed": all(&self.removed),
            "changed": changed.collect::<Vec<_>>(),
            "same": self.same,
        })
    }

    fn print(&self, out: &mut Out, events: u64) -> anyhow::Result<()> {
        let mut table = Table::new(["", "FIRST SEEN", "SEVERITY", "RULE", "AGENT", "SESSION", "MATCHES", "EVIDENCE"]);
        let added = self.added.iter().map(|a| ("added", *a, a.match_count.to_string()));
        let removed = self.removed.iter().map(|a| ("removed", *a, a.match_count.to_string()));
        let matches = |old: &Alert, new: &Alert| format!("{} -> {}", old.match_count, new.match_count);
        let changed = self.changed.iter().map(|(old, new)| ("changed", *new, matches(old, new)));
        for (what, alert, matches) in added.chain(removed).chain(changed) {
            let evidence: Vec<&str> = alert.evidence.iter().map(|e| e.target.as_str()).collect();
            let shown = evidence.iter().rev().take(2).rev().copied().collect::<Vec<_>>().join(", ");
            let severity = alert.severity.name().to_owned();
            table.row(
                severity_style(&severity),
                [
                    what.to_owned(),
                    time::format(alert.first_seen),
                    severity.clone(),
                    alert.rule_id.clone(),
                    alert.agent_id.clone(),
                    alert.session_id.clone(),
                    matches,
                    if evidence.len() > 2 { format!("{} events, .. {shown}", evidence.len()) } else { shown },
                ],
            );
        }
        if !self.is_none() {
            out.table(&table)?;
            out.line("")?;
        }
        let (added, removed, changed) = (self.added.len(), self.removed.len(), self.changed.len());
        out.line(&format!(
            "{}: {added} added, {removed} removed, {changed} changed, {} as before",
            count(events as usize, "event", "events"),
            self.same
        ))
    }
}

/// What an alert says was found.
fn found(alert: &Alert) -> Value {
    let mut json = alert.to_json();
    if let Some(fields) = json.as_object_mut() {
        INCIDENTAL.iter().for_each(|name| drop(fields.remove(*name)));
    }
    json
}
