//! What a worker puts aside for the checkpoint: frames as they come, and at a cut how far it had read. One spool for each
//! worker, shared by its operators; it hands pieces to the process's writer without ever waiting for it.

use std::collections::VecDeque;

use crossbeam_channel::{Sender, TrySendError};
use serde::{Deserialize, Serialize};

use crate::inbox::PartitionId;
use crate::loads::InForce;

/// A piece is handed on at this size.
const PIECE: usize = 4 << 20;
/// Pieces that may wait for the writer before the worker reads no more.
const WAITING: usize = 2;
/// Pieces that may be under way to the writer of a process.
pub const UNDER_WAY: usize = 4;

/// How far a partition has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What to read next.
    pub next: u64,
    /// The largest reference time so far.
    pub largest: Option<i64>,
    /// The largest event time so far.
    pub latest: Option<i64>,
    /// Its records carry the broker's append time.
    pub append: bool,
    /// The largest usable timestamp so far, where they don't.
    pub largest_timestamp: Option<i64>,
}

/// What a worker's operators agree on at a cut.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Everything up to this epoch is in the worker's pieces, and nothing of a later one.
    pub epoch: u64,
    /// The event-time bound.
    pub watermark: Option<i64>,
    /// How far this worker's partitions were read.
    pub partitions: Vec<(PartitionId, Progress)>,
    /// The rules in force, as one of the workers tells.
    pub in_force: Option<InForce>,
}

/// What goes to the writer.
#[derive(Debug)]
pub enum Spooled {
    /// Frames.
    Piece(usize, Vec<u8>),
    /// All pieces that came before from this worker, and since its cut before, belong to this one.
    Cut(usize, Cut),
}

/// One worker's spool.
pub struct Spool {
    worker: usize,
    to: Sender<Spooled>,
    open: Vec<u8>,
    sealed: VecDeque<(Cut, Vec<u8>)>,
    read: VecDeque<(u64, Vec<(PartitionId, Progress)>)>,
    waiting: VecDeque<Spooled>,
}

impl Spool {
    /// For a worker, by its place in its process.
    pub fn new(worker: usize, to: Sender<Spooled>) -> Spool {
        Spool { worker, to, open: Vec::new(), sealed: VecDeque::new(), read: VecDeque::new(), waiting: VecDeque::new() }
    }

    /// Where frames of the current epoch are appended.
    pub fn frames(&mut self) -> &mut Vec<u8> {
        if self.open.len() >= PIECE {
            // With room for the last frame and the checksum.
            let piece = std::mem::replace(&mut self.open, Vec::with_capacity(PIECE + PIECE / 4));
            self.give(Spooled::Piece(self.worker, piece));
        }
        &mut self.open
    }

    /// The writer can't keep up: the worker should read no more for now.
    pub fn is_behind(&mut self) -> bool {
        self.hand_on();
        self.waiting.len() > WAITING
    }

    /// The reading side is at the cut.
    pub fn note_read(&mut self, epoch: u64, partitions: Vec<(PartitionId, Progress)>) {
        self.read.push_back((epoch, partitions));
    }

    /// Detection is at the cut: what it appends from now on belongs to the next.
    pub fn seal(&mut self, epoch: u64, watermark: Option<i64>, in_force: Option<InForce>) {
        let at = self.read.iter().position(|(e, _)| *e == epoch);
        let partitions = at.and_then(|at| self.read.remove(at)).map(|(_, p)| p).unwrap_or_default();
        let frames = std::mem::take(&mut self.open);
        self.sealed.push_back((Cut { epoch, watermark, partitions, in_force }, frames));
    }

    /// The last of the operators is at the cut, with these frames: it is complete.
    pub fn finish(&mut self, epoch: u64, last: &mut Vec<u8>) {
        let Some(at) = self.sealed.iter().position(|(cut, _)| cut.epoch == epoch) else { return };
        if let Some((cut, mut frames)) = self.sealed.remove(at) {
            frames.append(last);
            if !frames.is_empty() {
                self.give(Spooled::Piece(self.worker, frames));
            }
            self.give(Spooled::Cut(self.worker, cut));
        }
    }

    fn give(&mut self, spooled: Spooled) {
        self.waiting.push_back(spooled);
        self.hand_on();
    }

    /// Hands on what waits, as far as the writer has room.
    pub fn hand_on(&mut self) {
        while let Some(next) = self.waiting.pop_front() {
            match self.to.try_send(next) {
                Ok(()) => {}
                Err(TrySendError::Full(next)) => {
                    self.waiting.push_front(next);
                    return;
                }
                // The process ends.
                Err(TrySendError::Disconnected(_)) => return,
            }
        }
    }
}
