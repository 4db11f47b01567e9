//! What detection puts aside as it goes: each event that a group remembers, once, when it is taken in. (What else there is
//! to keep of a group changes all the time, and is put aside at cuts: see `snapshot`.)
//!
//! The body of a hit's frame, little-endian: flags (1 byte: 1 kept with its record, 2 re-timed), tag of the `by` list (8),
//! event time (8), timestamp (8), hash of the identity (8), hash of the record (8). If it is kept also: its name in the
//! group's log (4), partition (4), offset (8), name of the source behind its length (1 byte), and the record.

use std::cell::RefCell;
use std::rc::Rc;

use clawdstrike_telemetry::EventType;

use super::class::Retain;
use super::hit::Head;
use super::log::Entry;
use super::settings::Settings;
use crate::frame::{self, Fields, Kind};
use crate::spool::Spool;

/// Puts aside what a worker's groups remember.
pub struct Keeper {
    /// Where to.
    pub spool: Rc<RefCell<Spool>>,
    /// What stands for each `by` list in keys.
    pub tags: Vec<u64>,
    sources: Vec<String>,
    dedup_window: i64,
}

impl Keeper {
    /// With no `by` lists yet.
    pub fn new(spool: Rc<RefCell<Spool>>, settings: &Settings) -> Keeper {
        let mut sources: Vec<String> = settings.sources.iter().map(|s| s.name.clone()).collect();
        sources.sort_unstable();
        Keeper { spool, tags: Vec::new(), sources, dedup_window: settings.dedup_window }
    }

    /// Puts aside an event that is no copy; `entry`: as it is in the group's log, with how long it may be needed there.
    pub fn keep(&self, epoch: u64, head: &Head, entry: Option<(&Entry, Retain)>) {
        if entry.is_none() && head.id == 0 {
            return;
        }
        let copies = if head.id == 0 { 0 } else { self.dedup_window };
        let looked_at = entry.map_or(0, |(_, r)| r.all.max(r.latest).max(r.opener).max(r.after_opener));
        let record = entry.map(|(entry, _)| {
            let payload = entry.payload();
            let position = payload.position();
            KeptRecord {
                uid: entry.uid,
                source: self.sources.get(usize::from(position.source)).map_or("?", String::as_str),
                partition: position.partition,
                offset: position.offset,
                raw: payload.raw(),
            }
        });
        let hit =
            KeptHit { tag: self.tags.get(usize::from(head.by)).copied().unwrap_or_default(), head: *head, record };
        let lasts = copies.max(looked_at);
        let until = head.time.saturating_add(lasts);
        let mut spool = self.spool.borrow_mut();
        frame::write_with(spool.events(lasts, until), Kind::Hit, head.key, epoch, until, |out| hit.write(out));
    }
}

/// The event is kept, with its record.
const KEPT: u8 = 1;
/// Its event time is its reference time.
const SKEWED: u8 = 2;

/// A hit as a frame's body holds it.
pub struct KeptHit<'a> {
    /// Its `by` list.
    pub tag: u64,
    /// What is small; only times and hashes of identity and record count.
    pub head: Head,
    /// Where an event that rules may look back at was read, and what.
    pub record: Option<KeptRecord<'a>>,
}

/// An event that rules may look back at.
#[derive(Clone, Copy)]
pub struct KeptRecord<'a> {
    /// Its name in the group's log.
    pub uid: u32,
    /// The source's name.
    pub source: &'a str,
    /// The partition.
    pub partition: u32,
    /// The position in it.
    pub offset: u64,
    /// As it was read.
    pub raw: &'a [u8],
}

impl<'a> KeptHit<'a> {
    /// Appends the body.
    pub fn write(&self, out: &mut Vec<u8>) {
        let flags = if self.record.is_some() { KEPT } else { 0 } | if self.head.skewed { SKEWED } else { 0 };
        let Head { time, timestamp, id, raw, .. } = self.head;
        // In one piece: this is done for each event.
        let mut fixed = [0u8; 41];
        fixed[0] = flags;
        fixed[1..9].copy_from_slice(&self.tag.to_le_bytes());
        fixed[9..17].copy_from_slice(&time.to_le_bytes());
        fixed[17..25].copy_from_slice(&timestamp.to_le_bytes());
        fixed[25..33].copy_from_slice(&id.to_le_bytes());
        fixed[33..41].copy_from_slice(&raw.to_le_bytes());
        out.extend_from_slice(&fixed);
        if let Some(record) = &self.record {
            // Names of sources are checked to be short.
            let source = &record.source.as_bytes()[..record.source.len().min(255)];
            let mut fixed = [0u8; 17];
            fixed[0..4].copy_from_slice(&record.uid.to_le_bytes());
            fixed[4..8].copy_from_slice(&record.partition.to_le_bytes());
            fixed[8..16].copy_from_slice(&record.offset.to_le_bytes());
            fixed[16] = source.len() as u8;
            out.extend_from_slice(&fixed);
            out.extend_from_slice(source);
            out.extend_from_slice(record.raw);
        }
    }

    /// Reads a body; `None`: it isn't one.
    pub fn read(key: u128, body: &'a [u8]) -> Option<KeptHit<'a>> {
        let mut fields = Fields(body);
        let flags = fields.u8()?;
        let tag = fields.u64()?;
        let head = Head {
            key,
            time: fields.i64()?,
            timestamp: fields.i64()?,
            reference: 0,
            id: fields.u64()?,
            raw: fields.u64()?,
            target: 0,
            class: 0,
            by: 0,
            event_type: EventType::ALL[0],
            allowed: true,
            skewed: flags & SKEWED != 0,
            kept: false,
            again: false,
            reworded: false,
            start: 0,
            len: 0,
        };
        if flags & KEPT == 0 {
            return Some(KeptHit { tag, head, record: None });
        }
        let (uid, partition, offset) = (fields.u32()?, fields.u32()?, fields.u64()?);
        let source = fields.text()?;
        let record = KeptRecord { uid, source, partition, offset, raw: fields.0 };
        Some(KeptHit { tag, head, record: Some(record) })
    }
}
