//! Apache Kafka: reads all partitions of the configured topics that this process's workers own.
//!
//! Partitions are spread over all workers by number, not by the group's protocol: the group only keeps offsets, so that
//! lag tools tell the truth. A partition's number is the topic's place in the configuration and Kafka's own number (see
//! [`PARTITION_BITS`]), so new topics belong at the end of the list. A partition begins where the engine's checkpoint
//! says, else at the group's committed offset, else at its beginning. What retention has deleted by then is told, counted,
//! and skipped only if the configuration says so.
//!
//! A broker that is down and a topic that isn't there are waited for. Knows nothing of what a record says, and commits
//! only what it is told.

mod discovery;
mod inspect;
mod lost;
mod queue;
mod reading;
mod settings;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::{Offset, TopicPartitionList};
use tracing::{debug, trace, warn};

pub use self::inspect::{TopicState, inspect};
use self::queue::Queue;
use self::reading::Reading;
use super::{Feed, Halt, PartitionId, StartAt};
use crate::config::{OnLost, Source};

/// Low bits of a partition's number that are Kafka's own; the others are the topic's place in the configuration.
const PARTITION_BITS: u32 = 20;
/// Most topics of one source.
const MAX_TOPICS: usize = 1 << (u32::BITS - PARTITION_BITS);
/// Commits that the broker may owe an answer.
const MAX_COMMITS: usize = 1000;

type Consumer = BaseConsumer<Context>;

/// Where the client's log goes.
struct Context {
    name: String,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => {
                warn!(source = self.name, facility, "kafka client: {text}");
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                debug!(source = self.name, facility, "kafka client: {text}");
            }
            RDKafkaLogLevel::Debug => {
                trace!(source = self.name, facility, "kafka client: {text}");
            }
        }
    }
}

impl ConsumerContext for Context {}

/// Commits offsets; see [`super::Reader::commit`].
pub(super) struct Offsets {
    index: u16,
    name: String,
    topics: Arc<[String]>,
    consumer: Arc<Consumer>,
    waiting: Arc<AtomicUsize>,
}

impl Offsets {
    pub(super) fn commit(&self, positions: &[(PartitionId, u64)]) -> Result<(), String> {
        let failed = |text: String| format!("source \"{}\": {text}", self.name);
        let mut offsets = TopicPartitionList::new();
        for (id, next) in positions.iter().filter(|(id, _)| id.source == self.index) {
            let (place, partition) = split(id.partition);
            let Some(topic) = self.topics.get(place) else {
                continue;
            };
            let refused = |e: String| failed(format!("topic \"{topic}\", offset {next}: {e}"));
            let next = i64::try_from(*next).map_err(|e| refused(e.to_string()))?;
            offsets.add_partition_offset(topic, partition, Offset::Offset(next)).map_err(|e| refused(e.to_string()))?;
        }
        if offsets.count() == 0 {
            return Ok(());
        }
        if self.waiting.load(Ordering::Relaxed) >= MAX_COMMITS {
            return Err(failed(format!(
                "{MAX_COMMITS} commits have no answer yet: is the broker up? the next commit makes up for this one"
            )));
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.consumer.commit(&offsets, CommitMode::Async).map_err(|e| {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            failed(format!("offsets can't be committed: {e}"))
        })
    }
}

/// The topic's place and Kafka's number of a partition.
fn split(partition: u32) -> (usize, i32) {
    let own = partition & ((1 << PARTITION_BITS) - 1);
    ((partition >> PARTITION_BITS) as usize, own as i32)
}

/// The number of a topic's partition; `None` beyond what the numbers hold.
fn join(place: usize, partition: i32) -> Option<u32> {
    let own = u32::try_from(partition).ok()?;
    (own < 1 << PARTITION_BITS && place < MAX_TOPICS).then_some((place as u32) << PARTITION_BITS | own)
}

/// A client before it reads.
pub(super) struct Client {
    index: u16,
    name: String,
    topics: Arc<[String]>,
    consumer: Arc<Consumer>,
    waiting: Arc<AtomicUsize>,
    start: StartAt,
    metadata_every: Duration,
    on_lost: OnLost,
}

impl Client {
    /// Checks the settings; doesn't wait for a broker.
    ///
    /// # Errors
    /// A setting that librdkafka doesn't know or that is the engine's own, a secret that isn't there, no topic or one
    /// twice.
    pub(super) fn new(index: u16, config: &Source, start: StartAt) -> Result<Client, String> {
        let resolved = settings::resolve(config)?;
        let waiting = Arc::new(AtomicUsize::new(0));
        let context = Context { name: resolved.name.clone() };
        Ok(Client {
            index,
            consumer: Arc::new(resolved.create(context)?),
            metadata_every: resolved.metadata_every,
            on_lost: resolved.on_lost,
            topics: resolved.topics.into(),
            name: resolved.name,
            waiting,
            start,
        })
    }

    pub(super) fn offsets(&self) -> Offsets {
        Offsets {
            index: self.index,
            name: self.name.clone(),
            topics: self.topics.clone(),
            consumer: self.consumer.clone(),
            waiting: self.waiting.clone(),
        }
    }

    /// Reads until it is stopped, or can't go on.
    pub(super) fn run(self, feed: &Feed) -> Result<(), Halt> {
        let failed = |text| Halt::Failed(format!("source \"{}\": {text}", self.name));
        let queue = Queue::new(self.consumer.clone())
            .ok_or_else(|| failed("the kafka client has no queue for records".into()))?;
        let discovery =
            discovery::spawn(&self, feed).map_err(|e| failed(format!("no thread to look for partitions: {e}")))?;
        let mut reading = Reading::new(feed, &self, discovery.questions);
        let result = reading.run(&queue, &discovery.news);
        reading.await_commits(&queue);
        result
    }
}
