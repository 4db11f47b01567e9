//! Random records over a small alphabet, so that rules fire often and spellings meet.

use clawdstrike_telemetry::time;
use serde_json::{Value, json};

use super::dice::Dice;
use crate::SECOND;

pub(super) const TYPES: [&str; 7] = [
    "file_access",
    "file_write",
    "network_egress",
    "shell_command",
    "mcp_tool",
    "patch_apply",
    "prompt_injection_attempt",
];

const PATHS: [&str; 8] = [
    "/etc/passwd",
    "/tmp/../etc/passwd",
    "/etc//hosts",
    "/home/u/.ssh/id_rsa",
    "file:///home/u/.ssh/id%5Frsa",
    "/app/.env",
    "/tmp/a",
    "/proc/self/root/tmp/a/",
];
const HOSTS: [&str; 9] = [
    "api.openai.com:443",
    "https://u@API.openai.com/v1",
    "evil.io:443",
    "EVIL.io.",
    "evil.io:22",
    "api.github.com",
    "[::1]:22",
    "0x7f.1:22",
    "no host at all",
];
const TEXTS: [&str; 5] = ["ls", "ls -la", "whoami", "sudo whoami", "curl evil\nwhoami"];

/// Whose records a stream has; a few, so that groups fill.
pub(super) struct Cast {
    agents: usize,
    sessions: usize,
    tenants: bool,
}

/// The ids of a record's session.
#[derive(Clone, Debug)]
pub(super) struct Ids {
    tenant: Option<&'static str>,
    agent: &'static str,
    session: &'static str,
}

impl Cast {
    pub(super) fn of(seed: u64) -> Cast {
        let mut dice = Dice::of(seed, "cast", 0);
        Cast { agents: 1 + dice.below(3), sessions: 1 + dice.below(3), tenants: dice.chance(40) }
    }

    pub(super) fn ids(&self, dice: &mut Dice) -> Ids {
        let tenant = self.tenants && dice.chance(40);
        Ids {
            tenant: tenant.then(|| dice.one(&["t1", "t1", "t2"])),
            agent: dice.one(&["ag1", "ag2", "ag3"][..self.agents]),
            session: dice.one(&["s1", "s2", "S3"][..self.sessions]),
        }
    }
}

/// A valid record; without event_id if `anonymous` and chance say so.
pub(super) fn record(dice: &mut Dice, index: usize, ids: &Ids, timestamp: i64, anonymous: bool) -> Value {
    let event_type = dice.one(&TYPES);
    let targets: &[&str] = match event_type {
        "file_access" | "file_write" | "patch_apply" => &PATHS,
        "network_egress" => &HOSTS,
        _ => &TEXTS,
    };
    let mut record = json!({
        "agent_id": ids.agent,
        "session_id": ids.session,
        "timestamp": spelled(dice, timestamp),
        "event_type": event_type,
        "action": {"target": dice.one(targets)},
        "result": {"allowed": dice.chance(60)},
    });
    if !(anonymous && dice.chance(15)) {
        // At one time ids decide the order, so theirs isn't that of the index.
        let first = dice.one(&["a", "B", "z", "0", "é", "~"]);
        record["event_id"] = json!(format!("{first}{index}"));
    } else if dice.chance(30) {
        record["event_id"] = Value::Null;
    }
    if let Some(tenant) = ids.tenant {
        record["tenant_id"] = json!(tenant);
    }
    optional(dice, &mut record);
    record
}

fn optional(dice: &mut Dice, record: &mut Value) {
    if dice.chance(60) {
        record["result"]["guard"] = dice.one(&[json!("g1"), json!("g2"), json!(""), Value::Null]);
    }
    if dice.chance(70) {
        let severity = dice.one(&["info", "Critical", "HIGH", "high", "critical"]);
        record["result"]["severity"] = json!(severity);
    }
    if dice.chance(30) {
        record["result"]["message"] = json!(dice.one(&["", "denied", "\"quoted\" \u{1b}[31m é"]));
    }
    if dice.chance(40) {
        let command = dice.one(&["sudo whoami", "whoami", "ls", "cat i"]);
        record["action"]["args"] = json!({"command": command, "depth": [[1], {"a": null}]});
    }
    if dice.chance(40) {
        record["zone"] = json!(dice.one(&["eu", "us"]));
    }
    match dice.below(10) {
        0 => {}
        1 => record["context"] = dice.one(&[Value::Null, json!("text"), json!([1, 2])]),
        _ => record["context"] = context(dice),
    }
}

fn context(dice: &mut Dice) -> Value {
    let mut context = json!({});
    let values: [(&str, &[Value]); 5] = [
        ("n", &[json!(1), json!(1.0), json!(2), json!("1"), json!(true), json!(3.5), Value::Null, json!([1, 2])]),
        (
            "tags",
            &[json!(["prod", "red"]), json!(["dev"]), json!([]), json!("prod"), Value::Null, json!([["prod"], 7])],
        ),
        ("kind", &[json!("a"), json!("b"), json!("heartbeat")]),
        ("user", &[json!("u1"), json!("u2"), json!(["u1"])]),
        ("end", &[json!(true), json!(false)]),
    ];
    for (name, choices) in values {
        if dice.chance(55) {
            context[name] = dice.one(choices);
        }
    }
    context
}

/// One of the ways to write a time; all are read as the same microsecond.
fn spelled(dice: &mut Dice, timestamp: i64) -> String {
    let plain = time::format(timestamp);
    match dice.below(12) {
        0 => plain.replace('T', " "),
        1 => plain.to_lowercase(),
        2 => time::format(timestamp + 7_200 * SECOND).replace('Z', "+02:00"),
        3 => plain.replace('Z', "789-00:00"),
        4 => plain.replace(".000000", ""),
        _ => plain,
    }
}

/// A line that is no valid event: a valid record with something wrong, or no record at all.
pub(super) fn invalid(dice: &mut Dice, valid: &Value) -> Vec<u8> {
    let text = valid.to_string();
    let replaced = |name: &str, value: Value| {
        let mut record = valid.clone();
        record[name] = value;
        record.to_string()
    };
    match dice.below(13) {
        0 => return vec![0xff, b'{', b'}'],
        1 => "{\"agent_id\": ".to_owned(),
        2 => replaced("event_type", json!("coffee_break")),
        3 => replaced("event_id", json!("")),
        4 => replaced("timestamp", json!("yesterday")),
        5 => replaced("result", json!({"allowed": "yes"})),
        6 => replaced("agent_id", json!("bell\u{7}")),
        7 => replaced("session_id", Value::Null),
        8 => replaced("tenant_id", json!("")),
        9 => replaced("action", json!({"target": 7})),
        10 => text.replacen('{', "{\"agent_id\": \"ag1\", ", 1),
        11 => text.replacen('{', "{\"big\": 1e999, ", 1),
        _ => text.replacen('{', &format!("{{\"deep\": {}{}, ", "[".repeat(70), "]".repeat(70)), 1),
    }
    .into_bytes()
}
