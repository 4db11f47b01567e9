//! The reader's loop: takes records off the client's queue, gathers them by partition and hands batches to the workers.
//!
//! Knows nothing of settings or metadata.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use rdkafka::client::ClientContext as _;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use tracing::{debug, error, info, warn};

use super::discovery::{Begin, News};
use super::lost;
use super::queue::{Event, Queue, Record, end_of};
use super::{Client, join, split};
use crate::config::OnLost;
use crate::source::{BATCH_BYTES, Feed, Halt, MAX_RECORD, Message, PartitionId, RecordBatch, RecordRef};

/// Events that are taken before what has been gathered is handed over.
const TAKE: usize = 4096;
/// How long to wait for the first of them.
const WAIT: Duration = Duration::from_millis(100);
/// How long a stopping reader waits for the answers to commits.
const COMMITS_WITHIN: Duration = Duration::from_secs(3);
/// The same error is told again after so long.
const TELL_AGAIN: Duration = Duration::from_secs(10);
/// A batch that isn't known to fill begins with so much room.
const SMALL_BATCH: usize = 16 * 1024;

/// A partition that is read here, and its batch that is being gathered.
struct Partition {
    id: PartitionId,
    bytes: Vec<u8>,
    records: Vec<RecordRef>,
    /// After the last record that was taken.
    next_offset: u64,
    /// `next_offset` is where it is, not only where it would begin at the least.
    known: bool,
    /// The worker has been told where it is.
    told: bool,
    /// The broker doesn't have what was to be read: it was asked what it has.
    rests: Option<Rest>,
    /// Its first record has come.
    begun: bool,
    /// The last batch was full, so the next will be.
    busy: bool,
}

/// What was to be read when the broker didn't have it.
struct Rest {
    /// `None`: wherever the partition begins.
    wanted: Option<u64>,
    /// The broker says that it cut its log off.
    cut: bool,
}

/// Said once for a topic.
const NO_CLOCK: &str = "this topic has no trusted clock: a record ahead of its time can re-time those after it; \
                        set its message.timestamp.type to LogAppendTime";

/// The facility of the client's log for connections that fail; not all of these come as errors too.
const CONNECTION_FAILED: &str = "FAIL";

/// What a broker says over TLS when it wants a client's certificate, gets none or doesn't trust it.
const REFUSED_CERTIFICATE: [&str; 4] =
    ["alert bad certificate", "alert certificate required", "alert certificate unknown", "alert unknown ca"];

/// A client that reads.
pub(super) struct Reading<'a> {
    feed: &'a Feed,
    client: &'a Client,
    partitions: Vec<Partition>,
    /// Places in `partitions` by topic's place and Kafka's number.
    places: HashMap<(usize, i32), usize>,
    /// Topic and place of the record before: mostly the next one's too.
    last: (usize, i32, usize),
    /// Topics, by place, that were found to have no clock of the broker's.
    clockless: HashSet<usize>,
    /// When an error was told last, by its number.
    told: HashMap<i32, Instant>,
    /// Asks what the broker has of a partition.
    questions: Sender<(usize, i32)>,
    /// What the client said last of why a broker can't be reached.
    obstacle: Option<String>,
    /// Why the source can't be read, as told to the workers.
    degraded: Option<String>,
}

/// A topic that isn't found within this time doesn't hold the watermark back: it may never exist.
const LISTED_WITHIN: Duration = Duration::from_secs(10);

