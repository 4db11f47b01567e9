//! Recovery: what one process begins with, and where it puts aside what the next begins with. Joins the checkpoint's parts to
//! the dataflow, which know nothing of each other.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Sender, bounded};

use super::driver::{Before, Cuts, Kept};
use super::journal::{Journal, Told, partition_id};
use crate::checkpoint::{
    self, Begun, Coordinator, Given, Manifest, Position, Sealed, Storage, StorageError, Troubles, Writer,
};
use crate::config::Config;
use crate::hex;
use crate::inbox::{PartitionId, Waker};
use crate::loads::InForce;
use crate::render::control::Restored;
use crate::render::{draw_secret, snapshot};
use crate::source::StartAt;
use crate::spool::Progress;

/// Pieces of frames that may wait for a worker.
const PIECES: usize = 2;
/// Checkpoints whose positions wait for stores and receivers.
const UNCOMMITTED: usize = 16;

/// The object with the rules that came in force last.
const LOADS: &str = "loads/in-force";

/// Writes down which rules come in force.
pub struct KeepLoads {
    to: Sender<InForce>,
    kept: Arc<AtomicU64>,
}

impl KeepLoads {
    /// Takes what comes in force next, once the one before is kept.
    pub fn keep(&self, in_force: InForce) {
        // Its thread takes one at a time, and none is given before the one before is kept.
        let _process_ends = self.to.send(in_force);
    }

    /// The number of the last one that is durable.
    pub fn kept(&self) -> u64 {
        self.kept.load(Ordering::Acquire)
    }
}

/// The rules that came in force last, if that was written down.
fn written_loads(storage: &Storage) -> Result<Option<InForce>, String> {
    if storage.size(LOADS).map_err(|e| e.to_string())?.is_none() {
        return Ok(None);
    }
    match storage.get(LOADS) {
        Ok(json) => Ok(serde_json::from_slice(&json).ok()),
        Err(damaged @ StorageError::Damaged { .. }) => {
            // It was being written: it didn't come in force.
            tracing::warn!("{damaged}; it is left out");
            Ok(None)
        }
        Err(failed) => Err(failed.to_string()),
    }
}

/// What the cluster begins with.
pub struct Beginning {
    storage: Storage,
    manifest: Option<Manifest>,
    /// Of process 0.
    begun: Option<Begun>,
    /// The rules that were in force last, as they were written down before they came in force.
    written: Option<InForce>,
}

impl Beginning {
    /// The latest checkpoint in a storage, if there is one. In process 0 the cluster's run begins there: those before it
    /// make no checkpoint any more.
    ///
    /// # Errors
    /// The storage doesn't answer, or what is there can't be used; the text says what to do.
    pub fn load(storage: Storage, process: usize) -> Result<Beginning, String> {
        let (begun, manifest) = match process {
            0 => {
                let begun = checkpoint::begin(&storage, snapshot::VERSION)?;
                let manifest = begun.found.latest.clone();
                (Some(begun), manifest)
            }
            _ => (None, checkpoint::find(&storage, snapshot::VERSION)?.latest),
        };
        if let Some(manifest) = &manifest {
            tracing::info!(
                checkpoint = manifest.sequence,
                segments = manifest.segments.len(),
                bytes = manifest.segments.iter().map(|s| s.bytes).sum::<u64>(),
                "going on from a checkpoint"
            );
        }
        let written = match process {
            0 => written_loads(&storage)?,
            _ => None,
        };
        Ok(Beginning { storage, manifest, begun, written })
    }

    /// Who waits for the checkpoint's storage.
    pub fn troubles(&self) -> Troubles {
        self.storage.troubles()
    }

    /// The cluster's secret: the one that the checkpoint was made with, else a new one.
    ///
    /// # Errors
    /// It isn't one, or there are no random numbers.
    pub fn secret(&self) -> Result<Vec<u8>, String> {
        let Some(manifest) = &self.manifest else { return draw_secret() };
        hex::decode(&manifest.secret).ok_or_else(|| {
            format!(
                "checkpoint {}: its secret isn't one; to begin with nothing, delete the checkpoint's folder",
                manifest.sequence
            )
        })
    }

