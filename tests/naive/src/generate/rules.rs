//! Random rule files.

use clawdstrike_telemetry::time;
use serde_json::{Map, Value, json};

use super::dice::Dice;
use super::matchers::{matcher, patterns};
use super::records::TYPES;
use super::{Level, start};
use crate::SECOND;

/// Short, so that streams meet their edges.
const WINDOWS: [&str; 8] = ["1s", "2s", "3s", "5s", "10s", "30s", "1m", "2m"];

pub(super) fn file(seed: u64, level: Level, count: usize) -> String {
    let mut text = String::from("rules:\n");
    for index in 0..count {
        let mut dice = Dice::of(seed, "rule", index);
        text += &format!("  - {}\n", rule(&mut dice, level, index));
    }
    let mut dice = Dice::of(seed, "allowlist", 0);
    let entries = match level {
        Level::Subset => dice.below(2),
        Level::Full => dice.below(4),
    };
    if entries > 0 {
        text += "allowlist:\n";
    }
    for _ in 0..entries {
        text += &format!("  - {}\n", allow_entry(&mut dice, level, seed));
    }
    text
}

fn rule(dice: &mut Dice, level: Level, index: usize) -> Value {
    let conditions = match level {
        Level::Full if dice.chance(30) => 2 + usize::from(dice.chance(20)),
        _ => 1,
    };
    let mut rule = json!({
        "id": format!("R{index}"),
        "name": format!("rule {index}"),
        "severity": dice.one(&["info", "low", "medium", "high", "critical"]),
        "conditions": (0..conditions).map(|nth| condition(dice, level, nth, conditions)).collect::<Vec<_>>(),
        "actions": ["alert"],
    });
    if let Some(by) = by(dice, level) {
        rule["by"] = by;
    }
    if dice.chance(60) {
        rule["suppress_for"] = json!(dice.one(&["0s", "1s", "2s", "5s", "30s", "3m"]));
    }
    rule
}

fn by(dice: &mut Dice, level: Level) -> Option<Value> {
    let mut groups =
        vec![json!(["agent_id"]), json!(["agent_id", "session_id"]), json!(["target"]), json!(["tenant_id"])];
    if level == Level::Full {
        groups.extend([
            json!(["context.n"]),
            json!(["context.user", "agent_id"]),
            json!(["result.severity"]),
            json!(["extra.zone"]),
            json!(["tenant_id", "event_type"]),
        ]);
    }
    dice.chance(60).then(|| dice.one(&groups))
}

type MakeCondition = fn(&mut Dice, Level) -> Value;

/// One condition of `count`; of several, those after the first are easier to satisfy.
fn condition(dice: &mut Dice, level: Level, nth: usize, count: usize) -> Value {
    let kinds: &[MakeCondition] = match level {
        Level::Subset => &[sequence, sequence, threshold, threshold, pattern],
        Level::Full if nth > 0 => &[sequence, threshold, threshold, pattern, absence, new_value],
        Level::Full => &[sequence, sequence, sequence, threshold, threshold, pattern, pattern, absence, new_value],
    };
    let windows = if count > 1 { &WINDOWS[4..] } else { &WINDOWS };
    let level = if nth > 0 { Level::Subset } else { level };
    let mut condition = dice.one(kinds)(dice, level);
    if condition.get("window").is_none() {
        condition["window"] = json!(dice.one(windows));
    }
    condition
}

fn sequence(dice: &mut Dice, level: Level) -> Value {
    let steps = dice.one(&[1, 2, 2, 2, 2, 3, 3]);
    let mut events = Vec::new();
    for nth in 0..steps {
        let mut step = matcher(dice, level);
        if dice.chance(30) {
            step.insert("count".into(), dice.one(&[json!(">= 2"), json!(2), json!("> 1"), json!(">= 3")]));
        }
        if level == Level::Full && nth > 0 && dice.chance(30) {
            step.insert("without".into(), Value::Object(matcher(dice, level)));
        }
        events.push(step);
    }
    let mut condition = json!({"type": "sequence", "events": events});
    if level == Level::Full && dice.chance(20) {
        condition["until"] = Value::Object(matcher(dice, level));
    }
    condition
}

