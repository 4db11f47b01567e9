//! The judge's rows beside the store's. Knows no fault.

use std::collections::{BTreeMap, HashSet};

use anyhow::anyhow;
use clawdstrike_naive::{self as naive, Options, Outcome};
use clawdstrike_rules::plan::RuleSet;
use clawdstrike_rules::{SourceFile, compile};
use clawdstrike_telemetry::{decode, time};
use serde_json::{Map, Value, json};

use crate::database::Stored;

/// Differences that a failure shows of each kind.
const SHOWN: usize = 5;

/// What the database must end with.
pub(crate) struct Verdict {
    pub(crate) alerts: Vec<Value>,
    pub(crate) sessions: Vec<Value>,
    pub(crate) events: Vec<Value>,
}

/// The rule files as one set.
pub(crate) fn rules(files: &[(String, String)]) -> anyhow::Result<RuleSet> {
    let file = |(name, text): &(String, String)| SourceFile { name: name.clone(), text: text.clone() };
    let files: Vec<SourceFile> = files.iter().map(file).collect();
    compile(&files).map(|compiled| compiled.set).map_err(|errors| anyhow!("{errors}"))
}

impl Verdict {
    pub(crate) fn of(rules: &RuleSet, log: &[Vec<u8>], options: &Options) -> Verdict {
        let Outcome { alerts, sessions, .. } = naive::evaluate(rules, log, options);
        Verdict {
            alerts: alerts.iter().map(alert).collect(),
            sessions: sessions.iter().map(session).collect(),
            events: naive::events(log, options).iter().map(event).collect(),
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.alerts.len() + self.sessions.len() + self.events.len()
    }

    /// Alerts with evidence among these events and among others.
    pub(crate) fn across(&self, ids: &HashSet<String>) -> usize {
        let is_there = |event: &Value| event[0].as_str().is_some_and(|id| ids.contains(id));
        let evidence = |alert: &Value| alert["evidence"].as_array().cloned().unwrap_or_default();
        let is_across = |alert: &&Value| {
            let there = evidence(alert).iter().filter(|event| is_there(event)).count();
            (1..evidence(alert).len()).contains(&there)
        };
        self.alerts.iter().filter(is_across).count()
    }

    /// What is wrong with the store; empty: nothing.
    pub(crate) fn differences(&self, stored: &Stored) -> String {
        let alerts: Vec<Value> = stored.alerts.iter().map(stored_alert).collect();
        differences("alert", &self.alerts, &alerts)
            + &differences("session", &self.sessions, &stored.sessions)
            + &differences("event", &self.events, &stored.events)
    }
}

fn alert(alert: &naive::Alert) -> Value {
    let group: Map<String, Value> = alert.group.iter().cloned().collect();
    let evidence: Vec<Value> = alert.evidence.iter().map(|(id, step)| json!([id, step])).collect();
    json!({
        "rule_id": alert.rule_id,
        "tenant_id": alert.tenant_id,
        "group": group,
        "agent_id": alert.agent_id,
        "session_id": alert.session_id,
        "first_seen": time::format(alert.first_seen),
        "last_seen": time::format(alert.last_seen),
        "match_count": alert.match_count,
        "evidence": evidence,
    })
}

/// What the judge can say of a stored alert.
fn stored_alert(alert: &Value) -> Value {
    let names = ["rule_id", "tenant_id", "group", "agent_id", "session_id", "first_seen", "last_seen", "match_count"];
    let mut row: Map<String, Value> = names.iter().map(|name| ((*name).to_owned(), alert[name].clone())).collect();
    let evidence = alert["evidence"].as_array().into_iter().flatten().map(|e| json!([e["id"], e["step"]]));
    row.insert("evidence".to_owned(), evidence.collect());
    row.into()
}

fn session(life: &naive::Session) -> Value {
    json!({
        "tenant_id": life.tenant_id,
        "agent_id": life.agent_id,
        "session_id": life.session_id,
        "first_seen": time::format(life.first_seen),
        "last_seen": time::format(life.last_seen),
        "resumed": life.resumed,
        "events": life.events,
        "violations": life.violations,
        "unique_targets": life.unique_targets,
        "risk_score": life.risk_score,
    })
}

fn event((at, record): &(i64, Vec<u8>)) -> Value {
    // The judge keeps valid events only.
    let Ok(event) = decode(record) else { return Value::Null };
    json!({
        "time": time::format(*at),
        "tenant_id": event.tenant_id,
        "agent_id": event.agent_id,
        "session_id": event.session_id,
        "event_type": event.event_type.name(),
        "target": event.target,
        "allowed": event.allowed,
        "guard": event.guard,
        "severity": event.severity,
        "metadata": serde_json::from_slice::<Value>(record).unwrap_or_default(),
    })
}

/// Rows that only one side has, or more often; the order of rows and of keys says nothing.
fn differences(what: &str, judge: &[Value], store: &[Value]) -> String {
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    for (rows, by) in [(judge, 1), (store, -1)] {
        for row in rows {
            let mut row = row.clone();
            row.sort_all_objects();
            *counts.entry(row.to_string()).or_default() += by;
        }
    }
    let wrong: Vec<(String, i64)> = counts.into_iter().filter(|(_, count)| *count != 0).collect();
    let told = wrong.iter().take(SHOWN).map(|(row, count)| match count {
        1.. => format!("missing {what}: {row}\n"),
        _ => format!("unexpected {what}: {row}\n"),
    });
    let more = wrong.len().saturating_sub(SHOWN);
    told.chain((more > 0).then(|| format!("and {more} more of {what}s\n"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_is_missing_twice_over_or_changed_shows() {
        let [a, b] = [json!({"x": 1, "y": {"p": 1, "q": 2}}), json!({"x": 2})];
        let turned = json!({"y": {"q": 2, "p": 1}, "x": 1});
        assert_eq!(differences("row", &[a.clone(), b.clone()], &[b.clone(), turned.clone()]), "");
        assert!(differences("row", &[a.clone(), b.clone()], &[turned]).starts_with("missing row: {\"x\":2}"));
        assert!(
            differences("row", std::slice::from_ref(&b), &[b.clone(), b.clone()])
                .starts_with("unexpected row: {\"x\":2}")
        );
        assert_eq!(differences("row", &[a], &[json!({"x": 1})]).lines().count(), 2);
    }
}
