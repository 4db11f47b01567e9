//! The owned event of those who write events: the agents' SDK and `simulate`. The engine reads with [`crate::decode()`].

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::EventType;

/// The version of this shape that our own producers write into `schema_version`.
pub const SCHEMA_VERSION: u32 = 1;

/// One guarded action, as an agent reports it. Absent options are left out of the JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentTelemetry {
    /// The event's own id (UUIDv7 from our SDK); without one an event is known by its position in the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// [`SCHEMA_VERSION`] of the writer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<u32>,
    /// Whose agent it is, 1 to 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// The agent, 1 to 256 bytes.
    pub agent_id: String,
    /// The agent's session, 1 to 256 bytes.
    pub session_id: String,
    /// Microseconds since 1970 UTC; RFC 3339 in JSON.
    #[serde(with = "rfc3339")]
    pub timestamp: i64,
    /// What was done.
    pub event_type: EventType,
    /// To what it was done.
    pub action: ActionDetails,
    /// What the guard said.
    pub result: GuardResultSummary,
    /// Anything the agent adds; `{}` if absent.
    #[serde(default = "empty_object")]
    pub context: Value,
}

/// What an action was aimed at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActionDetails {
    /// A path, a host or a text, by event type; at most 64 KiB.
    pub target: String,
    /// Hash of the content read or written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_hash: Option<String>,
    /// Arguments, any JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Value>,
}

/// What the guard decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardResultSummary {
    /// Whether the action was let through; `false` is a violation.
    pub allowed: bool,
    /// The guard's name.
    #[serde(default)]
    pub guard: String,
    /// In any case; readers lower it.
    #[serde(default)]
    pub severity: String,
    /// For people.
    #[serde(default)]
    pub message: String,
}

fn empty_object() -> Value {
    Value::Object(Map::new())
}

mod rfc3339 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::time;

    pub(super) fn serialize<S: Serializer>(timestamp: &i64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&time::format(*timestamp))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
        let text = String::deserialize(deserializer)?;
        time::parse(&text).ok_or_else(|| {
            D::Error::custom("\"timestamp\" is not RFC 3339: expected e.g. \"2024-05-06T10:00:00.000000Z\"")
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decode;

    fn telemetry() -> AgentTelemetry {
        AgentTelemetry {
            event_id: Some("0190a3c1-7c1e-7f00-8000-000000000001".to_owned()),
            schema_version: Some(SCHEMA_VERSION),
            tenant_id: None,
            agent_id: "ag1".to_owned(),
            session_id: "s1".to_owned(),
            timestamp: 1_714_989_600_000_001,
            event_type: EventType::FileAccess,
            action: ActionDetails { target: "/a\\\"b\n".to_owned(), content_hash: None, args: Some(json!([1])) },
            result: GuardResultSummary {
                allowed: false,
                guard: "forbidden_path".to_owned(),
                severity: "Critical".to_owned(),
                message: String::new(),
            },
            context: json!({}),
        }
    }

    #[test]
    fn what_producers_write_is_pinned() {
        let json = serde_json::to_string(&telemetry()).expect("plain data prints");
        assert_eq!(
            json,
            concat!(
                r#"{"event_id":"0190a3c1-7c1e-7f00-8000-000000000001","schema_version":1,"agent_id":"ag1","session_id":"s1","#,
                r#""timestamp":"2024-05-06T10:00:00.000001Z","event_type":"file_access","#,
                r#""action":{"target":"/a\\\"b\n","args":[1]},"#,
                r#""result":{"allowed":false,"guard":"forbidden_path","severity":"Critical","message":""},"context":{}}"#,
            )
        );
    }

    #[test]
    fn the_engine_reads_what_producers_write() {
        let written = telemetry();
        let json = serde_json::to_vec(&written).expect("plain data prints");
        let event = decode(&json).expect("our own events are valid");
        assert_eq!(event.event_id.as_deref(), written.event_id.as_deref());
        assert_eq!((event.timestamp, event.event_type), (written.timestamp, written.event_type));
        assert_eq!((&*event.target, &*event.severity), (&*written.action.target, "critical"));
        let read: AgentTelemetry = serde_json::from_slice(&json).expect("it reads its own form");
        assert_eq!(read, written);
    }
}
