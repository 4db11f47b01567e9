//! What travels to the worker that owns a key: one small head and a payload for each event and each key it concerns.
//!
//! The payload of an event that some rule may look back at carries the record itself: evidence, the webhook's trigger
//! event and the total order of events with one id (SPEC §3: "then by the raw record") can be exact only with it. Batches
//! hold payloads in one buffer, which a log that keeps a hit shares: a hit costs one copy and no allocation.

use std::cmp::Ordering;
use std::sync::Arc;

use clawdstrike_telemetry::{Event, EventType};
use serde::{Deserialize, Serialize};

/// One event for one key.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Head {
    /// Hash of the group: the `by` list, the tenant, the values.
    pub key: u128,
    /// Event time, microseconds since 1970.
    pub time: i64,
    /// The event's own timestamp: equal for all copies of an event, whatever their event times.
    pub timestamp: i64,
    /// The reference time when the record was read.
    pub reference: i64,
    /// Hash of the event_id identity; 0 if the position is the identity.
    pub id: u64,
    /// Hash of the record's bytes; 0 without an event_id.
    pub raw: u64,
    /// Hash of the normalised target's text.
    pub target: u64,
    /// Which matchers the event satisfies.
    pub class: u32,
    /// Which `by` list.
    pub by: u16,
    /// What the agent did.
    pub event_type: EventType,
    /// The guard's verdict.
    pub allowed: bool,
    /// Event time is the reference time because the timestamp was out of range.
    pub skewed: bool,
    /// The payload is in [`HitBatch::kept`], with the record.
    pub kept: bool,
    /// It was read again, for rules that have been loaded since.
    pub again: bool,
    /// The record isn't the bytes that were read first, though it says the same.
    pub reworded: bool,
    /// First byte of the payload.
    pub start: u32,
    /// Length of the payload.
    pub len: u32,
}

/// Hits for one worker.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HitBatch {
    /// The worker.
    pub worker: u64,
    /// The hits, in the order in which they were read.
    pub heads: Vec<Head>,
    /// Payloads of hits that rules may look back at; logs share it.
    #[serde(with = "shared_bytes")]
    pub kept: Arc<Vec<u8>>,
    /// Payloads of hits that only count, without their records.
    #[serde(with = "bytes")]
    pub passing: Vec<u8>,
}

impl HitBatch {
    /// The payload of a hit of this batch.
    pub fn payload(&self, head: &Head) -> Payload<'_> {
        Payload::at(if head.kept { &self.kept } else { &self.passing }, head.start, head.len)
    }
}

/// A batch of hits is sent at this size.
const BATCH_BYTES: usize = 128 * 1024;

/// Hits for one worker, being gathered.
#[derive(Default)]
pub(super) struct Filling {
    pub worker: u64,
    pub heads: Vec<Head>,
    pub kept: Vec<u8>,
    pub passing: Vec<u8>,
}

impl Filling {
    pub fn is_full(&self) -> bool {
        self.kept.len() + self.passing.len() >= BATCH_BYTES
    }

    /// What there is; the next one begins with as much room.
    pub fn take(&mut self) -> HitBatch {
        let next = Filling {
            worker: self.worker,
            heads: Vec::with_capacity(self.heads.len()),
            kept: Vec::with_capacity(self.kept.len()),
            passing: Vec::with_capacity(self.passing.len()),
        };
        let Filling { worker, heads, kept, passing } = std::mem::replace(self, next);
        HitBatch { worker, heads, kept: Arc::new(kept), passing }
    }
}

/// Bytes as one piece, not as a list of numbers.
mod bytes {
    use serde::de::{Deserializer, Error, Visitor};

    pub fn serialize<S: serde::Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        from.deserialize_byte_buf(Bytes)
    }

    struct Bytes;

    impl Visitor<'_> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }

        fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }
    }
}

/// As [`bytes`], shared.
mod shared_bytes {
    use std::sync::Arc;

    pub fn serialize<S: serde::Serializer>(bytes: &Arc<Vec<u8>>, to: S) -> Result<S::Ok, S::Error> {
        super::bytes::serialize(bytes, to)
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Arc<Vec<u8>>, D::Error> {
        super::bytes::deserialize(from).map(Arc::new)
    }
}

/// Where a record was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Rank of the source's name among all sources.
    pub source: u16,
    /// The source's partition.
    pub partition: u32,
    /// The position in it.
    pub offset: u64,
}

const HEADER: usize = 60;
const SPANS: usize = 20;
const ALLOWED: u8 = 1 << 3;
const HAS_ID: u8 = 1 << 4;
const BY_POSITION: u8 = 1 << 5;

