//! A decoded event, borrowed from its record. Knows the names of its fields, not how they were read.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::EventType;

/// The fields of an event by name; anything else at the top is an unknown field (`extra.<name>` in rules).
pub const TOP_LEVEL_FIELDS: [&str; 11] = [
    "agent_id",
    "session_id",
    "timestamp",
    "event_type",
    "action",
    "result",
    "context",
    "event_id",
    "schema_version",
    "tenant_id",
    "seal",
];

/// The fields of `action`.
pub const ACTION_FIELDS: [&str; 3] = ["target", "content_hash", "args"];

/// The fields of `result`.
pub const RESULT_FIELDS: [&str; 4] = ["allowed", "guard", "severity", "message"];

/// A valid event. Texts are borrowed from the record unless they were escaped there.
#[derive(Clone, Debug, PartialEq)]
pub struct Event<'a> {
    /// 1 to 256 bytes without control characters.
    pub agent_id: Cow<'a, str>,
    /// 1 to 256 bytes without control characters.
    pub session_id: Cow<'a, str>,
    /// Empty if absent, else 1 to 256 bytes without control characters.
    pub tenant_id: Cow<'a, str>,
    /// Not empty.
    pub event_id: Option<Cow<'a, str>>,
    /// Microseconds since 1970 UTC, truncated: the agent's own clock, not yet the event time.
    pub timestamp: i64,
    /// What was done.
    pub event_type: EventType,
    /// `action.target` as it came, at most 64 KiB; see [`crate::target::normalise`].
    pub target: Cow<'a, str>,
    /// Whether the guard let the action through; `false` is a violation.
    pub allowed: bool,
    /// Empty if absent.
    pub guard: Cow<'a, str>,
    /// Lower case; empty if absent.
    pub severity: Cow<'a, str>,
    /// Empty if absent.
    pub message: Cow<'a, str>,
    /// `context` as it is written, JSON; empty if absent.
    pub context: &'a str,
    /// `action.args` as it is written, JSON; empty if absent.
    pub args: &'a str,
    /// The whole record, with every field that isn't named here.
    pub raw: &'a [u8],
}

impl Event<'_> {
    /// The whole record as a tree, for fields by path: severity in lower case, null members of the contract's fields
    /// left out (null is absent), `context` at least `{}`, `guard`, `severity` and `message` at least empty.
    /// Unknown fields keep their names and their nulls. A parse of its own, so not for every event.
    pub fn document(&self) -> Value {
        // `decode` has seen to it that `raw` is an object; an event built otherwise may hold anything.
        let Ok(Value::Object(mut record)) = serde_json::from_slice(self.raw) else {
            return Value::Null;
        };
        drop_nulls(&mut record, &TOP_LEVEL_FIELDS);
        record.entry("context").or_insert_with(|| Value::Object(Map::new()));
        if let Some(Value::Object(action)) = record.get_mut("action") {
            drop_nulls(action, &ACTION_FIELDS);
        }
        if let Some(Value::Object(result)) = record.get_mut("result") {
            drop_nulls(result, &RESULT_FIELDS);
            for (name, value) in [("guard", &self.guard), ("severity", &self.severity), ("message", &self.message)] {
                result.insert(name.to_owned(), Value::from(value.as_ref()));
            }
        }
        Value::Object(record)
    }

    /// `context` as [`Event::document`] has it, for the price of parsing that part.
    pub fn context_value(&self) -> Value {
        match part(self.context) {
            Value::Null => Value::Object(Map::new()),
            value => value,
        }
    }

    /// `action.args` as [`Event::document`] has it; null if absent.
    pub fn args_value(&self) -> Value {
        part(self.args)
    }
}

/// `decode` has checked the text.
fn part(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

fn drop_nulls(object: &mut Map<String, Value>, names: &[&str]) {
    for name in names {
        if object.get(*name).is_some_and(Value::is_null) {
            object.remove(*name);
        }
    }
}
