//! Runs tests of rules (docs/rules/tests.md) through the dataflow, as a replay runs files.

use std::collections::BTreeMap;
use std::sync::Arc;

use clawdstrike_rules::plan::RuleSet;
use clawdstrike_rules::rule_tests::{Expected, RuleTest, START};
use clawdstrike_telemetry::time;

use super::replay::{Outcome, Replay, run_fed};
use crate::alert::Alert;
use crate::config::Limits;
use crate::inbox::{BATCH_BYTES, Closed, Inboxes, Message, PartitionId, RecordBatch, RecordRef};
use crate::render::ingest::EPOCH_RECORDS;

/// The wall clock of tests: after every event that a test can have.
const NOW: i64 = START + 365 * 86_400 * 1_000_000;
/// The one partition.
const PARTITION: PartitionId = PartitionId { source: 0, partition: 0 };

/// Runs a test; gives what didn't come out as it expects, and the ids of the rules that raised alerts.
///
/// # Errors
/// The dataflow can't be run at all.
pub fn run(set: &RuleSet, test: &RuleTest) -> Result<(Vec<String>, Vec<String>), String> {
    let replay = Replay {
        files: Vec::new(),
        rules: set.clone(),
        workers: 1,
        limits: Limits::default(),
        now: NOW,
        changes: None,
        progress: Arc::default(),
    };
    let outcome = run_fed(replay, EPOCH_RECORDS, |inboxes| {
        // The workers have ended already if it can't be sent: then they say why.
        let _ended = feed(test, &inboxes);
    })?;
    let mut fired: Vec<String> = outcome.alerts.iter().map(|a| a.rule_id.clone()).collect();
    fired.sort_unstable();
    fired.dedup();
    Ok((compare(set, test, &outcome), fired))
}

fn feed(test: &RuleTest, inboxes: &Inboxes) -> Result<(), Closed> {
    let Some(inbox) = inboxes.of(PARTITION) else { return Ok(()) };
    inbox.send(Message::Assigned(PARTITION))?;
    inbox.send(Message::Listed(0))?;
    let mut batch =
        RecordBatch { partition: PARTITION, bytes: Vec::new(), records: Vec::new(), next_offset: 0, end: None };
    for (_, event) in &test.events {
        let start = batch.bytes.len();
        batch.bytes.extend_from_slice(event.to_string().as_bytes());
        let len = (batch.bytes.len() - start) as u32;
        batch.records.push(RecordRef { start: start as u32, len, offset: batch.next_offset, append: None });
        batch.next_offset += 1;
        if batch.bytes.len() >= BATCH_BYTES {
            let next = RecordBatch { bytes: Vec::new(), records: Vec::new(), ..batch };
            inbox.send(Message::Batch(std::mem::replace(&mut batch, next)))?;
        }
    }
    inbox.send(Message::Batch(batch))?;
    inbox.send(Message::Finished(PARTITION))?;
    inbox.send(Message::Ended(0))
}

fn compare(set: &RuleSet, test: &RuleTest, outcome: &Outcome) -> Vec<String> {
    let mut problems = Vec::new();
    for (reason, n) in &outcome.dead_letters {
        problems.push(format!("{n} of its events can't be read ({reason}): see the event schema"));
    }
    let mut raised: BTreeMap<&str, Vec<&Alert>> = BTreeMap::new();
    for alert in &outcome.alerts {
        raised.entry(&alert.rule_id).or_default().push(alert);
    }
    for expected in &test.expect {
        let known = set.rules.iter().any(|r| r.id == expected.rule);
        match raised.remove(expected.rule.as_str()) {
            Some(alerts) => differences(expected, &alerts, &mut problems),
            None if known => problems.push(format!("line {}: {} raised no alert", expected.line, expected.rule)),
            None => problems.push(format!(
                "line {}: no rule has the id {} (or it is disabled, or named twice here)",
                expected.line, expected.rule
            )),
        }
    }
    for (rule, alerts) in raised {
        let first = alerts[0];
        let targets: Vec<&str> = first.evidence.iter().map(|e| e.target.as_str()).collect();
        problems.push(format!(
            "{rule} raised {}, which the test doesn't expect; the first at {}, because of {}",
            if alerts.len() == 1 { "1 alert".to_owned() } else { format!("{} alerts", alerts.len()) },
            offset(first.first_seen - START),
            targets.join(", ")
        ));
    }
    problems
}

fn differences(expected: &Expected, alerts: &[&Alert], problems: &mut Vec<String>) {
    let Expected { rule, line, .. } = expected;
    let mut differ = |what: &str, wanted: Option<String>, found: String| {
        if let Some(wanted) = wanted.filter(|w| *w != found) {
            problems.push(format!("line {line}: {rule}: {what}: expected {wanted}, found {found}"));
        }
    };
    let first = alerts[0];
    differ("alerts", Some(expected.alerts.to_string()), alerts.len().to_string());
    differ("at", expected.at.map(offset), offset(first.first_seen - START));
    let matches: u64 = alerts.iter().map(|a| a.match_count).sum();
    differ("matches", expected.matches.map(|n| n.to_string()), matches.to_string());
    differ("evidence", expected.evidence.map(|n| n.to_string()), first.evidence.len().to_string());
}

/// A time after the start, in words of the test file.
fn offset(micros: i64) -> String {
    if micros % 1_000 != 0 || micros < 0 {
        return time::format(START.saturating_add(micros));
    }
    let millis = micros / 1_000;
    let parts =
        [(millis / 3_600_000, "h"), (millis / 60_000 % 60, "m"), (millis / 1_000 % 60, "s"), (millis % 1_000, "ms")];
    let text: String = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}