fn threshold(dice: &mut Dice, level: Level) -> Value {
    let mut keys = matcher(dice, level);
    keys.insert("type".into(), json!("threshold"));
    let counts = [json!(">= 2"), json!("> 2"), json!(4), json!(">= 5"), json!(1)];
    let few = [json!(">= 2"), json!("> 1"), json!("> 2")];
    let mut limits = Map::new();
    if dice.chance(60) {
        limits.insert("count".into(), dice.one(&counts));
    }
    if dice.chance(35) {
        limits.insert("unique_targets".into(), dice.one(&few));
    }
    if level == Level::Full && dice.chance(35) {
        let field = dice.one(&["session_id", "context.n", "context.user", "target", "result.guard"]);
        limits.insert("distinct".into(), json!({"field": field, "op": dice.one(&few)}));
    }
    if limits.is_empty() {
        limits.insert("count".into(), dice.one(&counts));
    }
    keys.extend(limits);
    Value::Object(keys)
}

fn pattern(dice: &mut Dice, level: Level) -> Value {
    let matchers: Vec<_> = (0..2 + dice.below(2)).map(|_| matcher(dice, level)).collect();
    if level == Level::Full && dice.chance(50) {
        let at_least = 1 + dice.below(matchers.len());
        return json!({"type": "pattern", "any_of": {"at_least": at_least, "matchers": matchers}});
    }
    json!({"type": "pattern", "all_of": matchers})
}

fn absence(dice: &mut Dice, level: Level) -> Value {
    json!({"type": "absence", "trigger": matcher(dice, level), "absent": matcher(dice, level)})
}

fn new_value(dice: &mut Dice, level: Level) -> Value {
    let mut keys = matcher(dice, level);
    keys.insert("type".into(), json!("new_value"));
    let fields = ["target", "context.user", "context.n", "session_id", "action.args.command"];
    keys.insert("field".into(), json!(dice.one(&fields)));
    let window = dice.below(WINDOWS.len());
    keys.insert("window".into(), json!(WINDOWS[window]));
    if dice.chance(50) {
        keys.insert("learn".into(), json!(WINDOWS[dice.below(window + 1)]));
    }
    Value::Object(keys)
}

fn allow_entry(dice: &mut Dice, level: Level, seed: u64) -> Value {
    let kind = dice.one(&TYPES);
    let mut entry = json!({
        "agent_pattern": dice.one(&["ag1", "ag*", "*2", "a{g2,g3}"]),
        "event_types": [kind, dice.one(&TYPES)],
        "reason": "generated",
    });
    if dice.chance(60) {
        entry["target_patterns"] = json!([dice.one(patterns(kind)), dice.one(patterns(kind))]);
    }
    if dice.chance(40) {
        entry["time_window"] = json!("business_hours");
    }
    if level == Level::Full {
        widen(dice, &mut entry, seed);
    }
    entry
}

/// What only the whole language has.
fn widen(dice: &mut Dice, entry: &mut Value, seed: u64) {
    if dice.chance(30) {
        entry["time_window"] = dice.one(&[
            json!({"days": ["mon", "tue"], "from": "09:00", "to": "17:00", "tz": "UTC"}),
            json!({"days": ["fri"], "from": "22:00", "to": "00:01", "tz": "UTC"}),
            json!({"days": ["sat", "sun", "mon"], "from": "03:00", "to": "18:59", "tz": "Europe/Berlin"}),
            json!({"days": ["sun", "mon", "fri"], "from": "17:30", "to": "04:30", "tz": "America/New_York"}),
        ]);
    }
    if dice.chance(40) {
        entry["rules"] = json!([format!("R{}", dice.below(3)), format!("R{}", dice.below(6))]);
    }
    if dice.chance(30) {
        let later = dice.one(&[60, 90, 120, 300]) * SECOND;
        entry["expires"] = dice.one(&[json!(time::format(start(seed) + later)), json!("2024-05-11")]);
    }
    if dice.chance(30)
        && let Some(fields) = entry.as_object_mut()
    {
        let patterns = patterns(dice.one(&TYPES));
        fields.remove("event_types");
        fields.insert("target_patterns".into(), json!([dice.one(patterns)]));
        if dice.chance(50) {
            fields.remove("agent_pattern");
        }
    }
}
