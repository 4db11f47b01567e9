//! Sources: where records come from. A reader thread per source and process turns bytes into [`RecordBatch`]es and
//! puts them into the bounded inbox of the worker that owns the partition; a full inbox pauses the reader.
//!
//! A source knows positions and bytes. It knows nothing of events, rules or epochs.

mod jsonl;
mod kafka;

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use tracing::{error, warn};

use crate::config::Source;
pub use crate::inbox::{
    BATCH_BYTES, Closed, INBOX_BATCHES, Inbox, Inboxes, MAX_RECORD, Message, PartitionId, RecordBatch, RecordRef, Waker,
};

pub use kafka::{TopicState, inspect as inspect_kafka};

/// How long [`Reader::stop`] waits for the reader's thread.
pub const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Where a source is read from.
#[derive(Clone, Debug, Default)]
pub enum StartAt {
    /// Where the source itself remembers: Kafka's committed offset of the group, else the beginning; files: the
    /// beginning.
    #[default]
    Committed,
    /// These next offsets, as in [`RecordBatch::next_offset`]; a partition that isn't named as in
    /// [`StartAt::Committed`]. (What can be read once only is read from where it is, and counted on from there.)
    Positions(HashMap<PartitionId, u64>),
    /// Kafka: the first record that the broker has taken at this time or later, microseconds since 1970; where that is the
    /// oldest that there still is, those before it are [`Message::Lost`]. Files: the beginning.
    Time(i64),
}

impl StartAt {
    /// The next offset of a partition, if one is given.
    fn of(&self, partition: PartitionId) -> Option<u64> {
        match self {
            StartAt::Committed | StartAt::Time(_) => None,
            StartAt::Positions(positions) => positions.get(&partition).copied(),
        }
    }
}

/// A running source in this process. Dropped, its thread ends by itself; [`Reader::stop`] waits for that.
pub struct Reader {
    name: String,
    stop: Sender<Infallible>,
    done: Receiver<Infallible>,
    thread: JoinHandle<()>,
    kafka: Option<kafka::Offsets>,
}

impl Reader {
    /// Tells the source how far everything is safe: the next offset of each partition. Kafka: committed for the group
    /// without waiting (a failure is logged; the next commit makes up for it); files: nothing to do. Partitions of other
    /// sources are passed over.
    ///
    /// # Errors
    /// The client refused, or the broker hasn't answered many commits; the text says which.
    pub fn commit(&self, positions: &[(PartitionId, u64)]) -> Result<(), String> {
        match &self.kafka {
            Some(offsets) => offsets.commit(positions),
            None => Ok(()),
        }
    }

    /// Stops reading and waits, at most [`STOP_WITHIN`], until commits have been answered and the thread has ended. (The
    /// helper that waits for standard input can't be woken; it ends with the process.)
    pub fn stop(self) {
        let Reader { name, stop, done, thread, kafka } = self;
        drop(kafka);
        drop(stop);
        match done.recv_timeout(STOP_WITHIN) {
            Err(RecvTimeoutError::Timeout) => {
                warn!(source = name, "the reader did not stop within {STOP_WITHIN:?}; it is left behind");
            }
            Err(RecvTimeoutError::Disconnected) => {
                if thread.join().is_err() {
                    warn!(source = name, "the reader panicked");
                }
            }
            Ok(never) => match never {},
        }
    }
}

/// Starts a source: one reader thread, which feeds the inboxes of this process's workers.
///
/// # Errors
/// What is wrong with the configuration: a setting that the client doesn't know, a secret that isn't there. What may
/// pass (a broker that is down, a topic or folder that doesn't exist yet) is waited for; what can't is
/// [`Message::Failed`].
pub fn start(index: u16, config: &Source, inboxes: Inboxes, start: StartAt) -> Result<Reader, String> {
    start_watched(index, config, inboxes, start, None)
}

/// Sees what a reader sends to the owner of a partition, before that gets it.
pub type Watch = Box<dyn FnMut(&Message) + Send>;

