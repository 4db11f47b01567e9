//! From a record to an event or a dead letter, in one pass over borrowed bytes: the engine's hottest function.
//! Decides what a valid event is; knows nothing of where the record came from or what becomes of it.

use std::{borrow::Cow, ops::RangeInclusive};

use crate::{
    DeadLetter, Event, EventType, Reason,
    scan::{Scanner, Stopped, Text},
    time,
};

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
    line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
}

/// Reads one record, without its line's end or with it.
///
/// ```
/// let raw = br#"{"agent_id": "a", "session_id": "s", "timestamp": "1970-01-01T00:00:01Z",
///     "event_type": "shell_command", "action": {"target": "ls"}, "result": {"allowed": true, "severity": "Info"}}"#;
/// let event = clawdstrike_telemetry::decode(raw).expect("all that is required is there");
/// assert_eq!((event.timestamp, &*event.target, &*event.severity), (1_000_000, "ls", "info"));
/// ```
///
/// # Errors
/// A [`DeadLetter`] if it is no valid event. What is wrong with the text (UTF-8, JSON, depth, numbers) comes before
/// what is wrong with a field, and that before what is missing.
pub fn decode(raw: &[u8]) -> Result<Event<'_>, DeadLetter> {
    if raw.len() > MAX_RECORD_BYTES {
        return Err(dead_letter(Reason::RecordTooLong, None, raw.len()));
    }
    let text = std::str::from_utf8(raw).map_err(|error| dead_letter(Reason::InvalidUtf8, None, error.valid_up_to()))?;
    let mut reader = Reader::new(text);
    match reader.record() {
        Ok(()) => reader.event(raw).map_err(|field| dead_letter(Reason::MissingField, Some(field), 0)),
        Err(Stopped) => Err(explain(text, &reader)),
    }
}

/// A fault of the text anywhere goes before a fault of a field, so that the order of fields changes no count.
#[cold]
fn explain(text: &str, reader: &Reader<'_>) -> DeadLetter {
    match Scanner::check(text) {
        Ok(()) => {
            let fault = reader.scanner.fault();
            dead_letter(fault.reason, reader.field, fault.at)
        }
        Err(fault) => dead_letter(fault.reason, None, fault.at),
    }
}

#[cold]
fn dead_letter(reason: Reason, field: Option<Field>, at: usize) -> DeadLetter {
    let name = field.map_or("record", Field::path);
    let detail = match reason {
        Reason::RecordTooLong => {
            format!("the record has {at} bytes: expected at most {MAX_RECORD_BYTES}")
        }
        Reason::InvalidUtf8 => format!("byte {at}: expected UTF-8"),
        Reason::InvalidJson => format!("byte {at}: expected one JSON value (RFC 8259)"),
        Reason::NotAnObject => format!("byte {at}: expected an object with the event's fields"),
        Reason::TooDeep => format!("byte {at}: expected at most {MAX_DEPTH} levels"),
        Reason::NumberOutOfRange => format!("byte {at}: expected a number that a double can hold"),
        Reason::DuplicateKey => format!("\"{name}\" before byte {at}: expected each field once"),
        Reason::MissingField => format!("\"{name}\": expected {}", field.map_or("a value", Field::expected)),
        Reason::MistypedField
        | Reason::InvalidTimestamp
        | Reason::UnknownEventType
        | Reason::EmptyEventId
        | Reason::IdentifierLength
        | Reason::IdentifierControl
        | Reason::TargetTooLong => {
            format!("\"{name}\" at byte {at}: expected {}", field.map_or("a value", Field::expected))
        }
    };
    DeadLetter::new(reason, detail)
}

/// The fields of the contract, at their places. The discriminant is the field's bit in [`Reader::seen`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Field {
    AgentId,
    SessionId,
    Timestamp,
    EventType,
    Action,
    Result,
    Context,
    EventId,
    SchemaVersion,
    TenantId,
    Seal,
    Target,
    ContentHash,
    Args,
    Allowed,
    Guard,
    Severity,
    Message,
}

