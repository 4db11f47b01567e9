//! Finds partitions and where to begin in them: asks the broker for the topics' metadata and the group's committed
//! offsets, again and again, in a thread of its own, since a request may wait behind others for a while. New topics and
//! partitions are told as they appear.
//!
//! Committed offsets are asked for here, until the broker answers, because librdkafka's own request loses partitions while
//! the group's coordinator is still loading: its error names none, and they are never read.
//!
//! Whether these questions are answered tells whether the source can be read. So each broker that leads partitions is asked
//! for one of them, too: the others tell of a leader that is dead or out of reach as if nothing were wrong, for seconds or for
//! ever.
//!
//! Knows nothing of who reads which.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use tracing::{info, warn};

use super::{Client, Consumer, join};
use crate::source::{Closed, Feed, Inboxes, PartitionId, StartAt};

/// How long the broker may take for an answer.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The pause after a question that got no answer, or that of a broker which doesn't know yet.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Findings that wait for the reader.
const FINDINGS: usize = 16;

/// Partitions of a topic.
pub(super) type Partitions = Vec<Begin>;

/// Where to begin in a partition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begin {
    /// Kafka's number.
    pub(super) number: i32,
    /// The next offset, if the engine or the group has one.
    pub(super) next: Option<u64>,
    /// Offsets before it that nobody will ever read, and that may belong to what is wanted.
    pub(super) lost: u64,
}

/// What the broker has told.
pub(super) enum News {
    /// What wasn't known before of a topic (its place in the configuration). Nothing: there is no such topic yet.
    Found { place: usize, partitions: Partitions },
    /// Why not all is known of all topics; `None`: it is.
    State(Option<String>),
    /// The first offset that a partition has, and the one after its last.
    Range { place: usize, partition: i32, low: u64, high: u64 },
}

/// The reader's side.
pub(super) struct Discovery {
    pub(super) news: Receiver<News>,
    /// Asks for a partition's range, by the topic's place. One question a partition at a time, which is its bound.
    pub(super) questions: Sender<(usize, i32)>,
}

/// Starts looking, until the reader is stopped.
pub(super) fn spawn(client: &Client, feed: &Feed) -> io::Result<Discovery> {
    let (sender, news) = bounded(FINDINGS);
    let (questions, asked) = unbounded();
    let mut search = Search {
        index: client.index,
        source: client.name.clone(),
        consumer: client.consumer.clone(),
        start: client.start.clone(),
        sender,
        asked,
        open: BTreeSet::new(),
        inboxes: feed.inboxes.clone(),
        stop: feed.stop.clone(),
    };
    let mut topics: Vec<Topic> = client.topics.iter().map(|t| Topic::new(t)).collect();
    let every = client.metadata_every;
    std::thread::Builder::new().name(format!("kafka-{}", search.source)).spawn(move || {
        // Closed: the reader has ended.
        let _ended = search.run(&mut topics, every);
    })?;
    Ok(Discovery { news, questions })
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
    sender: Sender<News>,
    asked: Receiver<(usize, i32)>,
    /// Questions without an answer.
    open: BTreeSet<(usize, i32)>,
    /// Which partitions are read here.
    inboxes: Inboxes,
    stop: Receiver<Infallible>,
}

impl Search {
    fn run(&mut self, topics: &mut [Topic], every: Duration) -> Result<(), Closed> {
        let mut next_look = Instant::now();
        loop {
            if Instant::now() >= next_look {
                let pause = if self.look(topics)? { every } else { ASK_AGAIN.min(every) };
                next_look = Instant::now() + pause;
            }
            self.answer(topics)?;
            let pause = next_look.saturating_duration_since(Instant::now());
            select! {
                recv(self.stop) -> _ => return Err(Closed),
                recv(self.asked) -> question => {
                    self.open.insert(question.map_err(|_| Closed)?);
                }
                default(if self.open.is_empty() { pause } else { ASK_AGAIN.min(pause) }) => {}
            }
        }
    }

    /// Answers what the reader has asked, as far as the broker answers.
    fn answer(&mut self, topics: &[Topic]) -> Result<(), Closed> {
        for (place, partition) in self.open.clone() {
            let Some(topic) = topics.get(place) else { continue };
            match self.consumer.fetch_watermarks(&topic.name, partition, ANSWER_WITHIN) {
                Ok((low, high)) => {
                    self.open.remove(&(place, partition));
                    let offset = |n| u64::try_from(n).unwrap_or(0);
                    self.tell(News::Range { place, partition, low: offset(low), high: offset(high) })?;
                }
                Err(error) => {
                    let source = &self.source;
                    warn!(source, topic = topic.name, partition, %error, "the broker does not tell what it has; waiting");
                }
            }
        }
        Ok(())
    }

