//! The coordinator: one thread in process 0, which makes a manifest of each cut once the parts of all processes are there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::manifest::{self, Begun, Manifest, Position};
use super::storage::{Storage, StorageError};
use super::writer::{Part, part_name};
use super::{FORMAT, merge};
use crate::metrics::LIVE;
use crate::wall_clock;

/// Parts of other processes are looked for after so long, and then after twice as long each time, ...
const LOOK: Duration = Duration::from_millis(2);
/// ... up to this.
const LOOK_AT_MOST: Duration = Duration::from_millis(100);
/// A part that isn't there after so long shows as trouble.
const LATE: Duration = Duration::from_secs(5);
/// Who waits, in messages.
const WAITS: &str = "a checkpoint waits to be completed";
/// After so many looks: whether another run has begun meanwhile.
const LOOKS: u64 = 16;
/// How long nothing happens at most.
const IDLE: Duration = Duration::from_secs(1);

/// Takes manifests.
pub type Done = Box<dyn FnMut(Option<&Manifest>) + Send>;

/// What the coordinator is given.
pub struct Given {
    /// Where checkpoints are.
    pub storage: Storage,
    /// How the run began.
    pub begun: Begun,
    /// How many processes make parts.
    pub processes: usize,
    /// The version of what frames hold.
    pub frames: u32,
    /// The cluster's secret, in hexadecimal digits.
    pub secret: String,
    /// Names of the sources, by their places.
    pub sources: Vec<String>,
    /// Up to which epoch stores and receivers have had everything.
    pub acked: Box<dyn Fn() -> u64 + Send>,
    /// Segments of a cut, above which they are merged: [`MOST_SEGMENTS`](super::MOST_SEGMENTS), but in tests.
    pub most_segments: usize,
    /// Told of each manifest that is durable, and now and then of none: others may have come further meanwhile.
    pub done: Done,
    /// Told why the run must end.
    pub failed: Box<dyn Fn(String) + Send>,
}

/// The running coordinator.
pub struct Coordinator {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Coordinator {
    /// Starts it; `written` tells of cuts whose part of process 0 is durable.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn start(given: Given, written: Receiver<u64>) -> Result<Coordinator, String> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut maker = Maker::new(given, stop.clone());
        let thread = std::thread::Builder::new()
            .name("coordinator".into())
            .spawn(move || {
                maker.clear_leftovers();
                loop {
                    match written.recv_timeout(IDLE) {
                        Ok(epoch) if maker.make(epoch) => {}
                        Ok(_) | Err(RecvTimeoutError::Disconnected) => break,
                        Err(RecvTimeoutError::Timeout) => {}
                    }
                    (maker.given.done)(None);
                }
                (maker.given.done)(None);
            })
            .map_err(|e| format!("no thread to make checkpoints: {e}; raise the limit of processes"))?;
        Ok(Coordinator { stop, thread })
    }

    /// Ends after the manifest that is being made, if its parts are all there.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.thread.join().is_err() {
            tracing::error!("the coordinator of checkpoints panicked");
        }
    }
}

/// Makes manifests. Waits for the storage and for the parts of other processes, and for nothing else.
pub struct Maker {
    given: Given,
    stop: Arc<AtomicBool>,
    before: Option<Manifest>,
    latest: Option<Manifest>,
    /// The latest number that this run has taken.
    sequence: u64,
    /// Counts merged segments.
    merged: u64,
}

impl Maker {
    /// `stop` ends its waiting.
    pub fn new(mut given: Given, stop: Arc<AtomicBool>) -> Maker {
        let found = std::mem::take(&mut given.begun.found);
        let sequence = given.begun.generation;
        Maker { given, stop, before: found.before, latest: found.latest, sequence, merged: 0 }
    }

    /// Deletes what runs before this one wrote, but for the two cuts that there are and what they name.
    pub fn clear_leftovers(&mut self) {
        let leftovers = std::mem::take(&mut self.given.begun.leftovers);
        self.given.storage.delete(leftovers);
    }

    /// Makes the manifest of a cut whose part of process 0 is durable; says whether to go on.
    pub fn make(&mut self, epoch: u64) -> bool {
        let _span = tracing::info_span!("checkpoint", epoch).entered();
        let began = Instant::now();
        let Some(parts) = self.gather(epoch) else { return false };
        let manifest = self.manifest(epoch, parts);
        if !self.publish(manifest) {
            return false;
        }
        LIVE.checkpoint_seconds.set(began.elapsed().as_secs_f64());
        let names = (0..self.given.processes).map(|process| part_name(epoch, process));
        self.given.storage.delete(names);
        self.merge()
    }

    /// The parts of all processes; `None`: the process ends.
    fn gather(&self, epoch: u64) -> Option<Vec<Part>> {
        let mut parts = Vec::new();
        for process in 0..self.given.processes {
            let name = part_name(epoch, process);
            let part = self.wait_for_part(process, &name)?;
            match serde_json::from_slice(&part) {
                Ok(part) => parts.push(part),
                Err(error) => {
                    (self.given.failed)(format!("checkpoint: \"{name}\": {error}"));
                    return None;
                }
            }
        }
        Some(parts)
    }

