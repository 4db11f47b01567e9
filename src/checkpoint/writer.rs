//! The writer: one thread a process, which makes segments of what its workers put aside, and a part of each cut.

use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::{Deserialize, Serialize};

use super::manifest::Segment;
use super::storage::{Sealed, Storage};
use crate::inbox::PartitionId;
use crate::spool::{Cut, Progress, Spooled, UNDER_WAY};

/// One process's part of a cut.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Part {
    pub watermark: Option<i64>,
    pub segments: Vec<Segment>,
    pub positions: Vec<(u16, u32, Progress)>,
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
    pub to: Sender<Spooled>,
    /// The writer's thread.
    pub thread: JoinHandle<()>,
}

/// Starts the writer of a process with so many workers. `written` is told of each cut whose part is durable.
///
/// # Errors
/// No thread can be had.
pub fn start(storage: Storage, process: usize, workers: usize, written: Option<Sender<u64>>) -> Result<Writer, String> {
    let (to, from) = bounded(UNDER_WAY);
    let run = rand::random();
    let mut task = Task { storage, run, process, next: 0, workers: Vec::new(), cuts: Vec::new(), written };
    task.workers.resize_with(workers, Vec::new);
    let thread = std::thread::Builder::new()
        .name("checkpoint".into())
        .spawn(move || task.run(&from))
        .map_err(|e| format!("no thread to write checkpoints: {e}; raise the limit of processes"))?;
    Ok(Writer { to, thread })
}

struct Task {
    storage: Storage,
    /// Makes names that no other run gives.
    run: u64,
    process: usize,
    next: u64,
    /// For each worker, its segments since its last cut.
    workers: Vec<Vec<Segment>>,
    /// Cuts that not all workers have come to yet.
    cuts: Vec<(u64, usize, Part)>,
    written: Option<Sender<u64>>,
}

impl Task {
    fn run(&mut self, from: &Receiver<Spooled>) {
        for spooled in from {
            match spooled {
                Spooled::Piece(worker, frames) => {
                    let name = format!("segments/{:016x}-{}-{:010}", self.run, self.process, self.next);
                    self.next += 1;
                    let bytes = frames.len() as u64;
                    self.put(&name, frames);
                    self.workers[worker].push(Segment { name, bytes });
                }
                Spooled::Cut(worker, cut) => self.take_cut(worker, cut),
            }
        }
    }

    fn take_cut(&mut self, worker: usize, cut: Cut) {
        let segments = std::mem::take(&mut self.workers[worker]);
        let at = self.cuts.iter().position(|(epoch, ..)| *epoch == cut.epoch).unwrap_or_else(|| {
            self.cuts.push((cut.epoch, 0, Part { watermark: None, segments: Vec::new(), positions: Vec::new() }));
            self.cuts.len() - 1
        });
        let (epoch, workers, part) = &mut self.cuts[at];
        *workers += 1;
        part.watermark = part.watermark.max(cut.watermark);
        part.segments.extend(segments);
        let position = |(id, progress): (PartitionId, Progress)| (id.source, id.partition, progress);
        part.positions.extend(cut.partitions.into_iter().map(position));
        if *workers == self.workers.len() {
            let epoch = *epoch;
            let (_, _, part) = self.cuts.swap_remove(at);
            let name = part_name(epoch, self.process);
            self.put(&name, serde_json::to_vec(&part).unwrap_or_default());
            if let Some(written) = &self.written {
                // Nobody makes manifests any more: the process ends.
                let _ended = written.send(epoch);
            }
        }
    }

    /// Meanwhile spools fill, and the process's workers read no more.
    fn put(&self, name: &str, body: Vec<u8>) {
        let waiting = "the checkpoint's storage doesn't take what it is given: trying again";
        self.storage.put_until_there(name, &Sealed::new(body), waiting);
    }
}
