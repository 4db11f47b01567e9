//! Putting back what a checkpoint kept, at the start: each worker takes a share of the frames, whoever wrote them, and sends
//! each to the worker that owns its key now. So another number of workers, or other rules, need nothing of their own: an
//! event that was kept is decoded and classified again, by the rules in force.

use std::sync::Arc;

use clawdstrike_telemetry::{Event, decode};
use crossbeam_channel::{Receiver, TryRecvError};
use serde::{Deserialize, Serialize};

use super::hit::{Head, HitBatch, Payload, Position};
use super::ingest::{Ingest, owner};
use super::keep::{KeptHit, KeptRecord};
use super::rules::ById;
use crate::frame::{self, Frame, Kind};

/// What was kept for groups and alerts of one worker.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PutBack {
    /// The worker.
    pub worker: u64,
    /// Events.
    pub hits: HitBatch,
    /// For each: its name in the group's log, and the epoch in which it was put aside.
    pub names: Vec<(u32, u64)>,
    /// All that isn't an event, as frames.
    pub frames: Vec<u8>,
}

/// One worker's share, on its way back.
pub(super) struct Back {
    from: Receiver<Vec<u8>>,
    filling: Vec<PutBack>,
    kept: Vec<Vec<u8>>,
    done: bool,
    told: bool,
}

impl Back {
    /// Takes pieces of frames until their sender is gone.
    pub fn new(from: Receiver<Vec<u8>>, peers: usize) -> Back {
        let filling = (0..peers as u64).map(|worker| PutBack { worker, ..PutBack::default() }).collect();
        Back { from, filling, kept: vec![Vec::new(); peers], done: false, told: false }
    }

    /// What is to be sent.
    pub fn take(&mut self) -> Vec<PutBack> {
        let mut out = Vec::new();
        for (filling, kept) in self.filling.iter_mut().zip(&mut self.kept) {
            if !filling.names.is_empty() || !filling.frames.is_empty() {
                let next = PutBack { worker: filling.worker, ..PutBack::default() };
                let mut full = std::mem::replace(filling, next);
                full.hits.kept = Arc::new(std::mem::take(kept));
                out.push(full);
            }
        }
        out
    }

    /// Everything has been put back, and that wasn't said before.
    pub fn is_told(&mut self) -> bool {
        self.done && !std::mem::replace(&mut self.told, true)
    }
}

impl Ingest {
    /// Takes the next piece of this worker's share; says whether there is more to do at once.
    pub(super) fn put_back(&mut self) -> bool {
        if self.is_full() || self.back.done {
            return false;
        }
        match self.back.from.try_recv() {
            Ok(piece) => {
                self.taken_bytes += piece.len();
                // Segments are checked as wholes when they are read: a frame that isn't whole can't be in one.
                frame::read(&piece).flatten().for_each(|frame| self.put_back_frame(&frame));
                true
            }
            Err(TryRecvError::Empty) => true,
            Err(TryRecvError::Disconnected) => {
                self.back.done = true;
                false
            }
        }
    }

    fn put_back_frame(&mut self, frame: &Frame<'_>) {
        if frame.kind != Kind::Hit {
            let to = owner(frame.key, self.back.filling.len());
            frame.write(&mut self.back.filling[to].frames);
        } else if let Some(hit) = KeptHit::read(frame.key, frame.body)
            && let Some(by) = self.tags.iter().position(|tag| *tag == hit.tag)
        {
            self.put_back_hit(hit, by as ById, frame.epoch);
        }
    }

    fn put_back_hit(&mut self, hit: KeptHit<'_>, by: ById, epoch: u64) {
        let KeptHit { mut head, record, .. } = hit;
        head.by = by;
        let to = owner(head.key, self.back.filling.len());
        let mut name = 0;
        if let Some(record) = record
            && let Ok(event) = decode(record.raw)
        {
            name = record.uid;
            self.encode_back(&event, &record, &mut head, to);
        }
        let filling = &mut self.back.filling[to];
        filling.hits.heads.push(head);
        filling.names.push((name, epoch));
    }

    /// Classifies a kept event again and encodes it as if it had just been read.
    fn encode_back(&mut self, event: &Event<'_>, record: &KeptRecord<'_>, head: &mut Head, to: usize) {
        let Some(classifier) = self.classifier.as_mut() else { return };
        let classified = classifier.classify(event, head.time, &mut self.values);
        let roles = self.roles_of(&classified);
        let source = self.settings.sources.iter().position(|s| s.name == record.source);
        let rank = source.and_then(|at| self.ranks.get(at)).copied().unwrap_or(u16::MAX);
        let by_reference = source.is_some_and(|at| self.settings.sources[at].by_reference);
        head.target = classified.target;
        head.class = classified.class;
        head.event_type = event.event_type;
        head.allowed = event.allowed;
        head.kept = roles >> head.by & 1 == 1;
        if head.kept {
            let bytes = &mut self.back.kept[to];
            head.start = bytes.len() as u32;
            let position = Position { source: rank, partition: record.partition, offset: record.offset };
            head.len = Payload::encode(bytes, event, position, &self.values, by_reference, true);
        }
    }
}