impl Field {
    fn path(self) -> &'static str {
        match self {
            Field::AgentId => "agent_id",
            Field::SessionId => "session_id",
            Field::Timestamp => "timestamp",
            Field::EventType => "event_type",
            Field::Action => "action",
            Field::Result => "result",
            Field::Context => "context",
            Field::EventId => "event_id",
            Field::SchemaVersion => "schema_version",
            Field::TenantId => "tenant_id",
            Field::Seal => "seal",
            Field::Target => "action.target",
            Field::ContentHash => "action.content_hash",
            Field::Args => "action.args",
            Field::Allowed => "result.allowed",
            Field::Guard => "result.guard",
            Field::Severity => "result.severity",
            Field::Message => "result.message",
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Field::AgentId | Field::SessionId | Field::TenantId => {
                "a text of 1 to 256 bytes without control characters"
            }
            Field::Timestamp => "an RFC 3339 time, such as \"2024-05-06T10:00:00.000000Z\"",
            Field::EventType => {
                "file_access, file_write, network_egress, shell_command, mcp_tool, patch_apply or prompt_injection_attempt"
            }
            Field::Action | Field::Result => "an object",
            Field::Target => "a text of at most 65536 bytes",
            Field::EventId => "a text that isn't empty, or no event_id",
            Field::Allowed => "true or false",
            Field::ContentHash | Field::Guard | Field::Severity | Field::Message => "a text",
            Field::Context | Field::SchemaVersion | Field::Seal | Field::Args => "a value",
        }
    }

    #[inline(always)]
    fn at_top(name: &[u8]) -> Option<Field> {
        Some(match name {
            b"agent_id" => Field::AgentId,
            b"session_id" => Field::SessionId,
            b"timestamp" => Field::Timestamp,
            b"event_type" => Field::EventType,
            b"action" => Field::Action,
            b"result" => Field::Result,
            b"context" => Field::Context,
            b"event_id" => Field::EventId,
            b"schema_version" => Field::SchemaVersion,
            b"tenant_id" => Field::TenantId,
            b"seal" => Field::Seal,
            _ => return None,
        })
    }

    #[inline(always)]
    fn in_action(name: &[u8]) -> Option<Field> {
        Some(match name {
            b"target" => Field::Target,
            b"content_hash" => Field::ContentHash,
            b"args" => Field::Args,
            _ => return None,
        })
    }

    #[inline(always)]
    fn in_result(name: &[u8]) -> Option<Field> {
        Some(match name {
            b"allowed" => Field::Allowed,
            b"guard" => Field::Guard,
            b"severity" => Field::Severity,
            b"message" => Field::Message,
            _ => return None,
        })
    }
}

