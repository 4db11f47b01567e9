//! Short ways to write streams and to read outcomes.

use clawdstrike_naive::{Alert, Options, Outcome, evaluate};
use clawdstrike_rules::plan::RuleSet;
use clawdstrike_rules::{SourceFile, compile};
use clawdstrike_telemetry::time;
use serde_json::{Value, json};

/// 2024-05-06 (a Monday) 10:00:00 UTC.
pub(crate) const BASE: i64 = 1_714_989_600_000_000;

/// A record of agent `ag1`, session `s1`, so many milliseconds after [`BASE`]; target `t`, allowed.
pub(crate) fn at(millis: i64, id: &str, event_type: &str) -> Record {
    at_micros(millis * 1000, id, event_type)
}

/// The same in microseconds.
pub(crate) fn at_micros(micros: i64, id: &str, event_type: &str) -> Record {
    Record(json!({
        "event_id": id,
        "agent_id": "ag1",
        "session_id": "s1",
        "timestamp": time::format(BASE + micros),
        "event_type": event_type,
        "action": {"target": "t"},
        "result": {"allowed": true},
    }))
}

/// A record under construction.
#[derive(Clone)]
pub(crate) struct Record(Value);

impl Record {
    /// Sets a field by its dotted path; null takes it away.
    pub(crate) fn set(mut self, path: &str, value: impl Into<Value>) -> Record {
        let mut place = &mut self.0;
        for name in path.split('.') {
            place = &mut place[name];
        }
        *place = value.into();
        self
    }

    pub(crate) fn target(self, target: &str) -> Record {
        self.set("action.target", target)
    }

    pub(crate) fn denied(self) -> Record {
        self.set("result.allowed", false)
    }
}

/// The records as a file of lines.
pub(crate) fn file(records: &[Record]) -> Vec<u8> {
    records.iter().map(|record| format!("{}\n", record.0)).collect::<String>().into_bytes()
}

/// A set of one rule `R` with this condition, and perhaps further keys of the rule (each begins with a comma).
pub(crate) fn rule(condition: &str, more: &str) -> RuleSet {
    set(&format!("rules: [{{id: R, name: n, severity: low, conditions: [{condition}]{more}}}]"))
}

/// A set from YAML.
pub(crate) fn set(text: &str) -> RuleSet {
    let file = SourceFile { name: "rules.yaml".to_owned(), text: text.to_owned() };
    compile(&[file]).unwrap_or_else(|errors| panic!("{errors}\n{text}")).set
}

/// The outcome with defaults.
pub(crate) fn outcome(set: &RuleSet, files: &[Vec<u8>]) -> Outcome {
    evaluate(set, files, &Options::default())
}

/// The alerts of one file of records, as [`shown`].
pub(crate) fn alerts(set: &RuleSet, records: &[Record]) -> Vec<String> {
    let outcome = outcome(set, &[file(records)]);
    outcome.alerts.iter().map(shown).collect()
}

/// `rule first-last xcount: evidence`, times in milliseconds after [`BASE`], evidence `id/step`.
pub(crate) fn shown(alert: &Alert) -> String {
    let millis = |time: i64| (time - BASE) as f64 / 1000.0;
    let evidence: Vec<_> = alert.evidence.iter().map(|(id, step)| format!("{id}/{step}")).collect();
    format!(
        "{} {}-{} x{}: {}",
        alert.rule_id,
        millis(alert.first_seen),
        millis(alert.last_seen),
        alert.match_count,
        evidence.join(" ")
    )
}
