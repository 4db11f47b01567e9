//! Why a record is no event. Knows the reasons and their words, not where dead letters go.

use std::fmt;

/// Why a record went to the dead letters. The codes are labels of metrics: never change one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// Longer than [`crate::MAX_RECORD_BYTES`].
    RecordTooLong = 0,
    /// Not UTF-8.
    InvalidUtf8,
    /// Not one JSON value.
    InvalidJson,
    /// JSON, but no object.
    NotAnObject,
    /// More than [`crate::MAX_DEPTH`] arrays and objects inside each other.
    TooDeep,
    /// A number that no double can hold.
    NumberOutOfRange,
    /// A field of the event contract twice.
    DuplicateKey,
    /// A required field is absent or null.
    MissingField,
    /// A field holds another JSON type than it must.
    MistypedField,
    /// `timestamp` is a text, but not RFC 3339.
    InvalidTimestamp,
    /// `event_type` is a text, but not one of the seven names.
    UnknownEventType,
    /// `event_id` is there and empty.
    EmptyEventId,
    /// `agent_id`, `session_id` or `tenant_id` is not 1 to 256 bytes long.
    IdentifierLength,
    /// `agent_id`, `session_id` or `tenant_id` holds a control character.
    IdentifierControl,
    /// `action.target` is longer than [`crate::MAX_TARGET_BYTES`].
    TargetTooLong,
}

impl Reason {
    /// Every reason, in the order of their discriminants.
    pub const ALL: [Reason; 15] = [
        Reason::RecordTooLong,
        Reason::InvalidUtf8,
        Reason::InvalidJson,
        Reason::NotAnObject,
        Reason::TooDeep,
        Reason::NumberOutOfRange,
        Reason::DuplicateKey,
        Reason::MissingField,
        Reason::MistypedField,
        Reason::InvalidTimestamp,
        Reason::UnknownEventType,
        Reason::EmptyEventId,
        Reason::IdentifierLength,
        Reason::IdentifierControl,
        Reason::TargetTooLong,
    ];

    /// The stable snake_case code, for metrics and summaries.
    pub const fn code(self) -> &'static str {
        match self {
            Reason::RecordTooLong => "record_too_long",
            Reason::InvalidUtf8 => "invalid_utf8",
            Reason::InvalidJson => "invalid_json",
            Reason::NotAnObject => "not_an_object",
            Reason::TooDeep => "too_deep",
            Reason::NumberOutOfRange => "number_out_of_range",
            Reason::DuplicateKey => "duplicate_key",
            Reason::MissingField => "missing_field",
            Reason::MistypedField => "mistyped_field",
            Reason::InvalidTimestamp => "invalid_timestamp",
            Reason::UnknownEventType => "unknown_event_type",
            Reason::EmptyEventId => "empty_event_id",
            Reason::IdentifierLength => "identifier_length",
            Reason::IdentifierControl => "identifier_control",
            Reason::TargetTooLong => "target_too_long",
        }
    }

    /// The place in [`Reason::ALL`], from 0.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::RecordTooLong => "the record is longer than 1 MiB",
            Reason::InvalidUtf8 => "the record is not UTF-8",
            Reason::InvalidJson => "the record is not one JSON value",
            Reason::NotAnObject => "the record is no JSON object",
            Reason::TooDeep => "the record is more than 64 levels deep",
            Reason::NumberOutOfRange => "a number is beyond a double",
            Reason::DuplicateKey => "a field of the event is there twice",
            Reason::MissingField => "a required field is missing",
            Reason::MistypedField => "a field has the wrong type",
            Reason::InvalidTimestamp => "the timestamp is not RFC 3339",
            Reason::UnknownEventType => "the event type is unknown",
            Reason::EmptyEventId => "the event_id is empty",
            Reason::IdentifierLength => "an identifier is not 1 to 256 bytes long",
            Reason::IdentifierControl => "an identifier holds a control character",
            Reason::TargetTooLong => "the target is longer than 64 KiB",
        })
    }
}

/// A record that is no valid event: counted by `reason`, explained by `detail`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// What was wrong first.
    pub reason: Reason,
    /// The place and what was expected, for people. Never holds text of the record.
    pub detail: String,
}

impl DeadLetter {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> DeadLetter {
        DeadLetter { reason, detail: detail.into() }
    }
}

impl fmt::Display for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}

impl std::error::Error for DeadLetter {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_snake_case_and_in_order() {
        let mut codes: Vec<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert!(reason.code().bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'8'));
        }
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Reason::ALL.len());
    }
}
