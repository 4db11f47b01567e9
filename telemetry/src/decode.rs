//! From a record to an event or a dead letter.

use std::borrow::Cow;

use serde_json::Value;

use crate::{DeadLetter, Event, EventType, Reason, time};

/// The longest record, in bytes.
pub const MAX_RECORD_BYTES: usize = 1 << 20;
/// How many arrays and objects may stand inside each other, the record's own included.
pub const MAX_DEPTH: usize = 64;
/// The longest `agent_id`, `session_id` and `tenant_id`, in bytes.
pub const MAX_ID_BYTES: usize = 256;
/// The longest `action.target`, in bytes.
pub const MAX_TARGET_BYTES: usize = 64 << 10;

/// Whether a line holds no record at all (nothing but JSON's white space): sources of lines skip it.
pub fn is_blank(line: &[u8]) -> bool {
    line.iter()
        .all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
}

/// Reads one record.
///
/// # Errors
/// A [`DeadLetter`] if it is no valid event.
pub fn decode(raw: &[u8]) -> Result<Event<'_>, DeadLetter> {
    if raw.len() > MAX_RECORD_BYTES {
        return Err(DeadLetter::new(
            Reason::RecordTooLong,
            format!("{} bytes", raw.len()),
        ));
    }
    let text = std::str::from_utf8(raw)
        .map_err(|e| DeadLetter::new(Reason::InvalidUtf8, e.to_string()))?;
    let doc: Value = serde_json::from_str(text)
        .map_err(|e| DeadLetter::new(Reason::InvalidJson, e.to_string()))?;
    let string = |path: &str| match doc.pointer(path) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) => Ok(Some(Cow::Owned::<str>(s.clone()))),
        Some(_) => Err(DeadLetter::new(Reason::MistypedField, path)),
    };
    let need =
        |path: &str| string(path)?.ok_or_else(|| DeadLetter::new(Reason::MissingField, path));
    let id = |s: Cow<'static, str>| {
        if s.is_empty() || s.len() > MAX_ID_BYTES {
            Err(DeadLetter::new(Reason::IdentifierLength, ""))
        } else if s.chars().any(char::is_control) {
            Err(DeadLetter::new(Reason::IdentifierControl, ""))
        } else {
            Ok(s)
        }
    };
    let event_id = string("/event_id")?;
    if event_id.as_deref() == Some("") {
        return Err(DeadLetter::new(Reason::EmptyEventId, ""));
    }
    let target = need("/action/target")?;
    if target.len() > MAX_TARGET_BYTES {
        return Err(DeadLetter::new(Reason::TargetTooLong, ""));
    }
    Ok(Event {
        agent_id: id(need("/agent_id")?)?,
        session_id: id(need("/session_id")?)?,
        tenant_id: string("/tenant_id")?.map_or(Ok(Cow::Borrowed("")), id)?,
        event_id,
        timestamp: time::parse(&need("/timestamp")?)
            .ok_or_else(|| DeadLetter::new(Reason::InvalidTimestamp, ""))?,
        event_type: EventType::from_name(&need("/event_type")?)
            .ok_or_else(|| DeadLetter::new(Reason::UnknownEventType, ""))?,
        target,
        allowed: match doc.pointer("/result/allowed") {
            Some(Value::Bool(allowed)) => *allowed,
            None | Some(Value::Null) => {
                return Err(DeadLetter::new(Reason::MissingField, "result.allowed"));
            }
            Some(_) => return Err(DeadLetter::new(Reason::MistypedField, "result.allowed")),
        },
        guard: string("/result/guard")?.unwrap_or_default(),
        severity: string("/result/severity")?
            .unwrap_or_default()
            .to_lowercase()
            .into(),
        message: string("/result/message")?.unwrap_or_default(),
        raw,
    })
}