    fn wait_for_part(&self, process: usize, name: &str) -> Option<Vec<u8>> {
        let storage = &self.given.storage;
        let mut waiter = storage.waiter(WAITS);
        let mut pause = LOOK;
        let since = Instant::now();
        for look in 1u64.. {
            match storage.size(name).and_then(|size| size.map(|_| storage.get(name)).transpose()) {
                Ok(Some(part)) => return Some(part),
                Ok(None) if since.elapsed() < LATE => {}
                Ok(None) => waiter.fails(&format!("process {process} hasn't written its part: its log says why")),
                Err(error) => waiter.fails(&error.to_string()),
            }
            if self.stop.load(Ordering::Relaxed) && pause >= LOOK_AT_MOST {
                break;
            }
            // A later run clears parts away: this one would wait for ever.
            if look % LOOKS == 0 && manifest::highest(storage).is_ok_and(|n| n > self.sequence) {
                self.fail_as_superseded();
                break;
            }
            storage.pause(pause);
            pause = (pause * 2).min(LOOK_AT_MOST);
        }
        None
    }

    fn fail_as_superseded(&self) {
        (self.given.failed)(
            "another run of this cluster has taken over its checkpoints: stop one of them, or give each a `state` folder of its own".into(),
        );
    }

    fn manifest(&mut self, epoch: u64, parts: Vec<Part>) -> Manifest {
        let begun = self.latest.as_ref();
        let mut positions: BTreeMap<(String, u32), Position> = begun
            .iter()
            .flat_map(|m| &m.positions)
            .map(|position| ((position.source.clone(), position.partition), position.clone()))
            .collect();
        let mut segments = begun.map(|m| m.segments.clone()).unwrap_or_default();
        let mut watermark = begun.and_then(|m| m.watermark);
        let mut over = None;
        let mut in_force = None;
        for part in parts {
            in_force = in_force.or(part.in_force);
            watermark = watermark.max(part.watermark);
            over = over.max(part.over);
            segments.extend(part.segments);
            for (source, partition, progress) in part.positions {
                if let Some(source) = self.given.sources.get(usize::from(source)) {
                    let position = Position { source: source.clone(), partition, progress };
                    positions.insert((source.clone(), partition), position);
                }
            }
        }
        let bound = over.unwrap_or(i64::MIN);
        segments.retain(|segment| segment.until.is_none_or(|until| until >= bound));
        Manifest {
            format: FORMAT,
            frames: self.given.frames,
            sequence: self.sequence + 1,
            follows: Some(begun.map_or(0, |m| m.sequence)),
            generation: self.given.begun.generation,
            epoch,
            acked: (self.given.acked)(),
            watermark,
            over,
            secret: self.given.secret.clone(),
            positions: positions.into_values().collect(),
            segments,
            merged: begun.map_or(0, |m| m.merged),
            in_force,
        }
    }

    /// Creates a manifest, and lets go of the one before the last.
    fn publish(&mut self, manifest: Manifest) -> bool {
        let storage = &self.given.storage;
        let body = manifest.seal();
        match self.until_done(|| manifest::take(storage, manifest.sequence, &body)) {
            None => return false,
            Some(true) => {}
            Some(false) => {
                self.fail_as_superseded();
                return false;
            }
        }
        self.sequence = manifest.sequence;
        if let (Some(old), Some(before)) = (&self.before, &self.latest) {
            old.delete(&[before, &manifest], &self.given.storage);
        }
        LIVE.checkpoint_time.set(wall_clock::now() as f64 / 1e6);
        LIVE.checkpoint_bytes.set(manifest.segments.iter().map(|segment| segment.bytes as f64).sum());
        (self.given.done)(Some(&manifest));
        self.before = self.latest.replace(manifest);
        true
    }

    /// The latest manifest again, of fewer segments, if there are too many.
    fn merge(&mut self) -> bool {
        let Some(latest) = self.latest.clone() else { return true };
        let Some(chosen) = merge::choose(&latest, self.given.most_segments) else { return true };
        let generation = self.given.begun.generation;
        let merged = &mut self.merged;
        let name = || {
            *merged += 1;
            format!("segments/merged-{generation:010}-{merged:010}")
        };
        match merge::merge(&self.given.storage, &latest, chosen, name) {
            Ok(segments) => {
                let merged = merge::bytes_of_class_0(&segments);
                let (sequence, follows) = (self.sequence + 1, Some(latest.sequence));
                self.publish(Manifest { sequence, follows, segments, merged, ..latest })
            }
            Err(error) => {
                tracing::warn!(%error, "segments of the checkpoint are not merged; the next checkpoint tries again");
                true
            }
        }
    }

    /// Tries until it works; `None`: the process ends.
    fn until_done<T>(&self, what: impl Fn() -> Result<T, StorageError>) -> Option<T> {
        self.given.storage.until_done(WAITS, || self.stop.load(Ordering::Relaxed), what)
    }
}
