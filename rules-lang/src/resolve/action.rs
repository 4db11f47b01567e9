//! Actions and their parameters. Defaults belong to whoever carries them out.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::window;
use crate::context::{Context, Keys};
use crate::diagnostic::{Span, quoted};
use crate::duration::DAY;
use crate::plan::{Action, ActionKind};
use crate::suggest;
use crate::yaml::{Node, Value};

const ACTIONS: [(&str, ActionKind, &[&str]); 8] = [
    ("terminate_session", ActionKind::TerminateSession, &[]),
    ("quarantine_agent", ActionKind::QuarantineAgent, &["duration"]),
    ("rate_limit", ActionKind::RateLimit, &["requests_per_minute"]),
    ("alert_soc", ActionKind::AlertSoc, &[]),
    ("alert", ActionKind::Alert, &[]),
    ("increase_logging", ActionKind::IncreaseLogging, &["level"]),
    ("snapshot_session", ActionKind::SnapshotSession, &[]),
    ("update_policy", ActionKind::UpdatePolicy, &["policy_patch"]),
];
/// The longest quarantine.
const MAX_QUARANTINE: i64 = 365 * DAY;
/// The highest rate that is still a limit.
const MAX_RATE: f64 = 1_000_000.0;

/// Reads a rule's `actions`.
pub(super) fn list(cx: &mut Context<'_>, node: &Node) -> Option<Vec<Action>> {
    let Value::List(items) = &node.value else {
        cx.mistyped(node, "\"actions\"", "a list");
        return None;
    };
    let mut actions: Vec<Action> = Vec::with_capacity(items.len().min(ACTIONS.len()));
    let mut sound = true;
    for item in items {
        match action(cx, item) {
            Some(action) if actions.iter().any(|other| other.kind == action.kind) => {
                cx.error(item.span, "E028", "this action stands here a second time")
                    .hint("an alert runs each action once; keep one of them");
                sound = false;
            }
            Some(action) => actions.push(action),
            None => sound = false,
        }
    }
    sound.then_some(actions)
}

fn action(cx: &mut Context<'_>, node: &Node) -> Option<Action> {
    let (name, at, params) = match &node.value {
        Value::Text(name) => (name, node.span, None),
        Value::Map(entries) if entries.len() == 1 => (&entries[0].0.name, entries[0].0.span, Some(&entries[0].1)),
        Value::Map(_) => {
            cx.error(node.span, "E027", "an action has one name, and its parameters below it")
                .hint("write `- quarantine_agent: {duration: 1h}`, one `-` for each action");
            return None;
        }
        _ => {
            cx.mistyped(node, "an action", "a text");
            return None;
        }
    };
    let Some((name, kind, known)) = ACTIONS.iter().find(|(known, ..)| known == name) else {
        let names: Vec<&str> = ACTIONS.iter().map(|(name, ..)| *name).collect();
        cx.error(at, "E026", format!("{} is no action", quoted(name))).hint(suggest::hint(name, &names));
        return None;
    };
    let params = match params {
        Some(node) if !matches!(node.value, Value::Null) => params_of(cx, node, name, known)?,
        _ => BTreeMap::new(),
    };
    doubt(cx, *kind, &params, at);
    Some(Action { kind: *kind, params })
}

fn doubt(cx: &mut Context<'_>, kind: ActionKind, params: &BTreeMap<String, Json>, at: Span) {
    if kind == ActionKind::UpdatePolicy && !params.contains_key("policy_patch") {
        cx.warn(at, "W009", "\"update_policy\" without \"policy_patch\" changes nothing")
            .hint("write `- update_policy: {policy_patch: {...}}`");
    }
}

fn params_of(cx: &mut Context<'_>, node: &Node, name: &str, known: &[&str]) -> Option<BTreeMap<String, Json>> {
    let what = format!("\"{name}\"");
    let mut keys: Keys<'_> = cx.keys(node, &format!("the parameters of {what}"))?;
    let mut params = BTreeMap::new();
    let mut sound = true;
    let names: Vec<&str> = known.iter().copied().chain(["requires_approval"]).collect();
    for &name in &names {
        let Some(value) = keys.take(name) else {
            continue;
        };
        match param(cx, name, value) {
            Some(value) => {
                params.insert(name.to_owned(), value);
            }
            None => sound = false,
        }
    }
    for (key, _) in keys.rest() {
        cx.error(key.span, "E027", format!("{what} has no parameter {}", quoted(&key.name)))
            .hint(suggest::hint(&key.name, &names));
        sound = false;
    }
    sound.then_some(params)
}

/// One parameter, as the rule gives it.
fn param(cx: &mut Context<'_>, name: &str, node: &Node) -> Option<Json> {
    let what = format!("\"{name}\"");
    match name {
        "duration" => {
            window::duration(cx, node, &what, (window::WINDOW.0, MAX_QUARANTINE))?;
            cx.text(node, &what).map(Json::from)
        }
        "requests_per_minute" => match node.value {
            Value::Number(rate) if rate.fract() == 0.0 && (1.0..=MAX_RATE).contains(&rate) => {
                Some(Json::from(rate as u64))
            }
            _ => {
                cx.error(node.span, "E027", format!("{what} must be a whole number from 1 to {MAX_RATE}"))
                    .hint("write `requests_per_minute: 10`; to stop an agent use quarantine_agent");
                None
            }
        },
        "level" => cx.word(node, &what).map(Json::from),
        "requires_approval" => cx.flag(node, &what).map(Json::from),
        _ => match &node.value {
            Value::Map(_) => Some(json(node)),
            _ => {
                cx.mistyped(node, &what, "a mapping");
                None
            }
        },
    }
}

/// A YAML value as JSON; whole numbers stay whole.
fn json(node: &Node) -> Json {
    // The largest magnitude below which every whole number is a double.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(flag) => Json::from(*flag),
        Value::Number(number) if number.fract() == 0.0 && number.abs() < EXACT => Json::from(*number as i64),
        Value::Number(number) => Json::from(*number),
        Value::Text(text) => Json::from(text.as_str()),
        Value::List(items) => Json::Array(items.iter().map(json).collect()),
        Value::Map(entries) => entries.iter().map(|(key, value)| (key.name.clone(), json(value))).collect(),
    }
}
