//! Random matchers over the alphabet of [`super::records`].

use serde_json::{Map, Value, json};

use super::Level;
use super::dice::Dice;
use super::records::TYPES;

pub(super) const PATHS: [&str; 6] =
    ["**/.ssh/**|**/.env", "/etc/passwd|/etc/hosts", "/etc/*", ".*/[.]ssh/.*|/tmp/**", "/tmp/{a,b}", "**/*s*"];
pub(super) const HOSTS: [&str; 6] =
    ["*.openai.com|evil.io", "*.openai.com:443", "evil.io:*", "127.0.0.1|api.github.com", "*", "^evil.*:(22|443)$"];
pub(super) const TEXTS: [&str; 4] = [".*whoami.*|ls", "*whoami*", "ls*", "(sudo )?whoami"];

/// A matcher as a rule file writes it.
pub(super) fn matcher(dice: &mut Dice, level: Level) -> Map<String, Value> {
    let mut keys = Map::new();
    let kind = dice.one(&TYPES);
    match dice.below(10) {
        0 | 1 => keys.insert("event_type".into(), json!("any")),
        2 => keys.insert("event_type".into(), json!([kind, dice.one(&TYPES)])),
        _ => keys.insert("event_type".into(), json!(kind)),
    };
    if dice.chance(40) {
        let (key, value) = target(dice, kind);
        keys.insert(key.into(), value);
    }
    if dice.chance(25) {
        keys.insert("result.allowed".into(), json!(dice.chance(40)));
    }
    if dice.chance(12) {
        let severity = dice.one(&[json!("HIGH"), json!(["critical", "High"]), json!("info")]);
        keys.insert("result.severity".into(), severity);
    }
    if dice.chance(8) {
        keys.insert("result.guard".into(), json!(dice.one(&["g1", ""])));
    }
    if level == Level::Full && dice.chance(20) {
        let (key, value) = dice.one(&operators());
        keys.insert(key.into(), value);
    }
    keys
}

/// Patterns for the targets of this event type.
pub(super) fn patterns(kind: &str) -> &'static [&'static str] {
    match kind {
        "file_access" | "file_write" | "patch_apply" => &PATHS,
        "network_egress" => &HOSTS,
        _ => &TEXTS,
    }
}

fn target(dice: &mut Dice, kind: &str) -> (&'static str, Value) {
    let pattern = dice.one(patterns(kind));
    if dice.chance(60) {
        return ("target_pattern", json!(pattern));
    }
    // The explicit lists hold globs only.
    let globs: &[&str] = match kind {
        "network_egress" => &["*.openai.com", "api.github.com", "evil.io:22", "\\[::1\\]"],
        "shell_command" | "mcp_tool" | "prompt_injection_attempt" => &["ls*", "whoami"],
        _ => &["/tmp/**", "/etc/hosts", "**/.ssh/*"],
    };
    ("target_not_in", json!([dice.one(globs), dice.one(globs)]))
}

/// One example of each way to look at a field.
fn operators() -> Vec<(&'static str, Value)> {
    vec![
        ("context.n", json!(1)),
        ("context.n", json!({"gte": 1, "lt": 3})),
        ("context.n", json!({"gt": 1.5})),
        ("context.n", json!({"lte": 2})),
        ("context.n", json!({"not": 1})),
        ("context.n", json!([true, "1", 2])),
        ("context.tags", json!("prod")),
        ("context.tags", json!({"contains": "ro"})),
        ("context.tags", json!({"starts_with": "r", "ends_with": "v"})),
        ("context.tags", json!({"exists": true})),
        ("context.tags", json!({"exists": false})),
        ("context.tags", json!({"not": {"in": ["dev"]}})),
        ("context.tags", json!({"not": {"not": {"eq": "red"}}})),
        ("context.kind", json!({"in": ["a", "b"]})),
        ("context.kind", json!({"not": {"in": ["a"], "regex": "."}})),
        ("context.kind", json!("heartbeat")),
        ("context.end", json!(true)),
        ("action.args.command", json!({"regex": "wh.*i"})),
        ("action.args.command", json!({"ends_with": "i"})),
        ("action.target", json!("/tmp/../etc/passwd")),
        ("action.target", json!({"not": {"regex": "^/|://"}})),
        ("extra.zone", json!("eu")),
        ("extra.zone", json!({"not": "eu"})),
        ("tenant_id", json!({"exists": false})),
        ("event_id", json!({"exists": true})),
        ("session_id", json!("s1")),
        ("agent_id", json!({"in": ["ag1", "ag3"]})),
        ("target_regex", json!("(?i)EVIL|passwd$|^who")),
        ("target_glob", json!("/tmp/*")),
        ("target_in", json!(["*.openai.com", "/etc/**", "ls"])),
    ]
}
