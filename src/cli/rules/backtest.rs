//! `rules backtest`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anstyle::Style;
use clap::Args;
use clawdstrike_telemetry::time;
use serde_json::{Value, json};

use super::count;
use super::past::PastArgs;
use crate::alert::Alert;
use crate::cli::output::{Format, Out, Table, severity_style};
use crate::cli::replay::compile;
use crate::cli::{Exit, OutputArgs};
use crate::runtime::replay::Outcome;

/// Groups and targets that the report names.
const LOUDEST: usize = 10;
/// Without `--from`: a day.
const LAST: i64 = 86_400_000_000;

/// Run rules over past events, from the cluster's store or from files, and report what they would have raised.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  clawdstrike-edr rules backtest rules/new.yaml --from 2026-11-01T00:00:00Z --to 2026-11-08T00:00:00Z
  clawdstrike-edr rules backtest rules --events monday.jsonl --events tuesday.jsonl
  clawdstrike-edr rules backtest rules --alerts --output json

The report has alerts by day and rule, the groups with most alerts, and the targets that prove most of them. What matches at the
beginning of the span may need is read too. Nothing acts, and nothing is stored; a running cluster may go on.")]
pub(in crate::cli) struct BacktestArgs {
    /// Rule files, and folders of *.yaml and *.yml.
    #[arg(value_name = "PATH", default_value = "rules")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    past: PastArgs,
    /// Print every alert too.
    #[arg(long)]
    alerts: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: BacktestArgs) -> anyhow::Result<Exit> {
    let rules = compile(&args.paths)?;
    let window = args.past.window(LAST)?;
    let outcome = window.run(&rules)?;
    let report = Report::of(&outcome.alerts);
    let mut out = Out::new();
    match args.output.output {
        Format::Json => {
            let (from, to) = window.told();
            let mut json = report.json(&outcome);
            (json["from"], json["to"]) = (json!(from), json!(to));
            if args.alerts {
                json["alerts"] = outcome.alerts.iter().map(Alert::to_json).collect();
            }
            out.document(&json)?;
        }
        Format::Table => {
            report.print(&mut out, &outcome)?;
            if args.alerts {
                out.line("")?;
                out.table(&crate::cli::replay::alert_table(&outcome.alerts))?;
            }
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}

/// A rule and one of its groups, and how many alerts and matches it has.
type OfGroup<'a> = ((&'a str, String), (u64, u64));

/// What there is to say of alerts in all.
struct Report<'a> {
    /// By day (UTC) and rule.
    days: BTreeMap<(String, &'a str), u64>,
    /// Severity by rule.
    severity: BTreeMap<&'a str, String>,
    /// Those with most alerts.
    groups: Vec<OfGroup<'a>>,
    /// Pieces of evidence by target.
    targets: Vec<(&'a str, u64)>,
}

impl<'a> Report<'a> {
    fn of(alerts: &'a [Alert]) -> Report<'a> {
        let mut days: BTreeMap<_, u64> = BTreeMap::new();
        let mut groups: BTreeMap<_, (u64, u64)> = BTreeMap::new();
        let mut targets: BTreeMap<&str, u64> = BTreeMap::new();
        let mut severity = BTreeMap::new();
        for alert in alerts {
            let rule = alert.rule_id.as_str();
            let day = time::format(alert.first_seen).chars().take(10).collect();
            *days.entry((day, rule)).or_default() += 1;
            severity.insert(rule, alert.severity.name().to_owned());
            let of_group = groups.entry((rule, group(alert))).or_default();
            *of_group = (of_group.0 + 1, of_group.1 + alert.match_count);
            alert.evidence.iter().for_each(|e| *targets.entry(&e.target).or_default() += 1);
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        groups.truncate(LOUDEST);
        let mut targets: Vec<_> = targets.into_iter().collect();
        targets.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        targets.truncate(LOUDEST);
        Report { days, severity, groups, targets }
    }

    fn json(&self, outcome: &Outcome) -> Value {
        let days = self.days.iter().map(|((day, rule), n)| json!({"day": day, "rule_id": rule, "alerts": n}));
        let groups = self.groups.iter().map(|((rule, group), (alerts, matches))| {
            json!({"rule_id": rule, "group": group, "alerts": alerts, "matches": matches})
        });
        let targets = self.targets.iter().map(|(target, n)| json!({"target": target, "evidence": n}));
        json!({
            "from": null,
            "to": null,
            "events": outcome.events,
            "dead_letters": outcome.dead_letters,
            "total": outcome.alerts.len(),
            "per_day": days.collect::<Vec<_>>(),
            "top_groups": groups.collect::<Vec<_>>(),
            "loudest_targets": targets.collect::<Vec<_>>(),
        })
    }

    fn print(&self, out: &mut Out, outcome: &Outcome) -> anyhow::Result<()> {
        let events = count(outcome.events as usize, "event", "events");
        out.line(&format!("{} of {events}", count(outcome.alerts.len(), "alert", "alerts")))?;
        if outcome.alerts.is_empty() {
            return Ok(());
        }
        let mut days = Table::new(["DAY", "RULE", "ALERTS"]);
        for ((day, rule), n) in &self.days {
            let style = severity_style(self.severity.get(rule).map_or("", String::as_str));
            days.row(style, [day.clone(), (*rule).to_owned(), n.to_string()]);
        }
        let mut groups = Table::new(["RULE", "GROUP", "ALERTS", "MATCHES"]);
        for ((rule, group), (alerts, matches)) in &self.groups {
            groups.row(Style::new(), [(*rule).to_owned(), group.clone(), alerts.to_string(), matches.to_string()]);
        }
        let mut targets = Table::new(["TARGET", "EVIDENCE"]);
        for (target, n) in &self.targets {
            targets.row(Style::new(), [(*target).to_owned(), n.to_string()]);
        }
        for table in [days, groups, targets] {
            out.line("")?;
            out.table(&table)?;
        }
        Ok(())
    }
}

/// A group in one line: the tenant, if there is one, and the `by` fields.
fn group(alert: &Alert) -> String {
    let tenant = Some(format!("tenant_id {}", json!(alert.tenant_id))).filter(|_| !alert.tenant_id.is_empty());
    let fields = alert.group.iter().map(|(name, value)| format!("{name} {value}"));
    tenant.into_iter().chain(fields).collect::<Vec<_>>().join(", ")
}