/// An encoded event, little-endian:
///
/// | bytes | what |
/// |---|---|
/// | 0-1 | rank of the source |
/// | 2 | bits 0-2 event type, 3 allowed, 4 has an event_id, 5 ordered by position |
/// | 3 | how many value hashes |
/// | 4-7, 8-15 | partition, offset |
/// | 16-19 | length of the record (0: left out) |
/// | 20-59 | for tenant, agent, session, event_id, target: start (counted from the record's) and length |
/// | 60- | value hashes, the record, then those texts that aren't in the record as they are |
#[derive(Clone, Copy)]
pub struct Payload<'a>(&'a [u8]);

impl<'a> Payload<'a> {
    /// The payload of this length that begins there.
    #[inline]
    pub fn at(bytes: &'a [u8], start: u32, len: u32) -> Payload<'a> {
        Payload(&bytes[start as usize..][..len as usize])
    }

    /// All of it.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Appends the encoding of an event; gives its length. `values` are hashes of the fields that the rule set compares;
    /// `by_position`: its source orders events by position; `with_record`: rules may look back at it.
    pub fn encode(
        out: &mut Vec<u8>,
        event: &Event<'_>,
        position: Position,
        values: &[u64],
        by_position: bool,
        with_record: bool,
    ) -> u32 {
        let begin = out.len();
        let id = event.event_id.as_deref();
        let mut flags = event.event_type as u8;
        flags |= if event.allowed { ALLOWED } else { 0 };
        flags |= if id.is_some() { HAS_ID } else { 0 };
        flags |= if by_position || id.is_none() { BY_POSITION } else { 0 };
        let record: &[u8] = if with_record { event.raw } else { &[] };
        let mut header = [0u8; HEADER];
        header[0..2].copy_from_slice(&position.source.to_le_bytes());
        header[2] = flags;
        header[3] = values.len() as u8;
        header[4..8].copy_from_slice(&position.partition.to_le_bytes());
        header[8..16].copy_from_slice(&position.offset.to_le_bytes());
        header[16..20].copy_from_slice(&(record.len() as u32).to_le_bytes());
        out.extend_from_slice(&header);
        for value in values {
            out.extend_from_slice(&value.to_le_bytes());
        }
        let origin = out.len();
        out.extend_from_slice(record);
        let texts = [&*event.tenant_id, &*event.agent_id, &*event.session_id, id.unwrap_or(""), &*event.target];
        for (n, text) in texts.into_iter().enumerate() {
            let start = place_in(record, text.as_bytes()).unwrap_or_else(|| {
                out.extend_from_slice(text.as_bytes());
                out.len() - origin - text.len()
            });
            let span = begin + SPANS + 8 * n;
            out[span..span + 4].copy_from_slice(&(start as u32).to_le_bytes());
            out[span + 4..span + 8].copy_from_slice(&(text.len() as u32).to_le_bytes());
        }
        (out.len() - begin) as u32
    }

    fn u16(self, at: usize) -> usize {
        usize::from(u16::from_le_bytes([self.0[at], self.0[at + 1]]))
    }

    fn u32(self, at: usize) -> u32 {
        u32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    fn u64(self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }

    /// Where the record was read.
    pub fn position(self) -> Position {
        Position { source: self.u16(0) as u16, partition: self.u32(4), offset: self.u64(8) }
    }

    /// What the agent did.
    pub fn event_type(self) -> EventType {
        EventType::ALL[usize::from(self.0[2] & 7)]
    }

    /// The guard's verdict.
    pub fn allowed(self) -> bool {
        self.0[2] & ALLOWED != 0
    }

    /// The hash of the n-th compared field; 0 if it is absent.
    pub fn value(self, n: usize) -> u64 {
        if n < usize::from(self.0[3]) { self.u64(HEADER + 8 * n) } else { 0 }
    }

    /// Where the record begins, or would.
    fn origin(self) -> usize {
        HEADER + 8 * usize::from(self.0[3])
    }

    fn part(self, n: usize) -> &'a [u8] {
        let start = self.origin() + self.u32(SPANS + 8 * n) as usize;
        &self.0[start..start + self.u32(SPANS + 8 * n + 4) as usize]
    }

    fn text(self, n: usize) -> &'a str {
        // Encoded from a `str`; a payload that isn't shows as empty rather than stopping a worker.
        std::str::from_utf8(self.part(n)).unwrap_or_default()
    }

