//! An event with its time, its identity and its values by field. Knows no rule.

use std::collections::BTreeSet;

use clawdstrike_rules::plan::{Field, Number, Scalar};
use clawdstrike_telemetry as telemetry;
use serde_json::{Map, Value};

/// Who an event is, besides its time. The derived order is the contract's: positions before ids, positions by
/// partition and offset, ids by tenant, agent, session, event_id as bytes, then by the raw record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Identity {
    /// A record without event_id; there is one source only.
    Position { partition: usize, offset: usize },
    /// A record with one.
    Id { tenant: String, agent: String, session: String, event: String, raw: Vec<u8> },
}

/// A normalised target, as patterns see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Path(String),
    Host { host: String, with_port: Option<String> },
    Text(String),
}

impl Target {
    fn of(kind: telemetry::EventType, raw: &str) -> Target {
        let target = telemetry::target::normalise(kind, raw);
        let text = target.text().into_owned();
        match target {
            telemetry::target::Target::Path(_) => Target::Path(text),
            telemetry::target::Target::Text(_) => Target::Text(text),
            telemetry::target::Target::Host { host, port } => {
                Target::Host { host: host.into_owned(), with_port: port.map(|_| text) }
            }
        }
    }

    /// The whole of it, hosts with port.
    pub(crate) fn text(&self) -> &str {
        match self {
            Target::Path(text) | Target::Text(text) => text,
            Target::Host { host, with_port } => with_port.as_ref().unwrap_or(host),
        }
    }
}

/// A valid event.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// Event time, microseconds.
    pub(crate) time: i64,
    pub(crate) identity: Identity,
    pub(crate) tenant: String,
    pub(crate) agent: String,
    pub(crate) session: String,
    pub(crate) event_type: telemetry::EventType,
    pub(crate) allowed: bool,
    pub(crate) target: Target,
    /// The record.
    pub(crate) raw: Vec<u8>,
    document: Value,
}

impl Event {
    pub(crate) fn new(decoded: &telemetry::Event<'_>, time: i64, identity: Identity) -> Event {
        Event {
            time,
            identity,
            tenant: decoded.tenant_id.to_string(),
            agent: decoded.agent_id.to_string(),
            session: decoded.session_id.to_string(),
            event_type: decoded.event_type,
            allowed: decoded.allowed,
            target: Target::of(decoded.event_type, &decoded.target),
            raw: decoded.raw.to_vec(),
            document: document(decoded.raw),
        }
    }

    /// The event's place in the total order.
    pub(crate) fn order(&self) -> (i64, &Identity) {
        (self.time, &self.identity)
    }

    /// How evidence names it.
    pub(crate) fn name(&self) -> String {
        match &self.identity {
            Identity::Position { partition, offset } => format!("{partition}:{offset}"),
            Identity::Id { event, .. } => event.clone(),
        }
    }

    /// The value of a field; null is absent.
    pub(crate) fn value(&self, field: &Field) -> Option<Value> {
        match field {
            Field::Target => Some(Value::from(self.target.text())),
            Field::Path(path) => {
                let mut value = &self.document;
                for name in path {
                    value = value.as_object()?.get(name)?;
                }
                (!value.is_null()).then(|| value.clone())
            }
        }
    }

    /// The value of a field if it is a scalar: what is distinct, new or grouped by.
    pub(crate) fn scalar(&self, field: &Field) -> Option<Scalar> {
        self.value(field).as_ref().and_then(scalar)
    }

    /// The values of the `by` fields; `None` if the event takes no part. An absent tenant is the empty one.
    pub(crate) fn group(&self, by: &[Field]) -> Option<Vec<Scalar>> {
        by.iter()
            .map(|field| match field {
                Field::Path(path) if path == &["tenant_id"] => Some(Scalar::Text(self.tenant.clone())),
                field => self.scalar(field),
            })
            .collect()
    }
}

/// A JSON scalar other than null; numbers compare as doubles.
pub(crate) fn scalar(value: &Value) -> Option<Scalar> {
    match value {
        Value::Bool(value) => Some(Scalar::Bool(*value)),
        Value::Number(number) => number.as_f64().map(|n| Scalar::Number(Number(n))),
        Value::String(text) => Some(Scalar::Text(text.clone())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Equal scalars give equal values: 1.0 is 1.
pub(crate) fn to_json(scalar: &Scalar) -> Value {
    const WHOLE: f64 = 9_007_199_254_740_992.0;
    match scalar {
        Scalar::Bool(value) => Value::from(*value),
        Scalar::Text(text) => Value::from(text.as_str()),
        Scalar::Number(Number(n)) if n.fract() == 0.0 && n.abs() <= WHOLE => Value::from(*n as i64),
        Scalar::Number(Number(n)) => Value::from(*n),
    }
}

/// How many distinct normalised targets these events have.
pub(crate) fn distinct_targets<'a>(events: impl Iterator<Item = &'a Event>) -> u64 {
    events.map(|event| event.target.text()).collect::<BTreeSet<_>>().len() as u64
}

/// The record with the contract's defaults filled in and the severity in lower case.
fn document(raw: &[u8]) -> Value {
    let mut record: Value = serde_json::from_slice(raw).expect("a record that was decoded is valid JSON");
    default_to(&mut record["context"], || Value::Object(Map::new()));
    let result = &mut record["result"];
    for name in ["guard", "severity", "message"] {
        default_to(&mut result[name], || Value::from(""));
    }
    let severity = result["severity"].as_str().unwrap_or_default().to_lowercase();
    result["severity"] = Value::from(severity);
    record
}

fn default_to(value: &mut Value, default: impl FnOnce() -> Value) {
    if value.is_null() {
        *value = default();
    }
}