impl<'a> Reading<'a> {
    pub(super) fn new(feed: &'a Feed, client: &'a Client, questions: Sender<(usize, i32)>) -> Reading<'a> {
        Reading {
            feed,
            client,
            partitions: Vec::new(),
            places: HashMap::new(),
            last: (usize::MAX, 0, 0),
            clockless: HashSet::new(),
            told: HashMap::new(),
            questions,
            obstacle: None,
            degraded: None,
        }
    }

    /// Reads until it is stopped or can't go on.
    pub(super) fn run(&mut self, queue: &Queue, news: &Receiver<News>) -> Result<(), Halt> {
        let mut unseen: HashSet<usize> = (0..self.client.topics.len()).collect();
        let mut listed = false;
        let began = Instant::now();
        loop {
            for told in news.try_iter() {
                match told {
                    News::Found { place, partitions } => {
                        self.assign(place, &partitions)?;
                        unseen.remove(&place);
                    }
                    News::State(trouble) => self.state(trouble)?,
                    News::Range { place, partition, low, high } => self.go_on(place, partition, low, high)?,
                }
            }
            if !listed && (unseen.is_empty() || began.elapsed() >= LISTED_WITHIN) {
                self.feed.send_all(|| Message::Listed(self.feed.index))?;
                listed = true;
            }
            let mut wait = WAIT;
            for _ in 0..TAKE {
                match queue.next(wait, |event| self.take(event)) {
                    Some(taken) => taken?,
                    None => break,
                }
                wait = Duration::ZERO;
            }
            for place in 0..self.partitions.len() {
                self.hand_over(place)?;
            }
            if self.feed.stopped() {
                return Err(Halt::Closed);
            }
        }
    }

    /// Waits until the broker has answered all commits, and lets everything else go.
    pub(super) fn await_commits(&mut self, queue: &Queue) {
        let deadline = Instant::now() + COMMITS_WITHIN;
        while self.client.waiting.load(Ordering::Relaxed) > 0 {
            if Instant::now() >= deadline {
                warn!(
                    source = self.client.name,
                    "stopped before the broker had answered the last commits: after a restart the group's lag shows too much"
                );
                return;
            }
            queue.next(WAIT, |event| {
                if let Event::Committed(result) = event {
                    self.committed(result);
                }
            });
        }
    }

    /// Begins to read what this process's workers own of these.
    fn assign(&mut self, topic_place: usize, partitions: &[Begin]) -> Result<(), Halt> {
        let name = &self.client.name;
        let topic = &self.client.topics[topic_place];
        let failed = |text: String| Halt::Failed(format!("source \"{name}\": {text}"));
        let mut list = TopicPartitionList::new();
        for &Begin { number, next: start, lost } in partitions {
            let partition = join(topic_place, number).ok_or_else(|| {
                failed(format!("topic \"{topic}\" has more partitions than can be numbered: leave it out"))
            })?;
            let id = self.feed.id(partition);
            if !self.feed.owns(id) {
                continue;
            }
            let offset = match start.map(i64::try_from) {
                Some(Ok(next)) => Offset::Offset(next),
                Some(Err(e)) => return Err(failed(format!("topic \"{topic}\": offset: {e}"))),
                None => Offset::Beginning,
            };
            list.add_partition_offset(topic, number, offset)
                .map_err(|e| failed(format!("topic \"{topic}\" partition {number}: {e}")))?;
            self.places.insert((topic_place, number), self.partitions.len());
            self.partitions.push(Partition {
                id,
                bytes: Vec::new(),
                records: Vec::new(),
                next_offset: start.unwrap_or(0),
                known: start.is_some(),
                told: false,
                rests: None,
                begun: false,
                busy: false,
            });
            self.feed.send(id, Message::Assigned(id))?;
            if lost > 0 {
                self.feed.send(id, Message::Lost(id, lost))?;
            }
        }
        if list.count() == 0 {
            return Ok(());
        }
        info!(source = name, topic, partitions = list.count(), "reading");
        self.client
            .consumer
            .incremental_assign(&list)
            .map_err(|e| failed(format!("partitions of topic \"{topic}\" not taken: {e}")))
    }

    fn take(&mut self, event: Event<'_>) -> Result<(), Halt> {
        if let Some(obstacle) = obstacle_of(&event) {
            self.obstacle = Some(obstacle);
        }
        match event {
            Event::Record(record) => self.record(&record)?,
            Event::End { topic, partition, offset } => self.end(&topic, partition, offset)?,
            Event::OutOfRange { topic, partition, offset } => self.out_of_range(&topic, partition, offset)?,
            Event::Committed(result) => self.committed(result),
            Event::Error { code, fatal, text } => self.error(code, fatal, &text)?,
            Event::Log { level, facility, text } => {
                let context = self.client.consumer.client().context().clone();
                context.log(level, &facility, &text);
            }
            Event::Other => {}
        }
        Ok(())
    }

    /// The place of a partition that is read here.
    fn place(&mut self, topic: &[u8], number: i32) -> Option<usize> {
        let topics = &self.client.topics;
        let (last_topic, last_number, last_place) = self.last;
        let same = topics.get(last_topic).is_some_and(|t| t.as_bytes() == topic);
        if same && number == last_number {
            return Some(last_place);
        }
        let topic = match same {
            true => last_topic,
            false => topics.iter().position(|t| t.as_bytes() == topic)?,
        };
        let place = *self.places.get(&(topic, number))?;
        self.last = (topic, number, place);
        Some(place)
    }

    fn record(&mut self, record: &Record<'_>) -> Result<(), Halt> {
        let Some(place) = self.place(record.topic, record.partition) else {
            return Ok(());
        };
        let Ok(offset) = u64::try_from(record.offset) else {
            return Ok(());
        };
        let payload = &record.payload[..record.payload.len().min(MAX_RECORD)];
        if !self.partitions[place].begun {
            self.begin(place, record.append);
        }
        if self.partitions[place].bytes.len() + payload.len() > BATCH_BYTES {
            self.partitions[place].busy = true;
            self.hand_over(place)?;
        }
        let partition = &mut self.partitions[place];
        if partition.bytes.capacity() == 0 {
            let room = if partition.busy { BATCH_BYTES } else { SMALL_BATCH };
            partition.bytes.reserve(room.max(payload.len()));
        }
        partition.records.push(RecordRef {
            start: partition.bytes.len() as u32,
            len: payload.len() as u32,
            offset,
            append: record.append,
        });
        partition.bytes.extend_from_slice(payload);
        (partition.next_offset, partition.known) = (offset + 1, true);
        Ok(())
    }

    /// Looks at a partition's first record.
    fn begin(&mut self, place: usize, append: Option<i64>) {
        self.partitions[place].begun = true;
        let (source, topic) = (&self.client.name, &self.client.topics[self.last.0]);
        if append.is_none() && self.clockless.insert(self.last.0) {
            warn!(source, topic, "{NO_CLOCK}");
        }
    }

    /// The partition was read to its end. What lies before `offset` and was no record needs no reading any more.
    fn end(&mut self, topic: &[u8], number: i32, offset: i64) -> Result<(), Halt> {
        let Some(place) = self.place(topic, number) else {
            return Ok(());
        };
        let partition = &mut self.partitions[place];
        let end = u64::try_from(offset).unwrap_or(0);
        let id = partition.id;
        partition.busy = false;
        // Told also where there was nothing to read, so that it gets a committed offset, and lag tools see that it has none.
        if end > partition.next_offset || !partition.told {
            (partition.next_offset, partition.known) = (end.max(partition.next_offset), true);
            let batch = RecordBatch { end: Some(partition.next_offset), ..partition.batch() };
            self.feed.send(id, Message::Batch(batch))?;
        } else {
            self.hand_over(place)?;
        }
        self.feed.send(id, Message::CaughtUp(id))?;
        Ok(())
    }

    /// The broker doesn't have what was to be read next: asks what it has.
    fn out_of_range(&mut self, topic: &[u8], number: i32, offset: Option<u64>) -> Result<(), Halt> {
        let Some(place) = self.place(topic, number) else {
            return Ok(());
        };
        self.hand_over(place)?;
        let partition = &mut self.partitions[place];
        let here = partition.known.then_some(partition.next_offset);
        partition.rests = Some(Rest { wanted: offset.or(here), cut: offset.is_none() && here.is_some() });
        // Closed: the reader is being stopped.
        let _stopping = self.questions.send((self.last.0, number));
        Ok(())
    }

    /// Goes on with what the broker has of a partition.
    fn go_on(&mut self, topic_place: usize, number: i32, low: u64, high: u64) -> Result<(), Halt> {
        let (source, topic) = (&self.client.name, &self.client.topics[topic_place]);
        let Some(&place) = self.places.get(&(topic_place, number)) else {
            return Ok(());
        };
        let partition = &mut self.partitions[place];
        let Some(Rest { wanted, cut }) = partition.rests.take() else {
            return Ok(());
        };
        let way = lost::way(wanted.unwrap_or(low), low, high, cut);
        (partition.next_offset, partition.known) = (way.from, true);
        let id = partition.id;
        if let Some(why) = &way.why {
            if self.client.on_lost == OnLost::Fail {
                return Err(Halt::Failed(format!(
                    "source \"{source}\": topic \"{topic}\" partition {number}: {why}; on_lost_records = \"skip\" goes on without them"
                )));
            }
            error!(source, topic, partition = number, lost = way.lost, "{why}");
            if way.lost > 0 {
                self.feed.send(id, Message::Lost(id, way.lost))?;
            }
            let batch = partition.batch();
            self.feed.send(id, Message::Batch(batch))?;
        }
        let failed =
            |text: String| Halt::Failed(format!("source \"{source}\": topic \"{topic}\" partition {number}: {text}"));
        let mut list = TopicPartitionList::new();
        let from = i64::try_from(way.from).map_err(|e| failed(e.to_string()))?;
        list.add_partition_offset(topic, number, Offset::Offset(from)).map_err(|e| failed(e.to_string()))?;
        let consumer = &self.client.consumer;
        // It rests in a state that can't be moved, only left.
        let again = consumer.incremental_unassign(&list).and_then(|()| consumer.incremental_assign(&list));
        again.map_err(|e| failed(format!("can't go on at offset {from}: {e}")))
    }

    /// How it is with the broker, as far as questions tell.
    fn state(&mut self, trouble: Option<String>) -> Result<(), Halt> {
        let reason = trouble.map(|text| match &self.obstacle {
            Some(obstacle) => format!("{text}: {obstacle}"),
            None => text,
        });
        if reason.is_none() {
            self.obstacle = None;
        }
        self.tell(reason)
    }

    /// Tells the workers whether the source can be read.
    fn tell(&mut self, reason: Option<String>) -> Result<(), Halt> {
        if self.degraded == reason {
            return Ok(());
        }
        if reason.is_none() {
            info!(source = self.client.name, "can be read again");
        }
        self.degraded.clone_from(&reason);
        if let Some(inbox) = self.feed.inboxes.local.first() {
            inbox.send_unless(Message::Degraded(self.feed.index, reason), &self.feed.stop)?;
        }
        Ok(())
    }

    fn hand_over(&mut self, place: usize) -> Result<(), Halt> {
        let partition = &mut self.partitions[place];
        if partition.records.is_empty() {
            return Ok(());
        }
        let id = partition.id;
        let (topic, number) = split(id.partition);
        let end = self.client.topics.get(topic).and_then(|topic| end_of(&self.client.consumer, topic, number));
        let batch = RecordBatch { end, ..partition.batch() };
        self.feed.send(id, Message::Batch(batch))?;
        Ok(())
    }

    fn committed(&self, result: Result<(), RDKafkaErrorCode>) {
        let source = &self.client.name;
        // Each commit is answered once; were one answered twice, the count must not wrap.
        let _left = self.client.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        match result {
            Ok(()) => debug!(source, "committed"),
            Err(e) => {
                warn!(source, "offsets were not committed: {e}; the next commit makes up for it");
            }
        }
    }

    /// Errors pass by themselves: the client tries again for ever. Only fatal ones don't.
    fn error(&mut self, code: RDKafkaErrorCode, fatal: bool, text: &str) -> Result<(), Halt> {
        let source = &self.client.name;
        if fatal {
            return Err(Halt::Failed(format!(
                "source \"{source}\": the kafka client gave up: {text} ({code}); restart the engine"
            )));
        }
        if code == RDKafkaErrorCode::AllBrokersDown {
            let because = self.obstacle.as_ref().map(|o| format!(": {o}")).unwrap_or_default();
            self.tell(Some(format!("no broker can be reached{because}")))?;
        }
        let source = &self.client.name;
        let now = Instant::now();
        let told = self.told.get(&(code as i32));
        if told.is_none_or(|told| now.duration_since(*told) >= TELL_AGAIN) {
            warn!(source, "{text} ({code}); trying again");
            self.told.insert(code as i32, now);
        }
        Ok(())
    }
}

