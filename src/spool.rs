//! What a worker puts aside for the checkpoint: frames as they come, and at a cut how far it had read. One spool for each
//! worker, shared by its operators; it hands pieces to the process's writer without ever waiting for it.

use std::collections::VecDeque;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use serde::{Deserialize, Serialize};

use crate::inbox::PartitionId;
use crate::loads::InForce;
use crate::view::Held;

/// Frames of events lie together by how long they matter, in microseconds, up to each of these, and longer; so segments
/// end as wholes. The first is what a group needs for late events alone.
const LASTING: [i64; 5] = [60_000_000, 600_000_000, 3_600_000_000, 86_400_000_000, 604_800_000_000];
/// Of events, by [`LASTING`]; and 0: everything else.
const CLASSES: usize = LASTING.len() + 2;
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
    /// What matters only up to before this event time is over; behind the watermark while rules wait for earlier events.
    pub over: Option<i64>,
    /// How far this worker's partitions were read.
    pub partitions: Vec<(PartitionId, Progress)>,
    /// The rules in force, as one of the workers tells.
    pub in_force: Option<InForce>,
}

/// Frames that matter for about as long.
#[derive(Clone, Debug, Default)]
pub struct Piece {
    /// How long: 0, nobody knows; the higher, the longer.
    pub class: u8,
    /// None of it matters beyond this event time; `None`: some may.
    pub until: Option<i64>,
    /// The frames.
    pub frames: Vec<u8>,
}

/// What goes to the writer.
#[derive(Debug)]
pub enum Spooled {
    /// Frames.
    Piece(usize, Piece),
    /// All pieces that came before from this worker, and since its cut before, belong to this one.
    Cut(usize, Cut),
}

/// The way from the spools of a process to its writer. Pieces come back empty: memory that is used again costs no page faults,
/// of which there would be one for each dozen of events.
#[derive(Clone)]
pub struct ToWriter {
    /// There.
    pub pieces: Sender<Spooled>,
    /// And back.
    emptied: Receiver<Vec<u8>>,
}

/// The writer's end of it.
pub struct FromSpools {
    /// What is to be written.
    pub pieces: Receiver<Spooled>,
    /// For pieces that are.
    pub emptied: Sender<Vec<u8>>,
}

/// A way on which so many pieces may be.
pub fn to_writer(most: usize) -> (ToWriter, FromSpools) {
    let (to, from) = bounded(most);
    let (back, again) = bounded(most);
    (ToWriter { pieces: to, emptied: again }, FromSpools { pieces: from, emptied: back })
}

/// One worker's spool.
pub struct Spool {
    worker: usize,
    to: ToWriter,
    /// By class.
    open: [Piece; CLASSES],
    sealed: VecDeque<(Cut, Vec<Piece>)>,
    read: VecDeque<(u64, Vec<(PartitionId, Progress)>)>,
    waiting: VecDeque<Spooled>,
}

impl Spool {
    /// For a worker, by its place in its process.
    pub fn new(worker: usize, to: ToWriter) -> Spool {
        let open = std::array::from_fn(|class| Piece { class: class as u8, ..Piece::default() });
        Spool { worker, to, open, sealed: VecDeque::new(), read: VecDeque::new(), waiting: VecDeque::new() }
    }

    /// Where frames of the current epoch are appended.
    pub fn frames(&mut self) -> &mut Vec<u8> {
        self.of_class(0)
    }

    /// Where an event of the current epoch is appended that matters for so long, in microseconds, up to an event time.
    pub fn events(&mut self, lasts: i64, until: i64) -> &mut Vec<u8> {
        let class = 1 + LASTING.iter().take_while(|longest| lasts > **longest).count();
        let known = &mut self.open[class].until;
        *known = Some(known.map_or(until, |known| known.max(until)));
        self.of_class(class)
    }