    /// What holds for the whole checkpoint.
    pub fn restored(&self) -> Option<Restored> {
        self.manifest.as_ref().map(|m| Restored { checkpoint: m.sequence, watermark: m.watermark, acked: m.acked })
    }

    /// What new rules begin after; `None`: nothing was read before, or the checkpoint doesn't tell.
    pub fn before(&self) -> Option<Before> {
        let manifest = self.manifest.as_ref();
        let in_force = InForce::latest(manifest.and_then(|m| m.in_force.clone()), self.written.clone())?;
        let positions = manifest.iter().flat_map(|m| &m.positions);
        let read = positions.map(|p| (p.source.clone(), p.partition, p.progress.next)).collect();
        Some(Before { in_force, watermark: manifest.and_then(|m| m.watermark), read })
    }

    /// From now on writes down which rules come in force, and then wakes whoever waits for it. So a run that goes on from a
    /// checkpoint before a load knows since when the loaded rules were in force.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn keep_loads(&self, waker: Waker) -> Result<KeepLoads, String> {
        let (to, from) = bounded::<InForce>(1);
        let kept = Arc::new(AtomicU64::new(0));
        let (storage, done) = (self.storage.clone(), kept.clone());
        let keep = move || {
            for in_force in from {
                // Texts and numbers: there is nothing in it that JSON can't say.
                let body = Sealed::new(serde_json::to_vec(&in_force).unwrap_or_default());
                storage.put_until_there(LOADS, &body, "rules wait to be loaded");
                done.store(in_force.number, Ordering::Release);
                waker.wake();
            }
        };
        std::thread::Builder::new()
            .name("loads".into())
            .spawn(keep)
            .map_err(|e| format!("no thread to write down loads of rules: {e}; raise the limit of processes"))?;
        Ok(KeepLoads { to, kept })
    }

    /// What was told after the checkpoint, and where to write down what will be.
    ///
    /// # Errors
    /// It can't be read.
    pub fn journal(&self, sources: &[String]) -> Result<(Journal, Told), String> {
        Journal::read(self.storage.clone(), self.epoch(), sources).map_err(|e| e.to_string())
    }

    /// The checkpoint's epoch.
    fn epoch(&self) -> u64 {
        self.manifest.as_ref().map_or(0, |m| m.epoch)
    }

    /// Epochs must begin above this one: that of the checkpoint, and of what else was left there.
    pub fn latest_epoch(&self) -> u64 {
        self.epoch().max(self.begun.as_ref().map_or(0, |begun| begun.epoch))
    }

    fn positions(&self, sources: &[String]) -> HashMap<PartitionId, Progress> {
        self.manifest.iter().flat_map(|m| positions(m, sources)).collect()
    }

    /// Where a process begins to read.
    pub fn start_at(&self, sources: &[String]) -> StartAt {
        StartAt::Positions(self.positions(sources).into_iter().map(|(id, progress)| (id, progress.next)).collect())
    }

    /// Starts the writer of a process with so many workers; `written` is told of its cuts.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn writer(&self, process: usize, threads: usize, written: Option<Sender<u64>>) -> Result<Writer, String> {
        checkpoint::start_writer(self.storage.clone(), process, threads, written)
    }

    /// What the workers of a process need, of which `first` is the first among `peers`. Their shares of the checkpoint come
    /// from a thread; `failed` is told why one can't.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn keep(
        &self,
        sources: &[String],
        (first, threads, peers): (usize, usize, usize),
        writer: &Writer,
        failed: impl FnOnce(String) + Send + 'static,
    ) -> Result<Kept, String> {
        let before = self.positions(sources);
        let (to, back): (Vec<Sender<Vec<u8>>>, _) = (0..threads).map(|_| bounded(PIECES)).unzip();
        let (storage, manifest) = (self.storage.clone(), self.manifest.clone());
        let feed = move || {
            if let Some(Err(reason)) = manifest.map(|m| checkpoint::feed(&storage, &m, first, peers, &to)) {
                failed(reason);
                // The workers go on waiting for the rest: none of it must look complete.
                std::mem::forget(to);
            }
        };
        std::thread::Builder::new()
            .name("recovery".into())
            .spawn(feed)
            .map_err(|e| format!("no thread to read the checkpoint: {e}; raise the limit of processes"))?;
        let checkpoint = self.manifest.as_ref().map_or(0, |m| m.sequence);
        Ok(Kept { spooled: Some(writer.to.clone()), before, checkpoint, back, again: Vec::new() })
    }

    /// Starts what makes manifests; for process 0. `acked` counts what stores and receivers have had; `committed` takes the
    /// positions that they have had and the checkpoint holds.
    ///
    /// # Errors
    /// It isn't process 0's, or no thread can be had.
    pub fn coordinate(
        self,
        config: &Coordinate<'_>,
        written: crossbeam_channel::Receiver<u64>,
        acked: Arc<AtomicU64>,
        mut committed: impl FnMut(Vec<(PartitionId, u64)>) + Send + 'static,
        failed: impl Fn(String) + Send + 'static,
    ) -> Result<Coordinator, String> {
        let begun = self.begun.clone().ok_or("only process 0 makes checkpoints")?;
        let cuts = config.cuts.clone();
        let acked_before = self.restored().map_or(0, |r| r.acked);
        let acked_of = {
            let (acked, live) = (acked.clone(), cuts.live.clone());
            move || {
                let now = acked.load(Ordering::Relaxed);
                // What was owed from before is told again in the epoch in which the cluster went live.
                if now >= live.load(Ordering::Relaxed) { now } else { acked_before }
            }
        };
        let mut commits = Commits { sources: config.sources.to_vec(), waiting: Vec::new() };
        let given = Given {
            storage: self.storage,
            begun,
            processes: config.processes,
            frames: snapshot::VERSION,
            secret: hex::encode(config.secret),
            sources: config.sources.to_vec(),
            acked: Box::new(acked_of),
            most_segments: checkpoint::MOST_SEGMENTS,
            done: Box::new(move |manifest| {
                if let Some(manifest) = manifest {
                    cuts.durable.store(manifest.epoch, Ordering::Relaxed);
                    commits.add(manifest);
                }
                if let Some(positions) = commits.due(acked.load(Ordering::Relaxed)) {
                    committed(positions);
                }
            }),
            failed: Box::new(failed),
        };
        Coordinator::start(given, written)
    }
}

