//! A look at a source before anything is read: do brokers answer, are the topics there, which clock do they have, and is
//! what the group would read still there. Changes nothing at the broker, and blocks: for a command, not for the engine.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminOptions, ResourceSpecifier};
use rdkafka::consumer::Consumer as _;
use rdkafka::{Offset, TopicPartitionList};

use super::discovery::{ANSWER_WITHIN, Led, Reason, ask, committed};
use super::queue::{Event, Queue};
use super::reading::obstacle_of;
use super::settings::Resolved;
use super::{Consumer, Context, settings};
use crate::config::Source;

/// Partitions of a topic whose ranges are asked for.
const LOOKED_AT: usize = 200;
/// How long a topic's newest record may take.
const NEWEST_WITHIN: Duration = Duration::from_secs(3);

/// What a topic is like.
#[derive(Debug)]
pub struct TopicState {
    /// Its name.
    pub name: String,
    /// How many partitions it has; none: there is no such topic.
    pub partitions: usize,
    /// How many of them have no leader.
    pub leaderless: usize,
    /// Of how many the leader doesn't answer, of the first 200.
    pub silent: usize,
    /// Its `message.timestamp.type`, or why it isn't told.
    pub timestamps: Result<String, String>,
    /// Offsets that the group has yet to read, of the first 200 partitions.
    pub lag: u64,
    /// Offsets that the group would have read and that are gone.
    pub lost: u64,
    /// The broker's clock at the append of the newest record, in microseconds since 1970, where it can be had.
    pub newest: Option<i64>,
}

/// Looks at a Kafka source's topics, in the order of the configuration.
///
/// # Errors
/// The configuration is wrong, or no broker answers; the text says why.
pub async fn inspect(config: &Source) -> Result<Vec<TopicState>, String> {
    let resolved = settings::resolve(config)?;
    let consumer = Arc::new(resolved.create(Context { name: resolved.name.clone() })?);
    let queue = Queue::new(consumer.clone()).ok_or("the kafka client has no queue for records")?;
    let mut topics = Vec::new();
    for name in &resolved.topics {
        topics.push(topic(&resolved, &consumer, &queue, name).await?);
    }
    Ok(topics)
}

async fn topic(resolved: &Resolved, consumer: &Consumer, queue: &Queue, name: &str) -> Result<TopicState, String> {
    let mut state = TopicState {
        name: name.to_owned(),
        partitions: 0,
        leaderless: 0,
        silent: 0,
        timestamps: Err("there is no such topic".into()),
        lag: 0,
        lost: 0,
        newest: None,
    };
    let led = match ask(consumer, name) {
        Ok(led) => {
            (state.partitions, state.leaderless) = (led.len(), led.iter().filter(|p| p.leader.is_none()).count());
            led
        }
        Err(Reason::NoSuchTopic) => return Ok(state),
        Err(Reason::NoAnswer(text)) => return Err(because(queue, text)),
    };
    let led = &led[..led.len().min(LOOKED_AT)];
    let positions = match committed(consumer, name, led.iter().map(|p| p.number)) {
        Ok(positions) => positions,
        Err(Reason::NoAnswer(text)) => return Err(because(queue, text)),
        Err(Reason::NoSuchTopic) => return Ok(state),
    };
    let mut newest = None;
    // Asked once: a leader that doesn't answer takes its time each time.
    let mut silent = BTreeSet::new();
    for Led { number, leader } in led {
        let Some(leader) = leader else { continue };
        if silent.contains(leader) {
            state.silent += 1;
            continue;
        }
        let Ok((low, high)) = consumer.fetch_watermarks(name, *number, ANSWER_WITHIN) else {
            silent.insert(*leader);
            state.silent += 1;
            continue;
        };
        let offset = |n| u64::try_from(n).unwrap_or(0);
        let next = positions.get(number).copied().unwrap_or(offset(low));
        state.lost += offset(low).saturating_sub(next);
        state.lag += offset(high).saturating_sub(next.max(offset(low)));
        if high > low {
            newest = newest.or(Some((*number, high - 1)));
        }
    }
    state.timestamps = timestamps(resolved, name).await;
    state.newest = newest.and_then(|(number, offset)| append_time(consumer, queue, name, number, offset));
    Ok(state)
}

/// The text, and what the client said of its connections.
fn because(queue: &Queue, text: String) -> String {
    let mut said = None;
    while let Some(now) = queue.next(Duration::from_millis(50), |event| obstacle_of(&event)) {
        said = now.or(said);
    }
    said.map(|said| format!("{text}: {said}")).unwrap_or(text)
}

async fn timestamps(resolved: &Resolved, topic: &str) -> Result<String, String> {
    let admin = resolved.admin(Context { name: resolved.name.clone() })?;
    let options = AdminOptions::new().request_timeout(Some(ANSWER_WITHIN));
    let told = admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options).await.map_err(|e| e.to_string())?;
    let of_topic = told.into_iter().next().ok_or("the broker says nothing of it")?.map_err(|e| e.to_string())?;
    let entry = of_topic.get("message.timestamp.type").and_then(|entry| entry.value.clone());
    entry.ok_or_else(|| "the broker doesn't say".into())
}

fn append_time(consumer: &Consumer, queue: &Queue, topic: &str, number: i32, offset: i64) -> Option<i64> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, number, Offset::Offset(offset)).ok()?;
    consumer.incremental_assign(&list).ok()?;
    let until = Instant::now() + NEWEST_WITHIN;
    let mut newest = None;
    while Instant::now() < until {
        let ended = queue.next(Duration::from_millis(100), |event| match event {
            Event::Record(record) => {
                newest = record.append;
                true
            }
            Event::End { .. } | Event::OutOfRange { .. } => true,
            _ => false,
        });
        if ended == Some(true) {
            break;
        }
    }
    consumer.incremental_unassign(&list).ok()?;
    newest
}