    /// Asks for all topics once. Whether all questions were answered.
    fn look(&mut self, topics: &mut [Topic]) -> Result<bool, Closed> {
        let mut answered = true;
        let mut troubles = Vec::new();
        // Leaders that don't answer: asked once, whatever they lead.
        let mut silent = BTreeMap::new();
        for (place, topic) in topics.iter_mut().enumerate() {
            match self.news(place, topic) {
                Ok((partitions, led)) => {
                    topic.said = None;
                    topic.known.extend(partitions.iter().map(|begin| begin.number));
                    if !partitions.is_empty() {
                        info!(source = self.source, topic = topic.name, ?partitions, "found");
                    }
                    self.tell(News::Found { place, partitions })?;
                    let leaderless = led.iter().filter(|p| p.leader.is_none()).count();
                    if leaderless > 0 {
                        troubles.push(format!("topic \"{}\": {leaderless} partitions have no leader", topic.name));
                    }
                    for (leader, error) in self.silent(place, &topic.name, &led, &mut silent) {
                        answered = false;
                        troubles.push(format!(
                            "topic \"{}\": broker {leader}, which leads partitions, does not answer ({error})",
                            topic.name
                        ));
                    }
                }
                Err(reason) => {
                    let text = match &reason {
                        Reason::NoSuchTopic => "no such topic yet".into(),
                        Reason::NoAnswer(text) => text.clone(),
                    };
                    if topic.said.as_ref() != Some(&text) {
                        warn!(source = self.source, topic = topic.name, "{text}; waiting");
                        topic.said = Some(text.clone());
                    }
                    troubles.push(format!("topic \"{}\": {text}", topic.name));
                    match reason {
                        Reason::NoAnswer(_) => answered = false,
                        Reason::NoSuchTopic if topic.absent => {}
                        Reason::NoSuchTopic => {
                            topic.absent = true;
                            self.tell(News::Found { place, partitions: Vec::new() })?;
                        }
                    }
                }
            }
        }
        self.tell(News::State((!troubles.is_empty()).then(|| troubles.join("; "))))?;
        Ok(answered)
    }

    fn tell(&self, news: News) -> Result<(), Closed> {
        select! {
            send(self.sender, news) -> sent => sent.map_err(|_| Closed),
            recv(self.stop) -> _ => Err(Closed),
        }
    }

    /// The leaders that don't answer of those that lead partitions which are read here, and why. `known`: of this look.
    fn silent(&self, place: usize, topic: &str, led: &[Led], known: &mut BTreeMap<i32, String>) -> Vec<(i32, String)> {
        let is_ours = |number| {
            let id = join(place, number).map(|partition| PartitionId { source: self.index, partition });
            id.is_some_and(|id| self.inboxes.of(id).is_some())
        };
        let ours = led.iter().filter(|p| is_ours(p.number));
        let one_each: BTreeMap<i32, i32> = ours.filter_map(|p| Some((p.leader?, p.number))).collect();
        let mut silent = Vec::new();
        for (leader, number) in one_each {
            if let Some(error) = known.get(&leader) {
                silent.push((leader, error.clone()));
            } else if let Err(error) = leads(&self.consumer, topic, number) {
                known.insert(leader, error.to_string());
                silent.push((leader, error.to_string()));
            }
        }
        silent
    }

    /// The topic's new partitions, as in [`News::Found`], and all of them with their leaders.
    fn news(&self, place: usize, topic: &Topic) -> Result<(Partitions, Vec<Led>), Reason> {
        let led = ask(&self.consumer, &topic.name)?;
        let mut new: Vec<i32> = led.iter().map(|p| p.number).filter(|number| !topic.known.contains(number)).collect();
        if new.is_empty() {
            return Ok((Vec::new(), led));
        }
        new.sort_unstable();
        let given = |number| {
            let partition = join(place, number)?;
            self.start.of(PartitionId { source: self.index, partition })
        };
        let begin = |number| Begin { number, next: given(number), lost: 0 };
        let mut partitions: Vec<_> = new.into_iter().map(begin).collect();
        let unknown = partitions.iter().filter(|begin| begin.next.is_none()).map(|begin| begin.number);
        let begin = match self.start {
            StartAt::Time(time) => taken_from(&self.consumer, &topic.name, unknown, time)?,
            _ => {
                let committed = committed(&self.consumer, &topic.name, unknown)?;
                committed.into_iter().map(|(number, next)| (number, (next, 0))).collect()
            }
        };
        for partition in partitions.iter_mut().filter(|partition| partition.next.is_none()) {
            if let Some(&(next, lost)) = begin.get(&partition.number) {
                (partition.next, partition.lost) = (Some(next), lost);
            }
        }
        Ok((partitions, led))
    }
}

