//! From files to events in the total order: decoding, reference times, copies. Knows no rule.

use std::collections::BTreeMap;

use clawdstrike_telemetry::{self as telemetry, decode};

use crate::Options;
use crate::event::{Event, Identity};

/// What was read.
pub(crate) struct Read {
    /// In the total order, copies left out.
    pub(crate) events: Vec<Event>,
    pub(crate) copies: u64,
    /// By reason code.
    pub(crate) dead: BTreeMap<String, u64>,
    pub(crate) retimed: u64,
    /// The watermark at the end: the largest event time of any valid record.
    pub(crate) watermark: i64,
}

/// Reads the files one after the other.
pub(crate) fn read(files: &[Vec<u8>], options: &Options) -> Read {
    let mut read = Read { events: Vec::new(), copies: 0, dead: BTreeMap::new(), retimed: 0, watermark: i64::MIN };
    // Event time of the latest kept event of each identity and content.
    let mut kept: BTreeMap<Identity, i64> = BTreeMap::new();
    for (partition, file) in files.iter().enumerate() {
        let mut largest = None;
        for (offset, line) in lines(file) {
            match decode(line) {
                Ok(event) => {
                    let stamp = Stamp::of(event.timestamp, &mut largest, options);
                    read.take(&event, stamp, (partition, offset), &mut kept, options);
                }
                Err(dead) => *read.dead.entry(dead.reason.code().to_owned()).or_default() += 1,
            }
        }
    }
    read.events.sort_by(|a, b| a.order().cmp(&b.order()));
    read
}

impl Read {
    fn take(
        &mut self,
        decoded: &telemetry::Event<'_>,
        stamp: Stamp,
        position: (usize, usize),
        kept: &mut BTreeMap<Identity, i64>,
        options: &Options,
    ) {
        self.watermark = self.watermark.max(stamp.time);
        let identity = identity(decoded, position);
        let recognised = options.dedup_window.max(options.max_lateness);
        match kept.get(&identity) {
            Some(time) if stamp.reference - time <= recognised => {
                self.copies += 1;
                return;
            }
            _ => kept.insert(identity.clone(), stamp.time),
        };
        self.retimed += u64::from(stamp.retimed);
        self.events.push(Event::new(decoded, stamp.time, identity));
    }
}

fn identity(decoded: &telemetry::Event<'_>, (partition, offset): (usize, usize)) -> Identity {
    match &decoded.event_id {
        None => Identity::Position { partition, offset },
        Some(event) => Identity::Id {
            tenant: decoded.tenant_id.to_string(),
            agent: decoded.agent_id.to_string(),
            session: decoded.session_id.to_string(),
            event: event.to_string(),
            raw: decoded.raw.to_vec(),
        },
    }
}

/// The times of one record.
struct Stamp {
    /// R.
    reference: i64,
    /// Event time.
    time: i64,
    /// The event time is R because the timestamp lies too far from it.
    retimed: bool,
}

impl Stamp {
    /// `largest` is the largest usable timestamp of the file so far.
    fn of(timestamp: i64, largest: &mut Option<i64>, options: &Options) -> Stamp {
        if timestamp <= options.now + options.max_skew {
            *largest = Some(largest.map_or(timestamp, |so_far| so_far.max(timestamp)));
        }
        let reference = largest.unwrap_or(options.now);
        let usable = reference - options.max_lateness..=reference + options.max_skew;
        let retimed = !usable.contains(&timestamp);
        Stamp { reference, time: if retimed { reference } else { timestamp }, retimed }
    }
}

/// The lines of a file that aren't blank, with the byte offsets at which they begin; `\r\n` ends a line too.
fn lines(file: &[u8]) -> Vec<(usize, &[u8])> {
    let mut offset = 0;
    let mut lines = Vec::new();
    for line in file.split(|byte| *byte == b'\n') {
        let record = line.strip_suffix(b"\r").unwrap_or(line);
        if !record.iter().all(|byte| b" \t\r".contains(byte)) {
            lines.push((offset, record));
        }
        offset += line.len() + 1;
    }
    lines
}