/// As [`start`], and tells `watch` first.
///
/// # Errors
/// As [`start`].
pub fn start_watched(
    index: u16,
    config: &Source,
    inboxes: Inboxes,
    start: StartAt,
    watch: Option<Watch>,
) -> Result<Reader, String> {
    let (mut feed, stop) = Feed::new(index, inboxes);
    feed.watch = watch.map(Mutex::new);
    match config {
        Source::Jsonl { name, path, follow, .. } => {
            let task = jsonl::Task::configured(name, path, *follow, start);
            Reader::spawn(name, stop, None, feed, move |feed| task.run(feed))
        }
        Source::Kafka { name, .. } => {
            let client = kafka::Client::new(index, config, start)?;
            let offsets = client.offsets();
            Reader::spawn(name, stop, Some(offsets), feed, move |feed| client.run(feed))
        }
    }
}

/// Whether what was read of a source can be read again.
pub fn can_be_read_again(config: &Source) -> bool {
    match config {
        Source::Jsonl { path, .. } => !jsonl::is_stream(path),
        Source::Kafka { .. } => true,
    }
}

/// Reads files once, from their beginning to their end: the partition is the place in the list, and `-` is standard
/// input. For `replay`.
///
/// # Errors
/// Standard input is named twice, or there are more files than partitions. A file that can't be read is
/// [`Message::Failed`].
pub fn start_files(index: u16, name: &str, paths: &[PathBuf], inboxes: Inboxes) -> Result<Reader, String> {
    let task = jsonl::Task::listed(name, paths)?;
    let (feed, stop) = Feed::new(index, inboxes);
    Reader::spawn(name, stop, None, feed, move |feed| task.run(feed))
}

impl Reader {
    /// Runs `work` in a thread, and tells the workers if it fails.
    fn spawn(
        name: &str,
        stop: Sender<Infallible>,
        kafka: Option<kafka::Offsets>,
        feed: Feed,
        work: impl FnOnce(&Feed) -> Result<(), Halt> + Send + 'static,
    ) -> Result<Reader, String> {
        let (running, done) = bounded(0);
        let source = name.to_owned();
        let body = move || {
            let _until_here = running;
            if let Err(Halt::Failed(text)) = work(&feed) {
                error!(source, "{text}");
                // Closed: there is nobody left to tell.
                let _nobody_left = feed.send_all(|| Message::Failed(text.clone()));
            }
        };
        let thread = std::thread::Builder::new()
            .name(format!("source-{name}"))
            .spawn(body)
            .map_err(|e| format!("source \"{name}\": no thread to read it: {e}; raise the limit of processes"))?;
        Ok(Reader { name: name.into(), stop, done, thread, kafka })
    }
}

/// Why a reader ends before its time.
enum Halt {
    /// It was stopped, or the worker is gone.
    Closed,
    /// It can't go on; why, and what to do.
    Failed(String),
}

impl From<Closed> for Halt {
    fn from(_: Closed) -> Halt {
        Halt::Closed
    }
}

/// A reader's way to the workers: sending waits for room, but not beyond the reader's stop.
struct Feed {
    index: u16,
    inboxes: Inboxes,
    stop: Receiver<Infallible>,
    watch: Option<Mutex<Watch>>,
}

impl Feed {
    fn new(index: u16, inboxes: Inboxes) -> (Feed, Sender<Infallible>) {
        let (stopper, stop) = bounded(0);
        let feed = Feed { index, inboxes, stop, watch: None };
        (feed, stopper)
    }

    /// The source's partition of that number.
    fn id(&self, partition: u32) -> PartitionId {
        PartitionId { source: self.index, partition }
    }

    /// Whether a worker of this process owns the partition.
    fn owns(&self, partition: PartitionId) -> bool {
        self.inboxes.of(partition).is_some()
    }

    /// Sends to the partition's owner; a partition of another process is its reader's business.
    fn send(&self, partition: PartitionId, message: Message) -> Result<(), Closed> {
        match self.inboxes.of(partition) {
            Some(inbox) => {
                if let Some(watch) = &self.watch {
                    watch.lock().unwrap_or_else(PoisonError::into_inner)(&message);
                }
                inbox.send_unless(message, &self.stop)
            }
            None => Ok(()),
        }
    }

    /// Sends to all workers of this process.
    fn send_all(&self, message: impl Fn() -> Message) -> Result<(), Closed> {
        self.inboxes.local.iter().try_for_each(|inbox| inbox.send_unless(message(), &self.stop))
    }

    fn stopped(&self) -> bool {
        self.stop.try_recv() == Err(TryRecvError::Disconnected)
    }
}
