//! A run's records: generated ones in so many partitions, with records for rules that come later put among them.

use std::collections::HashSet;

use clawdstrike_naive::generate::{Case, Level, Sizes, case};
use clawdstrike_naive::{Options, SECOND};
use clawdstrike_telemetry::{decode, time};
use serde_json::{Value, json};

const RULES: usize = 6;
const RECORDS: usize = 600;
const HOUR: i64 = 3_600 * SECOND;
/// Longer than any stream.
const WEEK: i64 = 7 * 24 * HOUR;

/// Rules and records of a run, and how far the records are written.
pub(crate) struct Stream {
    pub(crate) rules: String,
    pub(crate) options: Options,
    partitions: Vec<Vec<u8>>,
    written: Vec<usize>,
}

impl Stream {
    pub(crate) fn generate(seed: u64, partitions: usize) -> Stream {
        // Ids for all: a broker's positions aren't those of a file.
        let sizes =
            Sizes { rules: RULES, records: RECORDS, files: partitions, anonymous: false, disorder: true, untimely: 0 };
        let Case { rules, files, mut options } = case(seed, Level::Full, &sizes);
        if partitions > 1 {
            // A partition that nobody writes to just now holds nothing back: what comes there next must not be too late.
            options.max_lateness = WEEK;
        }
        options.dedup_window = options.dedup_window.max(options.max_lateness);
        let rules = rules.replace("\"actions\":[\"alert\"]", &format!("\"actions\":{}", actions()));
        Stream { rules, options, written: vec![0; files.len()], partitions: files }
    }

    /// The `[limits]` that the judge goes by.
    pub(crate) fn settings(&self) -> String {
        let seconds = |micros: i64| format!("\"{}s\"", micros / SECOND);
        let Options { max_lateness, max_skew, dedup_window, session_retention, evidence_limit, .. } = self.options;
        format!(
            "[limits]\nmax_lateness = {}\nmax_skew = {}\ndedup_window = {}\nsession_retention = {}\nevidence_limit = {evidence_limit}\n",
            seconds(max_lateness),
            seconds(max_skew),
            seconds(dedup_window),
            seconds(session_retention),
        )
    }

    /// What to write next to each partition: the same share of what is left of all, if so many shares are left. Cut anywhere,
    /// also within a line.
    pub(crate) fn next(&mut self, shares: usize) -> Vec<Vec<u8>> {
        let share = |(bytes, written): (&Vec<u8>, &mut usize)| {
            let from = *written;
            *written += (bytes.len() - from) / shares;
            bytes[from..*written].to_vec()
        };
        self.partitions.iter().zip(&mut self.written).map(share).collect()
    }

    /// Ids of the events written so far.
    pub(crate) fn ids(&self) -> HashSet<String> {
        let written =
            self.partitions.iter().zip(&self.written).flat_map(|(bytes, n)| bytes[..*n].split(|b| *b == b'\n'));
        written.filter_map(|line| decode(line).ok()?.event_id.map(|id| id.to_string())).collect()
    }

    /// A rule that no record was for so far, and records for it among those that aren't written yet; its id and its text.
    pub(crate) fn add_rule(&mut self, number: usize) -> (String, String) {
        let partition = number % self.partitions.len();
        let written = self.written[partition];
        // The second waits for as long as it can.
        let middle = written + (self.partitions[partition].len() - written) / 2;
        for (step, at) in [("b", middle), ("a", written)] {
            self.insert(partition, at, &format!("reloaded-{number}"), step);
        }
        let id = format!("RELOADED_{number}");
        let step =
            |step: &str| json!({"event_type": "file_access", "target_glob": format!("/reloaded-{number}/{step}")});
        let condition = json!({"type": "sequence", "window": "7d", "events": [step("a"), step("b")]});
        let rule = json!({"id": id, "name": id, "severity": "high", "conditions": [condition], "actions": actions()});
        (id, json!({"rules": [rule]}).to_string())
    }

    /// Puts a record at the first beginning of a line from `at` on; as late as any before it.
    fn insert(&mut self, partition: usize, at: usize, session: &str, step: &str) {
        let bytes = &mut self.partitions[partition];
        let rest = bytes[at..].iter().position(|b| *b == b'\n');
        let at = rest.map_or(bytes.len(), |n| at + n + 1);
        let timestamp = latest(&bytes[..at]).or_else(|| latest(bytes)).unwrap_or_default();
        let record = record(&format!("{session}-{step}"), session, timestamp, &format!("/{session}/{step}"));
        bytes.splice(at..at, record.into_bytes());
    }

    /// For each partition a record that is later than anything waits for, when everything else is read.
    pub(crate) fn ends(&self) -> Vec<Vec<u8>> {
        let latest = self.partitions.iter().filter_map(|bytes| latest(bytes)).max().unwrap_or_default();
        let after = latest + self.options.max_lateness + HOUR;
        let end = |n| record(&format!("end-{n}"), "end", after, "/end").into_bytes();
        (0..self.partitions.len()).map(end).collect()
    }
}

/// What every rule asks for: a line in the log, the SOC, and the agents' platform with and without a body.
fn actions() -> Value {
    json!(["alert", "alert_soc", "terminate_session", {"quarantine_agent": {"duration": "2h"}}])
}

fn latest(lines: &[u8]) -> Option<i64> {
    lines.split(|b| *b == b'\n').filter_map(|line| decode(line).ok().map(|event| event.timestamp)).max()
}

/// An event that was allowed, as a line.
fn record(id: &str, session: &str, at: i64, target: &str) -> String {
    let record: Value = json!({
        "event_id": id, "agent_id": session, "session_id": session, "timestamp": time::format(at),
        "event_type": "file_access", "action": {"target": target},
        "result": {"allowed": true, "guard": "g", "severity": "info", "message": ""}, "context": {},
    });
    record.to_string() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_make_up_the_whole_and_records_of_a_new_rule_come_after_it() {
        let mut stream = Stream::generate(1, 1);
        let mut written = stream.next(3).concat();
        let before = written.len();
        stream.add_rule(0);
        written.extend((1..=2).rev().flat_map(|shares| stream.next(shares).concat()));
        assert_eq!(written, stream.partitions[0]);
        let text = String::from_utf8_lossy(&written);
        let [first, second] =
            ["reloaded-0-a", "reloaded-0-b"].map(|id| text.find(id).expect("a record of the new rule"));
        assert!(before < first && first < second);
        let decoded = |bytes: &[u8]| bytes.split(|b| *b == b'\n').filter(|line| decode(line).is_ok()).count();
        assert_eq!(decoded(&written), decoded(&Stream::generate(1, 1).partitions[0]) + 2, "no line was cut");
    }
}