/// What has been read of one record; texts by their places, which are cheaper to carry.
struct Reader<'a> {
    scanner: Scanner<'a>,
    /// The field that a fault concerns.
    field: Option<Field>,
    /// One bit a field.
    seen: u32,
    agent_id: Option<Text>,
    session_id: Option<Text>,
    tenant_id: Option<Text>,
    event_id: Option<Text>,
    timestamp: Option<i64>,
    event_type: Option<EventType>,
    target: Option<Text>,
    allowed: Option<bool>,
    guard: Option<Text>,
    severity: Option<Text>,
    message: Option<Text>,
    context: &'a str,
    args: &'a str,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Reader<'a> {
        Reader {
            scanner: Scanner::new(text),
            field: None,
            seen: 0,
            agent_id: None,
            session_id: None,
            tenant_id: None,
            event_id: None,
            timestamp: None,
            event_type: None,
            target: None,
            allowed: None,
            guard: None,
            severity: None,
            message: None,
            context: "",
            args: "",
        }
    }

    fn record(&mut self) -> Result<(), Stopped> {
        if self.scanner.peek_value() != b'{' {
            return self.scanner.stop(Reason::NotAnObject);
        }
        self.scanner.open_object()?;
        let mut first = true;
        while let Some(field) = self.next_field(&mut first, Field::at_top)? {
            match field {
                Field::AgentId => self.agent_id = self.identifier(field)?,
                Field::SessionId => self.session_id = self.identifier(field)?,
                Field::TenantId => self.tenant_id = self.identifier(field)?,
                Field::Timestamp => self.timestamp = self.parsed(field, Reason::InvalidTimestamp, time::parse)?,
                Field::EventType => {
                    self.event_type = self.parsed(field, Reason::UnknownEventType, EventType::from_name)?;
                }
                Field::EventId => self.event_id = self.bounded(field, 1..=MAX_RECORD_BYTES, Reason::EmptyEventId)?,
                Field::Action if self.opens(field)? => self.action()?,
                Field::Result if self.opens(field)? => self.result()?,
                Field::Action | Field::Result => {}
                Field::Context => self.context = self.scanner.skipped()?,
                _ => self.scanner.skip()?,
            }
        }
        self.scanner.end()
    }

    fn action(&mut self) -> Result<(), Stopped> {
        let mut first = true;
        while let Some(field) = self.next_field(&mut first, Field::in_action)? {
            match field {
                Field::Target => self.target = self.bounded(field, 0..=MAX_TARGET_BYTES, Reason::TargetTooLong)?,
                Field::ContentHash => drop(self.text(field)?),
                Field::Args => self.args = self.scanner.skipped()?,
                _ => self.scanner.skip()?,
            }
        }
        Ok(())
    }

    fn result(&mut self) -> Result<(), Stopped> {
        let mut first = true;
        while let Some(field) = self.next_field(&mut first, Field::in_result)? {
            match field {
                Field::Allowed => self.allowed = self.boolean(field)?,
                Field::Guard => self.guard = self.text(field)?,
                Field::Severity => self.severity = self.text(field)?,
                _ => self.message = self.text(field)?,
            }
        }
        Ok(())
    }

    /// The next field that `lookup` knows in the open object, others skipped; `None` once the object is closed.
    #[inline(always)]
    fn next_field(
        &mut self,
        first: &mut bool,
        lookup: impl Fn(&[u8]) -> Option<Field>,
    ) -> Result<Option<Field>, Stopped> {
        while let Some(key) = self.scanner.next_key(*first)? {
            *first = false;
            let field = if key.escaped {
                lookup(self.scanner.decode(key).as_bytes())
            } else {
                lookup(self.scanner.as_written(key))
            };
            let Some(field) = field else {
                self.scanner.skip()?;
                continue;
            };
            let bit = 1 << field as u8;
            if self.seen & bit != 0 {
                return self.stop(Reason::DuplicateKey, field);
            }
            self.seen |= bit;
            return Ok(Some(field));
        }
        Ok(None)
    }

    #[inline(always)]
    fn stop<T>(&mut self, reason: Reason, field: Field) -> Result<T, Stopped> {
        self.field = Some(field);
        self.scanner.stop(reason)
    }

    /// Steps into the field's object; `false` for null.
    #[inline(always)]
    fn opens(&mut self, field: Field) -> Result<bool, Stopped> {
        match self.scanner.peek_value() {
            b'{' => self.scanner.open_object().map(|()| true),
            b'n' => self.scanner.literal(b"null").map(|()| false),
            _ => self.stop(Reason::MistypedField, field),
        }
    }

    /// A text, or `None` for null.
    #[inline(always)]
    fn text(&mut self, field: Field) -> Result<Option<Text>, Stopped> {
        match self.scanner.peek_value() {
            b'"' => self.scanner.string().map(Some),
            b'n' => self.scanner.literal(b"null").map(|()| None),
            _ => self.stop(Reason::MistypedField, field),
        }
    }

    #[inline(always)]
    fn boolean(&mut self, field: Field) -> Result<Option<bool>, Stopped> {
        match self.scanner.peek_value() {
            b't' => self.scanner.literal(b"true").map(|()| Some(true)),
            b'f' => self.scanner.literal(b"false").map(|()| Some(false)),
            b'n' => self.scanner.literal(b"null").map(|()| None),
            _ => self.stop(Reason::MistypedField, field),
        }
    }

    #[inline(always)]
    fn parsed<T>(
        &mut self,
        field: Field,
        reason: Reason,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Stopped> {
        let Some(text) = self.text(field)? else {
            return Ok(None);
        };
        match parse(&self.scanner.decode(text)) {
            Some(value) => Ok(Some(value)),
            None => self.stop(reason, field),
        }
    }

    /// A text whose meaning has so many bytes.
    #[inline(always)]
    fn bounded(&mut self, field: Field, bytes: RangeInclusive<usize>, reason: Reason) -> Result<Option<Text>, Stopped> {
        let Some(text) = self.text(field)? else {
            return Ok(None);
        };
        let length = if text.escaped { self.scanner.decode(text).len() } else { self.scanner.as_written(text).len() };
        if bytes.contains(&length) { Ok(Some(text)) } else { self.stop(reason, field) }
    }

    #[inline(always)]
    fn identifier(&mut self, field: Field) -> Result<Option<Text>, Stopped> {
        let Some(text) = self.bounded(field, 1..=MAX_ID_BYTES, Reason::IdentifierLength)? else {
            return Ok(None);
        };
        // Without a branch a byte, so that it compiles to vector instructions.
        let printable_ascii =
            self.scanner.as_written(text).iter().fold(true, |all, byte| all & (b' '..=b'~').contains(byte));
        let plain = printable_ascii && !text.escaped;
        if !plain && self.scanner.decode(text).chars().any(char::is_control) {
            return self.stop(Reason::IdentifierControl, field);
        }
        Ok(Some(text))
    }

    fn event(&self, raw: &'a [u8]) -> Result<Event<'a>, Field> {
        let text = |text: Text| self.scanner.decode(text);
        Ok(Event {
            agent_id: self.agent_id.map(text).ok_or(Field::AgentId)?,
            session_id: self.session_id.map(text).ok_or(Field::SessionId)?,
            tenant_id: self.tenant_id.map(text).unwrap_or_default(),
            event_id: self.event_id.map(text),
            timestamp: self.timestamp.ok_or(Field::Timestamp)?,
            event_type: self.event_type.ok_or(Field::EventType)?,
            target: self.target.map(text).ok_or(Field::Target)?,
            allowed: self.allowed.ok_or(Field::Allowed)?,
            guard: self.guard.map(text).unwrap_or_default(),
            severity: self.severity.map(text).map(lower_case).unwrap_or_default(),
            message: self.message.map(text).unwrap_or_default(),
            context: self.context,
            args: self.args,
            raw,
        })
    }
}

/// The severities that are in use, so that `Critical` costs no allocation.
const SEVERITIES: [&str; 8] = ["info", "low", "medium", "high", "critical", "warning", "error", "none"];

fn lower_case(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        return text;
    }
    match SEVERITIES.into_iter().find(|name| name.eq_ignore_ascii_case(&text)) {
        Some(name) => Cow::Borrowed(name),
        None => Cow::Owned(text.to_lowercase()),
    }
}
