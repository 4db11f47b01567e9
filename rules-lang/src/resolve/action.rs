//! Actions and their parameters. Defaults belong to whoever carries them out.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::window;
use crate::context::{Context, Keys};
use crate::diagnostic::{Span, quoted};
use crate::duration::DAY;
use crate::plan::{Action, ActionKind};
use crate::schema::value;
use crate::shape::KeyShape;
use crate::suggest;
use crate::yaml::{Node, Value};

/// An action, and what it takes besides [`APPROVAL`].
pub(crate) struct ActionShape {
    pub(crate) name: &'static str,
    kind: ActionKind,
    /// For who writes one.
    pub(crate) doc: &'static str,
    params: &'static [Param],
}

/// A parameter of an action.
struct Param {
    key: KeyShape,
    /// Reads it, as the rule gives it; gets its name in quotes.
    read: fn(&mut Context<'_>, &str, &Node) -> Option<Json>,
}

pub(crate) static ACTIONS: [ActionShape; 8] = [
    action_shape(ActionKind::TerminateSession, "Ends the session.", &[]),
    action_shape(ActionKind::QuarantineAgent, "Keeps the agent from working for a time.", &[DURATION]),
    action_shape(ActionKind::RateLimit, "Slows the agent down.", &[RATE]),
    action_shape(ActionKind::AlertSoc, "Sends the alert to the SOC's webhook.", &[]),
    action_shape(ActionKind::Alert, "Writes the alert to the log.", &[]),
    action_shape(ActionKind::IncreaseLogging, "Makes the agent log more.", &[LEVEL]),
    action_shape(ActionKind::SnapshotSession, "Keeps a snapshot of the session.", &[]),
    action_shape(ActionKind::UpdatePolicy, "Changes the agent's policy.", &[PATCH]),
];

const fn action_shape(kind: ActionKind, doc: &'static str, params: &'static [Param]) -> ActionShape {
    ActionShape { name: kind.name(), kind, doc, params }
}

const DURATION: Param = Param {
    key: KeyShape::optional("duration", "How long; 1h if it is left out.", || value::duration(QUARANTINE)),
    read: |cx, what, node| {
        window::duration(cx, node, what, QUARANTINE)?;
        cx.text(node, what).map(Json::from)
    },
};
const RATE: Param = Param {
    key: KeyShape::optional("requests_per_minute", "How many requests stay allowed; 10 if it is left out.", || {
        value::whole(1, MAX_RATE)
    }),
    read: |cx, what, node| match node.value {
        Value::Number(rate) if rate.fract() == 0.0 && (1.0..=MAX_RATE as f64).contains(&rate) => {
            Some(Json::from(rate as u64))
        }
        _ => {
            cx.error(node.span, "E027", format!("{what} must be a whole number from 1 to {MAX_RATE}"))
                .hint("write `requests_per_minute: 10`; to stop an agent use quarantine_agent");
            None
        }
    },
};
const LEVEL: Param = Param {
    key: KeyShape::optional("level", "The log level; debug if it is left out.", value::word),
    read: |cx, what, node| cx.word(node, what).map(Json::from),
};
const PATCH: Param = Param {
    key: KeyShape::optional("policy_patch", "What changes in the policy.", || json!({"type": "object"})),
    read: |cx, what, node| match &node.value {
        Value::Map(_) => Some(node.to_json()),
        _ => {
            cx.mistyped(node, what, "a mapping");
            None
        }
    },
};
/// What every action takes.
const APPROVAL: Param = Param {
    key: KeyShape::optional("requires_approval", "Held until somebody approves it.", || value::flag(false)),
    read: |cx, what, node| cx.flag(node, what).map(Json::from),
};
/// The shortest and the longest quarantine.
const QUARANTINE: (i64, i64) = (window::WINDOW.0, 365 * DAY);
/// The highest rate that is still a limit.
const MAX_RATE: u64 = 1_000_000;

impl ActionShape {
    fn params(&self) -> impl Iterator<Item = &Param> {
        self.params.iter().chain([&APPROVAL])
    }
}

/// What the schema calls `action`: a name, or a name with its parameters.
pub(crate) fn schema() -> Json {
    let with_params = ACTIONS.iter().map(|action| {
        let params = action.params().map(|param| (param.key.name.to_owned(), crate::schema::property(&param.key)));
        let params = json!({
            "description": action.doc,
            "type": ["object", "null"],
            "properties": params.collect::<Map<_, _>>(),
            "additionalProperties": false,
        });
        (action.name.to_owned(), params)
    });
    json!({
        "description": "What an alert asks for: a name, or a name with its parameters.",
        "anyOf": [value::named(ACTIONS.iter().map(|action| (action.name, action.doc))), {
            "type": "object",
            "properties": with_params.collect::<Map<_, _>>(),
            "additionalProperties": false,
            "minProperties": 1,
            "maxProperties": 1,
        }],
    })
}

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
    let Some(shape) = ACTIONS.iter().find(|known| known.name == name) else {
        let names: Vec<&str> = ACTIONS.iter().map(|action| action.name).collect();
        cx.error(at, "E026", format!("{} is no action", quoted(name))).hint(suggest::hint(name, &names));
        return None;
    };
    let params = match params {
        Some(node) if !matches!(node.value, Value::Null) => params_of(cx, node, shape)?,
        _ => BTreeMap::new(),
    };
    doubt(cx, shape.kind, &params, at);
    Some(Action { kind: shape.kind, params })
}

fn doubt(cx: &mut Context<'_>, kind: ActionKind, params: &BTreeMap<String, Json>, at: Span) {
    if kind == ActionKind::UpdatePolicy && !params.contains_key("policy_patch") {
        cx.warn(at, "W009", "\"update_policy\" without \"policy_patch\" changes nothing")
            .hint("write `- update_policy: {policy_patch: {...}}`");
    }
}

fn params_of(cx: &mut Context<'_>, node: &Node, shape: &ActionShape) -> Option<BTreeMap<String, Json>> {
    let what = format!("\"{}\"", shape.name);
    let mut keys: Keys<'_> = cx.keys(node, &format!("the parameters of {what}"))?;
    let mut params = BTreeMap::new();
    let mut sound = true;
    for param in shape.params() {
        let name = param.key.name;
        let Some(value) = keys.take(name) else {
            continue;
        };
        match (param.read)(cx, &format!("\"{name}\""), value) {
            Some(value) => {
                params.insert(name.to_owned(), value);
            }
            None => sound = false,
        }
    }
    let names: Vec<&str> = shape.params().map(|param| param.key.name).collect();
    for (key, _) in keys.rest() {
        cx.error(key.span, "E027", format!("{what} has no parameter {}", quoted(&key.name)))
            .hint(suggest::hint(&key.name, &names));
        sound = false;
    }
    sound.then_some(params)
}