/// A partition, and the number of the broker that leads it.
pub(super) struct Led {
    pub(super) number: i32,
    pub(super) leader: Option<i32>,
}

/// Why nothing is known of a topic.
pub(super) enum Reason {
    NoSuchTopic,
    NoAnswer(String),
}

/// The topic's partitions.
pub(super) fn ask(consumer: &Consumer, topic: &str) -> Result<Vec<Led>, Reason> {
    let metadata = consumer
        .fetch_metadata(Some(topic), ANSWER_WITHIN)
        .map_err(|e| Reason::NoAnswer(format!("the broker does not tell its partitions ({e})")))?;
    let Some(told) = metadata.topics().iter().find(|t| t.name() == topic) else {
        return Err(Reason::NoAnswer("the broker tells nothing of this topic".into()));
    };
    match told.error().map(RDKafkaErrorCode::from) {
        None => {
            let led = |leader| (leader >= 0).then_some(leader);
            Ok(told.partitions().iter().map(|p| Led { number: p.id(), leader: led(p.leader()) }).collect())
        }
        Some(RDKafkaErrorCode::UnknownTopicOrPartition) => Err(Reason::NoSuchTopic),
        Some(code) => Err(Reason::NoAnswer(format!("the topic can't be read ({code})"))),
    }
}

/// Asks the broker that leads a partition for its range: whether it can be reached, and leads.
fn leads(consumer: &Consumer, topic: &str, number: i32) -> Result<(), KafkaError> {
    use RDKafkaErrorCode::{LeaderNotAvailable, NotLeaderForPartition, OffsetNotAvailable, UnknownLeaderEpoch};
    let moves =
        |code| matches!(code, NotLeaderForPartition | LeaderNotAvailable | OffsetNotAvailable | UnknownLeaderEpoch);
    let asked = Instant::now();
    loop {
        match consumer.fetch_watermarks(topic, number, ANSWER_WITHIN) {
            // Another one leads in a moment.
            Err(e) if e.rdkafka_error_code().is_some_and(moves) && asked.elapsed() < ANSWER_WITHIN => {
                std::thread::sleep(ASK_AGAIN);
            }
            answer => return answer.map(drop),
        }
    }
}

/// The group's coordinator isn't there yet.
fn is_passing(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{CoordinatorLoadInProgress, CoordinatorNotAvailable, NotCoordinator};
    matches!(code, NotCoordinator | CoordinatorNotAvailable | CoordinatorLoadInProgress)
}

/// For each of these partitions the first offset whose record was taken at this time (microseconds since 1970) or later, else
/// the one after its last; and how many offsets before it are gone that may have been taken then, too.
fn taken_from(
    consumer: &Consumer,
    topic: &str,
    partitions: impl Iterator<Item = i32>,
    time: i64,
) -> Result<HashMap<i32, (u64, u64)>, Reason> {
    let unknown = |e| Reason::NoAnswer(format!("the broker does not tell where records of a time begin ({e})"));
    let mut list = TopicPartitionList::new();
    for number in partitions {
        list.add_partition_offset(topic, number, Offset::Offset((time / 1_000).max(0))).map_err(unknown)?;
    }
    let mut offsets = HashMap::new();
    if list.count() == 0 {
        return Ok(offsets);
    }
    for element in consumer.offsets_for_times(list, ANSWER_WITHIN).map_err(unknown)?.elements() {
        element.error().map_err(unknown)?;
        let number = element.partition();
        let (low, high) = consumer.fetch_watermarks(topic, number, ANSWER_WITHIN).map_err(unknown)?;
        let first = match element.offset() {
            Offset::Offset(next) => next,
            // There is none that late.
            _ => high,
        };
        let offset = |n| u64::try_from(n).unwrap_or(0);
        // Where the oldest that there is was taken late enough, some before it may have been.
        let lost = if first <= low { offset(low) } else { 0 };
        offsets.insert(number, (offset(first), lost));
    }
    Ok(offsets)
}

/// The group's committed offsets of these partitions; those that have none are left out.
pub(super) fn committed(
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
    let asked = Instant::now();
    let told = loop {
        match consumer.committed_offsets(list.clone(), ANSWER_WITHIN) {
            // A broker that has just started, or another one that takes over, knows in a moment.
            Err(e) if e.rdkafka_error_code().is_some_and(is_passing) && asked.elapsed() < ANSWER_WITHIN => {
                std::thread::sleep(ASK_AGAIN);
            }
            answer => break answer.map_err(unknown)?,
        }
    };
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