/// What an event says of why a broker can't be reached, if it does.
pub(super) fn obstacle_of(event: &Event<'_>) -> Option<String> {
    match event {
        Event::Log { facility, text, .. } if facility == CONNECTION_FAILED => Some(obstacle(text)),
        Event::Error { code, text, .. } => matches!(
            code,
            RDKafkaErrorCode::SSL
                | RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::BrokerTransportFailure
        )
        .then(|| obstacle(text)),
        _ => None,
    }
}

/// What the client says of a connection, without its thread, how long it took and how often it happened: what is the same
/// again isn't told again.
fn obstacle(text: &str) -> String {
    let said = text.split_once("]: ").filter(|(thread, _)| thread.starts_with("[thrd:")).map_or(text, |(_, said)| said);
    let brief = said.split(" (after ").next().unwrap_or(said);
    if REFUSED_CERTIFICATE.iter().any(|alert| said.contains(alert)) {
        return format!(
            "{brief}; the broker wants a client's certificate that it trusts: \"ssl.certificate.location\" and \
             \"ssl.key.location\" name it"
        );
    }
    match said.contains("APIVERSION_QUERY") {
        true => format!("{brief}; does \"security.protocol\" fit this port?"),
        false => brief.to_owned(),
    }
}

impl Partition {
    /// What has been gathered; the next batch begins empty.
    fn batch(&mut self) -> RecordBatch {
        self.told = true;
        RecordBatch {
            partition: self.id,
            bytes: std::mem::take(&mut self.bytes),
            records: std::mem::take(&mut self.records),
            next_offset: self.next_offset,
            end: None,
        }
    }
}
