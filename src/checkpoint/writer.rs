//! The writer: one thread a process, which makes segments of what its workers put aside, and a part of each cut.

use std::thread::JoinHandle;

use crossbeam_channel::Sender;
use serde::{Deserialize, Serialize};

use super::manifest::Segment;
use super::storage::{Sealed, Storage};
use crate::inbox::PartitionId;
use crate::loads::InForce;
use crate::spool::{self, Cut, Piece, Progress, Spooled, ToWriter, UNDER_WAY};

/// Who waits, in messages.
const WAITS: &str = "a checkpoint waits to be written";

/// One process's part of a cut.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Part {
    pub watermark: Option<i64>,
    pub over: Option<i64>,
    pub segments: Vec<Segment>,
    pub positions: Vec<(u16, u32, Progress)>,
    pub in_force: Option<InForce>,
}

/// Epochs never go back, so a part's name is given once.
pub(super) fn part_name(epoch: u64, process: usize) -> String {
    format!("parts/{epoch:020}-{process}")
}

/// The epoch in a part's name.
pub(super) fn part_epoch(name: &str) -> Option<u64> {
    name.rsplit('/').next()?.split_once('-')?.0.parse().ok()
}

/// The running writer. It ends when all that send to it are gone.
pub struct Writer {
    /// Where workers' spools send to.
    pub to: ToWriter,
    /// The writer's thread.
    pub thread: JoinHandle<()>,
}

/// Starts the writer of a process with so many workers. `written` is told of each cut whose part is durable.
///
/// # Errors
/// No thread can be had.
pub fn start(storage: Storage, process: usize, workers: usize, written: Option<Sender<u64>>) -> Result<Writer, String> {
    let (to, from) = spool::to_writer(UNDER_WAY);
    let mut parts = Parts::new(storage, process, workers, rand::random());
    parts.emptied = Some(from.emptied);
    let write = move || {
        for spooled in from.pieces {
            if let (Some(epoch), Some(written)) = (parts.take(spooled), &written) {
                // Nobody makes manifests any more: the process ends.
                let _ended = written.send(epoch);
            }
        }
    };
    let thread = std::thread::Builder::new()
        .name("checkpoint".into())
        .spawn(write)
        .map_err(|e| format!("no thread to write checkpoints: {e}; raise the limit of processes"))?;
    Ok(Writer { to, thread })
}

/// Makes segments and parts of what a process's workers put aside. Waits for the storage, and for nothing else.
pub struct Parts {
    storage: Storage,
    run: u64,
    process: usize,
    next: u64,
    /// For each worker, its segments since its last cut.
    workers: Vec<Vec<Segment>>,
    /// Cuts that not all workers have come to yet.
    cuts: Vec<(u64, usize, Part)>,
    /// Where pieces go that are written.
    emptied: Option<Sender<Vec<u8>>>,
}

impl Parts {
    /// `run`: makes names that no other run gives.
    pub fn new(storage: Storage, process: usize, workers: usize, run: u64) -> Parts {
        Parts { storage, run, process, next: 0, workers: vec![Vec::new(); workers], cuts: Vec::new(), emptied: None }
    }

    /// Takes what a worker put aside; gives the epoch of the cut whose part is durable now. Meanwhile spools fill, and the
    /// process's workers read no more.
    pub fn take(&mut self, spooled: Spooled) -> Option<u64> {
        match spooled {
            Spooled::Piece(worker, Piece { class, until, frames }) => {
                let name = format!("segments/{:016x}-{}-{:010}", self.run, self.process, self.next);
                self.next += 1;
                let bytes = frames.len() as u64;
                let sealed = Sealed::new(frames);
                self.storage.until_done(WAITS, || false, || self.storage.put_once(&name, &sealed));
                if let (Some(mut piece), Some(emptied)) = (sealed.into_buffer(), &self.emptied) {
                    piece.clear();
                    // If there are enough of them, it goes.
                    let _enough = emptied.try_send(piece);
                }
                self.workers[worker].push(Segment { name, bytes, class, until });
                None
            }
            Spooled::Cut(worker, cut) => self.take_cut(worker, cut),
        }
    }

    fn take_cut(&mut self, worker: usize, cut: Cut) -> Option<u64> {
        let segments = std::mem::take(&mut self.workers[worker]);
        let at = self.cuts.iter().position(|(epoch, ..)| *epoch == cut.epoch).unwrap_or_else(|| {
            self.cuts.push((cut.epoch, 0, Part::default()));
            self.cuts.len() - 1
        });
        let (epoch, workers, part) = &mut self.cuts[at];
        *workers += 1;
        part.watermark = part.watermark.max(cut.watermark);
        // The same on all workers.
        part.over = part.over.max(cut.over);
        part.in_force = part.in_force.take().or(cut.in_force);
        part.segments.extend(segments);
        let position = |(id, progress): (PartitionId, Progress)| (id.source, id.partition, progress);
        part.positions.extend(cut.partitions.into_iter().map(position));
        if *workers < self.workers.len() {
            return None;
        }
        let epoch = *epoch;
        let (_, _, part) = self.cuts.swap_remove(at);
        let sealed = Sealed::new(serde_json::to_vec(&part).unwrap_or_default());
        self.storage.put_until_there(&part_name(epoch, self.process), &sealed, WAITS);
        Some(epoch)
    }
}
