//! Times as JSON has them: RFC 3339 in UTC, with microseconds. Elsewhere they are numbers. Knows no clock.

use std::borrow::Cow;

use clawdstrike_telemetry::time;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Microseconds since 1970; a text where people read it, a number between workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.serialize_str(&time::format(self.0)),
            false => serializer.serialize_i64(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return i64::deserialize(deserializer).map(Timestamp);
        }
        let text = <Cow<'_, str>>::deserialize(deserializer)?;
        let expected = || Error::custom("a time in RFC 3339, such as 2024-05-01T12:00:00Z");
        time::parse(&text).map(Timestamp).ok_or_else(expected)
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> Cow<'static, str> {
        "Timestamp".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "date-time"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_a_text_and_workers_a_number() {
        let noon = Timestamp(1_714_564_800_000_001);
        let text = serde_json::to_string(&noon).expect("JSON");
        assert_eq!(text, "\"2024-05-01T12:00:00.000001Z\"");
        assert_eq!(serde_json::from_str::<Timestamp>(&text).expect("the same"), noon);
        let bytes = postcard::to_allocvec(&noon).expect("bytes");
        assert_eq!(postcard::from_bytes::<i64>(&bytes), Ok(noon.0));
        assert_eq!(postcard::from_bytes::<Timestamp>(&bytes), Ok(noon));
    }
}