    fn of_class(&mut self, class: usize) -> &mut Vec<u8> {
        let open = &mut self.open[class];
        if open.frames.len() >= PIECE {
            // The bound holds for the next piece, too.
            let piece = Piece { frames: std::mem::take(&mut open.frames), ..*open };
            self.give(Spooled::Piece(self.worker, piece));
        }
        let open = &mut self.open[class].frames;
        if open.capacity() == 0 {
            // With room for the last frame and the checksum.
            *open = self.to.emptied.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE + PIECE / 4));
        }
        open
    }

    /// Pieces that the writer doesn't have yet.
    pub fn held(&self) -> Held {
        let sealed =
            self.sealed.iter().flat_map(|(_, pieces)| pieces).chain(&self.open).map(|piece| piece.frames.len());
        let waiting = self.waiting.iter().map(|spooled| match spooled {
            Spooled::Piece(_, piece) => piece.frames.len(),
            Spooled::Cut(..) => 0,
        });
        let pieces = sealed.chain(waiting).filter(|bytes| *bytes > 0);
        pieces.fold(Held::default(), |held, bytes| Held { rows: held.rows + 1, bytes: held.bytes + bytes as u64 })
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

    /// Detection is at the cut: what it appends from now on belongs to the next. The partitions are added here.
    pub fn seal(&mut self, mut cut: Cut) {
        let at = self.read.iter().position(|(epoch, _)| *epoch == cut.epoch);
        cut.partitions = at.and_then(|at| self.read.remove(at)).map(|(_, p)| p).unwrap_or_default();
        // What is over needn't be written.
        let matters = |until: i64| cut.over.is_none_or(|over| until >= over);
        let mut pieces = Vec::new();
        for open in &mut self.open {
            let piece = Piece { frames: std::mem::take(&mut open.frames), ..*open };
            open.until = None;
            if piece.class == 0 || piece.until.is_some_and(matters) {
                pieces.push(piece);
            }
        }
        self.sealed.push_back((cut, pieces));
    }

    /// The last of the operators is at the cut, with these frames: it is complete.
    pub fn finish(&mut self, epoch: u64, last: &mut Vec<u8>) {
        let Some(at) = self.sealed.iter().position(|(cut, _)| cut.epoch == epoch) else { return };
        if let Some((cut, mut pieces)) = self.sealed.remove(at) {
            if let Some(first) = pieces.first_mut() {
                first.frames.append(last);
            }
            for piece in pieces.into_iter().filter(|piece| !piece.frames.is_empty()) {
                self.give(Spooled::Piece(self.worker, piece));
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
            match self.to.pieces.try_send(next) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_lie_together_by_how_long_they_matter_and_those_that_are_over_are_not_written() {
        let (to, from) = to_writer(16);
        let mut spool = Spool::new(0, to);
        let (minute, hour) = (60_000_000, 3_600_000_000);
        // Rules wait for events since 100.
        let cut = |epoch| Cut { epoch, watermark: Some(500), over: Some(100), partitions: Vec::new(), in_force: None };
        spool.frames().extend_from_slice(b"group");
        spool.events(minute, 99).extend_from_slice(b"over");
        spool.events(hour, 150).extend_from_slice(b"one");
        spool.events(hour - 1, 100).extend_from_slice(b"two");
        spool.events(hour + 1, 120).extend_from_slice(b"three");
        assert_eq!(spool.held(), Held { rows: 4, bytes: 20 });
        spool.seal(cut(1));
        assert_eq!(spool.held(), Held { rows: 3, bytes: 16 }, "what is over has gone");
        spool.finish(1, &mut b"alert".to_vec());
        assert_eq!(spool.held(), Held::default(), "the writer has it");
        // What comes after a cut is of the next, and its bounds are its own.
        spool.events(hour, 140).extend_from_slice(b"four");
        spool.seal(cut(2));
        spool.finish(2, &mut Vec::new());
        let told = |spooled| match spooled {
            Spooled::Piece(_, Piece { class, until, frames }) => (class, until, String::from_utf8(frames).unwrap()),
            Spooled::Cut(_, cut) => (0, None, cut.epoch.to_string()),
        };
        let expected = [
            (0, None, "groupalert"),
            (3, Some(150), "onetwo"),
            (4, Some(120), "three"),
            (0, None, "1"),
            (3, Some(140), "four"),
            (0, None, "2"),
        ];
        assert_eq!(
            from.pieces.try_iter().map(told).collect::<Vec<_>>(),
            expected.map(|(c, u, t)| (c, u, t.to_owned()))
        );
    }

    #[test]
    fn pieces_are_filled_that_were_written_before() {
        let (to, from) = to_writer(1);
        let mut spool = Spool::new(0, to);
        let written = Vec::with_capacity(77);
        let place = written.as_ptr();
        from.emptied.send(written).unwrap();
        assert_eq!(spool.frames().as_ptr(), place);
        assert!(spool.events(1, 1).capacity() > PIECE, "with no other to be had");
    }
}
