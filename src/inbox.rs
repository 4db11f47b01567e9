//! Between sources and the dataflow: records with their positions, and the bounded inbox of the worker that owns a
//! partition. A full inbox pauses the reader.
//!
//! Knows positions and bytes, no events, rules or epochs.
//!
//! Which worker owns a partition: `(partition + source) % workers`, over all workers of all processes, so that every
//! process finds its own share without talking to the others.

pub mod again;

use std::sync::{Arc, OnceLock};

/// A partition of a source. For files that are read once it is the place in the list of files, for followed ones a hash
/// (see `source/jsonl/folder.rs`), for Kafka the topic's place and the partition (see `source/kafka.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct PartitionId {
    /// The source's place in the configuration.
    pub source: u16,
    /// The partition within the source.
    pub partition: u32,
}

impl PartitionId {
    /// The worker that reads it, of so many of all processes.
    pub fn owner(self, peers: usize) -> usize {
        (self.partition as usize + self.source as usize) % peers
    }
}

/// Where a record lies in a batch and in its partition.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef {
    /// First byte in [`RecordBatch::bytes`].
    pub start: u32,
    /// Length in bytes.
    pub len: u32,
    /// Position in the partition (files: the byte offset of the line; Kafka: the offset).
    pub offset: u64,
    /// The broker's append time in microseconds since 1970, where the source has a trusted clock.
    pub append: Option<i64>,
}

/// Records of one partition, in its order.
#[derive(Debug)]
pub struct RecordBatch {
    /// Whose.
    pub partition: PartitionId,
    /// The records' bytes.
    pub bytes: Vec<u8>,
    /// The records.
    pub records: Vec<RecordRef>,
    /// Position after the last record: what to read next. A batch without records only moves this on (blank lines,
    /// Kafka's control records).
    pub next_offset: u64,
    /// Where the partition ended at that time, as the position after its last record, if the source knows.
    pub end: Option<u64>,
}

/// What a source tells a worker.
#[derive(Debug)]
pub enum Message {
    /// The worker owns this partition from now on. Sent before anything else about it: until it has been read or has
    /// been found empty it holds the watermark back.
    Assigned(PartitionId),
    /// The source has told of all partitions that it knows so far (sent once per source, to every worker): one that
    /// owns none of them no longer holds the watermark back.
    Listed(u16),
    /// Records.
    Batch(RecordBatch),
    /// The partition was polled empty at its end: it no longer holds the watermark back until its next batch.
    CaughtUp(PartitionId),
    /// A bounded partition has been read to its end.
    Finished(PartitionId),
    /// The source has no more partitions to come for this worker (bounded sources only; sent once per source).
    Ended(u16),
    /// Records of this partition are gone from the source, so many, before they could be read.
    Lost(PartitionId, u64),
    /// Why the source can't be read at present, or not all of it; `None`: it can again. Sent to one worker of a process,
    /// and only when it changes.
    Degraded(u16, Option<String>),
    /// The source can't go on; the text says why and what to do. The cluster stops with it.
    Failed(String),
}

/// Wakes a worker that may be parked.
#[derive(Clone, Default)]
pub struct Waker(Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>);

impl Waker {
    /// Says how to wake; the first call counts.
    pub fn set(&self, wake: impl Fn() + Send + Sync + 'static) {
        let _first_wins = self.0.set(Box::new(wake));
    }

    /// Wakes the worker, if it has said how.
    pub fn wake(&self) {
        if let Some(wake) = self.0.get() {
            wake();
        }
    }
}

/// The sending side of a worker's bounded inbox.
#[derive(Clone)]
pub struct Inbox {
    sender: crossbeam_channel::Sender<Message>,
    waker: Waker,
}

/// Batches that may wait in a worker's inbox; with [`BATCH_BYTES`] this bounds its memory.
pub const INBOX_BATCHES: usize = 16;
/// A reader closes a batch at this size; only a single record that is larger (see [`MAX_RECORD`]) makes one larger.
pub const BATCH_BYTES: usize = 256 * 1024;
/// No more of a record is handed over: one byte beyond what the decoder takes, so that it sees that it was too long.
pub const MAX_RECORD: usize = clawdstrike_telemetry::MAX_RECORD_BYTES + 1;

/// The worker is gone.
#[derive(Debug)]
pub struct Closed;

impl Inbox {
    /// A bounded inbox and its receiving side.
    pub fn new() -> (Inbox, crossbeam_channel::Receiver<Message>) {
        Inbox::waking(Waker::default())
    }

    /// As [`Inbox::new`], of a worker that another inbox wakes already.
    pub fn waking(waker: Waker) -> (Inbox, crossbeam_channel::Receiver<Message>) {
        let (sender, receiver) = crossbeam_channel::bounded(INBOX_BATCHES);
        (Inbox { sender, waker }, receiver)
    }

    /// The waker of this inbox's worker.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Waits until the inbox has room.
    pub fn send(&self, message: Message) -> Result<(), Closed> {
        self.sender.send(message).map_err(|_| Closed)?;
        self.waker.wake();
        Ok(())
    }

    /// Waits until the inbox has room, or something comes from `stop` or it is disconnected.
    pub fn send_unless<T>(&self, message: Message, stop: &crossbeam_channel::Receiver<T>) -> Result<(), Closed> {
        crossbeam_channel::select! {
            send(self.sender, message) -> sent => sent.map_err(|_| Closed)?,
            recv(stop) -> _ => return Err(Closed),
        }
        self.waker.wake();
        Ok(())
    }
}

/// The inboxes of this process's workers.
#[derive(Clone)]
pub struct Inboxes {
    /// Index of the process's first worker among all workers.
    pub first: usize,
    /// Workers of all processes.
    pub peers: usize,
    /// This process's workers.
    pub local: Vec<Inbox>,
}

impl Inboxes {
    /// The inbox of the worker that owns the partition, if it is in this process.
    pub fn of(&self, partition: PartitionId) -> Option<&Inbox> {
        self.local.get(partition.owner(self.peers).checked_sub(self.first)?)
    }
}
