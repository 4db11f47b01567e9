//! Finds partitions and where to begin in them: asks the broker for the topics' metadata and the group's committed
//! offsets, again and again, in a thread of its own, since a request may wait behind others for a while. New topics and
//! partitions are told as they appear.
//!
//! Committed offsets are asked for here, until the broker answers, because librdkafka's own request loses partitions while
//! the group's coordinator is still loading: its error names none, and they are never read.
//!
//! Knows nothing of who reads which.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use tracing::{info, warn};

use super::{Client, Consumer, join};
use crate::source::{Closed, Feed, PartitionId, StartAt};

/// How long the broker may take for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The pause after a question that got no answer.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Findings that wait for the reader.
const FINDINGS: usize = 16;

/// Partitions of a topic (its place in the configuration) that weren't known before, each with the next offset, if the
/// engine or the group has one. None at all: there is no such topic yet.
pub(super) struct Found {
    pub(super) place: usize,
    pub(super) partitions: Vec<(i32, Option<u64>)>,
}

/// Starts looking, until the reader is stopped.
pub(super) fn spawn(client: &Client, feed: &Feed) -> io::Result<Receiver<Found>> {
    let (sender, found) = bounded(FINDINGS);
    let mut search = Search {
        index: client.index,
        source: client.name.clone(),
        consumer: client.consumer.clone(),
        start: client.start.clone(),
        sender,
        stop: feed.stop.clone(),
    };
    let mut topics: Vec<Topic> = client.topics.iter().map(|t| Topic::new(t)).collect();
    let every = client.metadata_every;
    std::thread::Builder::new().name(format!("kafka-{}", search.source)).spawn(move || {
        while let Ok(answered) = search.look(&mut topics) {
            let pause = if answered { every } else { ASK_AGAIN.min(every) };
            select! {
                recv(search.stop) -> _ => return,
                default(pause) => {}
            }
        }
    })?;
    Ok(found)
}

struct Topic {
    name: String,
    known: HashSet<i32>,
    /// The reader knows that there is no such topic.
    absent: bool,
    /// What was said last, so that it is said once.
    said: Option<String>,
}

impl Topic {
    fn new(name: &str) -> Topic {
        Topic { name: name.into(), known: HashSet::new(), absent: false, said: None }
    }
}

struct Search {
    index: u16,
    source: String,
    consumer: Arc<Consumer>,
    start: StartAt,
    sender: Sender<Found>,
    stop: Receiver<Infallible>,
}

impl Search {
    /// Asks for all topics once. Whether all questions were answered.
    fn look(&mut self, topics: &mut [Topic]) -> Result<bool, Closed> {
        let mut answered = true;
        for (place, topic) in topics.iter_mut().enumerate() {
            match self.news(place, topic) {
                Ok(partitions) => {
                    topic.said = None;
                    topic.known.extend(partitions.iter().map(|(number, _)| *number));
                    info!(source = self.source, topic = topic.name, ?partitions, "found");
                    self.tell(Found { place, partitions })?;
                }
                Err(reason) => {
                    let text = match &reason {
                        Reason::NoSuchTopic => "no such topic yet".into(),
                        Reason::NoAnswer(text) => text.clone(),
                    };
                    if topic.said.as_ref() != Some(&text) {
                        warn!(source = self.source, topic = topic.name, "{text}; waiting");
                        topic.said = Some(text);
                    }
                    match reason {
                        Reason::NoAnswer(_) => answered = false,
                        Reason::NoSuchTopic if topic.absent => {}
                        Reason::NoSuchTopic => {
                            topic.absent = true;
                            self.tell(Found { place, partitions: Vec::new() })?;
                        }
                    }
                }
            }
        }
        Ok(answered)
    }

    fn tell(&self, found: Found) -> Result<(), Closed> {
        select! {
            send(self.sender, found) -> sent => sent.map_err(|_| Closed),
            recv(self.stop) -> _ => Err(Closed),
        }
    }

    /// The topic's new partitions, as in [`Found`].
    fn news(&self, place: usize, topic: &Topic) -> Result<Vec<(i32, Option<u64>)>, Reason> {
        let mut new = ask(&self.consumer, &topic.name)?;
        new.retain(|number| !topic.known.contains(number));
        if new.is_empty() {
            return Ok(Vec::new());
        }
        new.sort_unstable();
        let given = |number| {
            let partition = join(place, number)?;
            self.start.of(PartitionId { source: self.index, partition })
        };
        let mut partitions: Vec<_> = new.into_iter().map(|number| (number, given(number))).collect();
        let unknown = partitions.iter().filter(|(_, next)| next.is_none()).map(|(number, _)| *number);
        let committed = committed(&self.consumer, &topic.name, unknown)?;
        for (number, next) in &mut partitions {
            *next = next.or_else(|| committed.get(number).copied());
        }
        Ok(partitions)
    }
}

/// Why nothing is known of a topic.
enum Reason {
    NoSuchTopic,
    NoAnswer(String),
}

/// The topic's partitions.
fn ask(consumer: &Consumer, topic: &str) -> Result<Vec<i32>, Reason> {
    let metadata = consumer
        .fetch_metadata(Some(topic), ANSWER_WITHIN)
        .map_err(|e| Reason::NoAnswer(format!("the broker does not tell its partitions ({e})")))?;
    let Some(told) = metadata.topics().iter().find(|t| t.name() == topic) else {
        return Err(Reason::NoAnswer("the broker tells nothing of this topic".into()));
    };
    match told.error().map(RDKafkaErrorCode::from) {
        None => Ok(told.partitions().iter().map(|p| p.id()).collect()),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition) => Err(Reason::NoSuchTopic),
        Some(code) => Err(Reason::NoAnswer(format!("the topic can't be read ({code})"))),
    }
}

/// The group's committed offsets of these partitions; those that have none are left out.
fn committed(
    consumer: &Consumer,
    topic: &str,
    partitions: impl Iterator<Item = i32>,
) -> Result<HashMap<i32, u64>, Reason> {
    let mut list = TopicPartitionList::new();
    for number in partitions {
        list.add_partition(topic, number);
    }
    let mut offsets = HashMap::new();
    if list.count() == 0 {
        return Ok(offsets);
    }
    let unknown = |e| Reason::NoAnswer(format!("the broker does not tell what the group has committed ({e})"));
    let told = consumer.committed_offsets(list, ANSWER_WITHIN).map_err(unknown)?;
    for element in told.elements() {
        element.error().map_err(unknown)?;
        if let Offset::Offset(next) = element.offset()
            && let Ok(next) = u64::try_from(next)
        {
            offsets.insert(element.partition(), next);
        }
    }
    Ok(offsets)
}
