//! What travels to the worker that owns a key: one small head and a payload for each event and each key it concerns.
//!
//! The payload carries the record itself: evidence, the webhook's trigger event and the total order of events with one
//! id (SPEC §3: "then by the raw record") can be exact only with it. Batches hold payloads in one buffer, so a hit costs
//! a copy and no allocation until an operator decides to keep it.

use std::cmp::Ordering;

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
    /// Hash of the record's bytes.
    pub raw: u64,
    /// Hash of the normalised target's text.
    pub target: u64,
    /// Which matchers the event satisfies.
    pub class: u32,
    /// Which `by` list.
    pub by: u16,
    /// Event time is the reference time because the timestamp was out of range.
    pub skewed: bool,
    /// First byte of the payload in the batch.
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
    /// Their payloads.
    pub bytes: Vec<u8>,
}

impl HitBatch {
    /// The payload of a hit of this batch.
    pub fn payload(&self, head: &Head) -> Payload<'_> {
        Payload(&self.bytes[head.start as usize..(head.start + head.len) as usize])
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

const HEADER: usize = 36;
const ALLOWED: u8 = 1 << 3;
const HAS_ID: u8 = 1 << 4;
const BY_POSITION: u8 = 1 << 5;

/// An encoded event: fixed header, value hashes, then tenant, agent, session, event_id, target and the record.
#[derive(Clone, Copy)]
pub struct Payload<'a>(pub &'a [u8]);

impl<'a> Payload<'a> {
    /// Appends the encoding of an event. `values` are hashes of the fields that the rule set compares;
    /// `by_position`: its source orders events by position.
    pub fn encode(out: &mut Vec<u8>, event: &Event<'_>, position: Position, values: &[u64], by_position: bool) {
        let id = event.event_id.as_deref();
        let mut flags = event.event_type as u8;
        flags |= if event.allowed { ALLOWED } else { 0 };
        flags |= if id.is_some() { HAS_ID } else { 0 };
        flags |= if by_position || id.is_none() { BY_POSITION } else { 0 };
        let id = id.unwrap_or("");
        let mut header = [0u8; HEADER];
        header[0..2].copy_from_slice(&position.source.to_le_bytes());
        header[2] = flags;
        header[3] = values.len() as u8;
        header[4..8].copy_from_slice(&position.partition.to_le_bytes());
        header[8..16].copy_from_slice(&position.offset.to_le_bytes());
        header[16..18].copy_from_slice(&(event.tenant_id.len() as u16).to_le_bytes());
        header[18..20].copy_from_slice(&(event.agent_id.len() as u16).to_le_bytes());
        header[20..22].copy_from_slice(&(event.session_id.len() as u16).to_le_bytes());
        header[24..28].copy_from_slice(&(id.len() as u32).to_le_bytes());
        header[28..32].copy_from_slice(&(event.target.len() as u32).to_le_bytes());
        out.extend_from_slice(&header);
        for value in values {
            out.extend_from_slice(&value.to_le_bytes());
        }
        for text in [&*event.tenant_id, &*event.agent_id, &*event.session_id, id, &*event.target] {
            out.extend_from_slice(text.as_bytes());
        }
        out.extend_from_slice(event.raw);
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

    /// Start and end of tenant, agent, session, event_id, target.
    fn ends(self) -> [usize; 6] {
        let start = HEADER + 8 * usize::from(self.0[3]);
        let tenant = start + self.u16(16);
        let agent = tenant + self.u16(18);
        let session = agent + self.u16(20);
        let id = session + self.u32(24) as usize;
        [start, tenant, agent, session, id, id + self.u32(28) as usize]
    }

    fn part(self, n: usize) -> &'a [u8] {
        let ends = self.ends();
        &self.0[ends[n]..ends[n + 1]]
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
    /// The record.
    pub fn raw(self) -> &'a [u8] {
        &self.0[self.ends()[5]..]
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

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(raw: &str, offset: u64) -> Vec<u8> {
        let event = clawdstrike_telemetry::decode(raw.as_bytes()).unwrap();
        let mut out = Vec::new();
        Payload::encode(&mut out, &event, Position { source: 1, partition: 2, offset }, &[7, 9], false);
        out
    }

    #[test]
    fn decodes_what_was_encoded() {
        let raw = r#"{"event_id":"e1","agent_id":"a","session_id":"s\u0041","timestamp":"2024-05-06T10:00:00Z","event_type":"shell_command","action":{"target":"ls"},"result":{"allowed":false},"tenant_id":"t"}"#;
        let bytes = payload(raw, 77);
        let p = Payload(&bytes);
        assert_eq!(
            (p.tenant_id(), p.agent_id(), p.session_id(), p.event_id(), p.target()),
            ("t", "a", "sA", Some("e1"), "ls")
        );
        assert_eq!(
            (p.event_type(), p.allowed(), p.value(0), p.value(1), p.value(2)),
            (EventType::ShellCommand, false, 7, 9, 0)
        );
        assert_eq!(p.position(), Position { source: 1, partition: 2, offset: 77 });
        assert_eq!(p.raw(), raw.as_bytes());
    }

    #[test]
    fn positions_come_before_ids_and_raw_records_break_ties() {
        let event = |id: &str, target: &str| {
            format!(
                r#"{{{id}"agent_id":"a","session_id":"s","timestamp":"2024-05-06T10:00:00Z","event_type":"shell_command","action":{{"target":"{target}"}},"result":{{"allowed":true}}}}"#
            )
        };
        let (none, x, y) = (
            payload(&event("", "z"), 9),
            payload(&event(r#""event_id":"a","#, "x"), 1),
            payload(&event(r#""event_id":"a","#, "y"), 0),
        );
        assert_eq!(Payload(&none).compare(Payload(&x)), Ordering::Less);
        assert_eq!(Payload(&x).compare(Payload(&y)), Ordering::Less);
        assert_eq!(Payload(&y).compare(Payload(&y)), Ordering::Equal);
    }
}