/// What the coordinator needs to know of the cluster.
pub struct Coordinate<'a> {
    /// Processes.
    pub processes: usize,
    /// Names of the sources, by their places.
    pub sources: &'a [String],
    /// The cluster's secret.
    pub secret: &'a [u8],
    /// How far checkpoints have come.
    pub cuts: Cuts,
}

/// Names of a configuration's sources, by their places.
pub fn sources(config: &Config) -> Vec<String> {
    config.sources.iter().map(|source| source.name().to_owned()).collect()
}

/// How far a checkpoint's partitions were read, of the sources that there still are.
fn positions(manifest: &Manifest, sources: &[String]) -> impl Iterator<Item = (PartitionId, Progress)> {
    let position = |p: &Position| Some((partition_id(sources, &p.source, p.partition)?, p.progress));
    manifest.positions.iter().filter_map(position)
}

/// Positions of checkpoints that stores and receivers haven't had all of.
struct Commits {
    sources: Vec<String>,
    waiting: Vec<(u64, Vec<(PartitionId, u64)>)>,
}

impl Commits {
    fn add(&mut self, manifest: &Manifest) {
        if self.waiting.len() == UNCOMMITTED {
            self.waiting.remove(UNCOMMITTED / 2);
        }
        let next = positions(manifest, &self.sources).map(|(id, progress)| (id, progress.next));
        self.waiting.push((manifest.epoch, next.collect()));
    }

    /// The latest of which everything was had.
    fn due(&mut self, acked: u64) -> Option<Vec<(PartitionId, u64)>> {
        let n = self.waiting.iter().take_while(|(epoch, _)| *epoch <= acked).count();
        self.waiting.drain(..n).next_back().map(|(_, positions)| positions)
    }
}
