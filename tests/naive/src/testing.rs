//! Helpers of this crate's own unit tests.

use clawdstrike_rules::plan::RuleSet;
use clawdstrike_rules::{SourceFile, compile as compile_files};
use clawdstrike_telemetry::time;
use serde_json::json;

/// 2024-05-06 (a Monday) 10:00:00 UTC.
pub(crate) const BASE: i64 = 1_714_989_600_000_000;

/// The set of one file of rules.
pub(crate) fn compile(text: &str) -> RuleSet {
    let file = SourceFile { name: "rules.yaml".to_owned(), text: text.to_owned() };
    compile_files(&[file]).unwrap_or_else(|errors| panic!("{errors}\n{text}")).set
}

/// A file of records of one session: microseconds after [`BASE`], event_id, event type.
pub(crate) fn lines(records: &[(i64, String, &str)]) -> Vec<u8> {
    let mut file = Vec::new();
    for (at, id, event_type) in records {
        let record = json!({
            "event_id": id,
            "agent_id": "ag1",
            "session_id": "s1",
            "timestamp": time::format(BASE + at),
            "event_type": event_type,
            "action": {"target": "t"},
            "result": {"allowed": true},
        });
        file.extend(record.to_string().into_bytes());
        file.push(b'\n');
    }
    file
}