    /// The tenant; empty if none.
    pub fn tenant_id(self) -> &'a str {
        self.text(0)
    }
    /// The agent.
    pub fn agent_id(self) -> &'a str {
        self.text(1)
    }
    /// The session.
    pub fn session_id(self) -> &'a str {
        self.text(2)
    }
    /// The event_id, if there is one.
    pub fn event_id(self) -> Option<&'a str> {
        (self.0[2] & HAS_ID != 0).then(|| self.text(3))
    }
    /// The target as the agent wrote it.
    pub fn target(self) -> &'a str {
        self.text(4)
    }
    /// The bytes of [`Payload::target`].
    pub fn target_bytes(self) -> &'a [u8] {
        self.part(4)
    }
    /// The record; empty if it was left out.
    pub fn raw(self) -> &'a [u8] {
        &self.0[self.origin()..][..self.u32(16) as usize]
    }

    /// Whether both are records of one id with the same bytes.
    pub fn is_copy_of(self, other: Payload<'_>) -> bool {
        self.is_same_event(other) && self.raw() == other.raw()
    }

    /// Whether both are records of one id, whatever their bytes.
    pub fn is_same_event(self, other: Payload<'_>) -> bool {
        self.event_id().is_some() && (0..4).all(|n| self.part(n) == other.part(n))
    }

    /// The order of two events of one event time (SPEC §3, "Total order"): positions before ids; ids by tenant, agent,
    /// session, event_id as bytes, then by the raw record.
    pub fn compare(self, other: Payload<'_>) -> Ordering {
        let by_position = |p: Payload<'_>| p.0[2] & BY_POSITION != 0;
        match (by_position(self), by_position(other)) {
            (true, true) => self.position().cmp(&other.position()),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => (0..4)
                .map(|n| self.part(n).cmp(other.part(n)))
                .find(|o| o.is_ne())
                .unwrap_or_else(|| self.raw().cmp(other.raw())),
        }
    }
}

/// Where a text lies in the record, if it was borrowed from there.
fn place_in(record: &[u8], text: &[u8]) -> Option<usize> {
    let place = (text.as_ptr() as usize).checked_sub(record.as_ptr() as usize)?;
    (place + text.len() <= record.len()).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(raw: &str, offset: u64, with_record: bool) -> Vec<u8> {
        let event = clawdstrike_telemetry::decode(raw.as_bytes()).unwrap();
        let mut out = Vec::new();
        let position = Position { source: 1, partition: 2, offset };
        let len = Payload::encode(&mut out, &event, position, &[7, 9], false, with_record);
        assert_eq!(len as usize, out.len());
        out
    }

    #[test]
    fn decodes_what_was_encoded() {
        let raw = r#"{"event_id":"e1","agent_id":"a","session_id":"s\u0041","timestamp":"2024-05-06T10:00:00Z","event_type":"shell_command","action":{"target":"ls"},"result":{"allowed":false},"tenant_id":"t"}"#;
        for with_record in [true, false] {
            let mut bytes = vec![1, 2, 3];
            bytes.extend(payload(raw, 77, with_record));
            bytes.push(4);
            let p = Payload::at(&bytes, 3, bytes.len() as u32 - 4);
            assert_eq!(
                (p.tenant_id(), p.agent_id(), p.session_id(), p.event_id(), p.target()),
                ("t", "a", "sA", Some("e1"), "ls")
            );
            assert_eq!(
                (p.event_type(), p.allowed(), p.value(0), p.value(1), p.value(2)),
                (EventType::ShellCommand, false, 7, 9, 0)
            );
            assert_eq!(p.position(), Position { source: 1, partition: 2, offset: 77 });
            assert_eq!(p.raw(), if with_record { raw.as_bytes() } else { b"" });
        }
    }

    #[test]
    fn positions_come_before_ids_and_raw_records_break_ties() {
        let event = |id: &str, target: &str| {
            format!(
                r#"{{{id}"agent_id":"a","session_id":"s","timestamp":"2024-05-06T10:00:00Z","event_type":"shell_command","action":{{"target":"{target}"}},"result":{{"allowed":true}}}}"#
            )
        };
        let (none, x, y) = (
            payload(&event("", "z"), 9, true),
            payload(&event(r#""event_id":"a","#, "x"), 1, true),
            payload(&event(r#""event_id":"a","#, "y"), 0, true),
        );
        let compare = |a, b| Payload(a).compare(Payload(b));
        assert_eq!(compare(&none, &x), Ordering::Less);
        assert_eq!(compare(&x, &y), Ordering::Less);
        assert_eq!(compare(&y, &y), Ordering::Equal);
    }
}
