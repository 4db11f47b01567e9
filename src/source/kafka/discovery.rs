//! Finds partitions: asks the broker for the topics' metadata, again and again, in a thread of its own, since a request
//! may wait behind others for a while. New topics and partitions are told as they appear.
//!
//! Knows nothing of who reads which.

use std::collections::HashSet;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};
use rdkafka::consumer::Consumer as _;
use tracing::{info, warn};

use super::{Client, Consumer};
use crate::source::Feed;

/// How long the broker may take for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Findings that wait for the reader.
const FINDINGS: usize = 16;

/// Partitions of a topic (its place in the configuration) that weren't known before.
pub(super) struct Found {
    pub(super) place: usize,
    pub(super) partitions: Vec<i32>,
}

/// Starts looking, until the reader is stopped.
pub(super) fn spawn(client: &Client, feed: &Feed) -> io::Result<Receiver<Found>> {
    let (sender, found) = bounded(FINDINGS);
    let mut topics: Vec<Topic> = client.topics.iter().map(|t| Topic::new(t)).collect();
    let (source, every) = (client.name.clone(), client.metadata_every);
    let (consumer, stop): (Arc<Consumer>, _) = (client.consumer.clone(), feed.stop.clone());
    std::thread::Builder::new().name(format!("kafka-{source}")).spawn(move || {
        while look(&source, &consumer, &mut topics, &sender, &stop) {
            select! {
                recv(stop) -> _ => return,
                default(every) => {}
            }
        }
    })?;
    Ok(found)
}

struct Topic {
    name: String,
    known: HashSet<i32>,
    /// What was said last, so that it is said once.
    said: Option<String>,
}

impl Topic {
    fn new(name: &str) -> Topic {
        Topic { name: name.into(), known: HashSet::new(), said: None }
    }
}

/// Asks for all topics once. False: the reader is gone.
fn look(
    source: &str,
    consumer: &Consumer,
    topics: &mut [Topic],
    sender: &Sender<Found>,
    stop: &Receiver<Infallible>,
) -> bool {
    for (place, topic) in topics.iter_mut().enumerate() {
        let partitions = match ask(consumer, &topic.name) {
            Ok(partitions) => {
                topic.said = None;
                partitions
            }
            Err(text) => {
                if topic.said.as_ref() != Some(&text) {
                    warn!(source, topic = topic.name, "{text}; waiting");
                    topic.said = Some(text);
                }
                continue;
            }
        };
        let mut new: Vec<i32> = partitions.into_iter().filter(|p| topic.known.insert(*p)).collect();
        if new.is_empty() {
            continue;
        }
        new.sort_unstable();
        info!(source, topic = topic.name, partitions = ?new, "found");
        let found = Found { place, partitions: new };
        select! {
            send(sender, found) -> sent => if sent.is_err() { return false },
            recv(stop) -> _ => return false,
        }
    }
    true
}

/// The topic's partitions.
fn ask(consumer: &Consumer, topic: &str) -> Result<Vec<i32>, String> {
    let metadata = consumer
        .fetch_metadata(Some(topic), ANSWER_WITHIN)
        .map_err(|e| format!("the broker does not tell its partitions ({e})"))?;
    let Some(told) = metadata.topics().iter().find(|t| t.name() == topic) else {
        return Err("the broker tells nothing of this topic".into());
    };
    match told.error() {
        Some(e) => {
            let code = rdkafka::error::RDKafkaErrorCode::from(e);
            Err(format!("the topic can't be read ({code})"))
        }
        None => Ok(told.partitions().iter().map(|p| p.id()).collect()),
    }
}
