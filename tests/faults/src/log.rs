//! The log: where records are written, and where they are read again for the judge. Knows no record.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clawdstrike_test_services::Kafka;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};

use crate::wait::{DEADLINE, wait};

/// The source's name, and that of its group.
const NAME: &str = "events";
/// How long the broker may take for one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a producer that can take no more is left to itself.
const LITTLE: Duration = Duration::from_millis(5);

/// A log of lines.
pub(crate) enum Log {
    File(PathBuf),
    Topic(Topic),
}

impl Log {
    pub(crate) fn file(folder: &std::path::Path) -> anyhow::Result<Log> {
        let data = folder.join("data");
        std::fs::create_dir_all(&data)?;
        Ok(Log::File(data.join("0.jsonl")))
    }

    /// The section of the configuration that reads it.
    pub(crate) fn settings(&self) -> String {
        match self {
            Log::File(_) => format!("[[source]]\ntype = \"jsonl\"\nname = \"{NAME}\"\npath = \"data\"\n"),
            Log::Topic(topic) => format!(
                "[[source]]\ntype = \"kafka\"\nname = \"{NAME}\"\nbrokers = \"{}\"\ntopics = [\"{name}\"]\ngroup = \"{name}\"\n\
                 [source.settings]\n\"reconnect.backoff.max.ms\" = \"500\"\n",
                topic.kafka.bootstrap(),
                name = topic.name,
            ),
        }
    }

    /// Appends bytes to a partition; a topic gets the lines that end in them.
    pub(crate) fn append(&mut self, partition: usize, bytes: &[u8]) -> anyhow::Result<()> {
        match self {
            Log::File(path) => {
                let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
                Ok(file.write_all(bytes)?)
            }
            Log::Topic(topic) => topic.append(partition, bytes),
        }
    }

    /// Waits until the broker has what was appended.
    pub(crate) fn flush(&self) -> anyhow::Result<()> {
        match self {
            Log::File(_) => Ok(()),
            Log::Topic(topic) => topic.flush(),
        }
    }

    /// Waits until the group has committed all that was written; files know no commits.
    pub(crate) fn await_committed(&self) -> anyhow::Result<()> {
        match self {
            Log::File(_) => Ok(()),
            Log::Topic(topic) => topic.await_committed(),
        }
    }

    /// What was written, by partition.
    pub(crate) fn read(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        match self {
            Log::File(path) => Ok(vec![std::fs::read(path)?]),
            Log::Topic(topic) => topic.read(),
        }
    }
}

/// A topic of its own.
pub(crate) struct Topic {
    kafka: Arc<Kafka>,
    name: String,
    producer: BaseProducer,
    /// By partition, the beginning of a line.
    begun: Vec<Vec<u8>>,
}

impl Topic {
    /// Without a configuration, it has the producers' clock: the largest timestamp so far is the reference time, as the
    /// judge has it.
    pub(crate) fn create(
        kafka: &Arc<Kafka>,
        name: &str,
        partitions: usize,
        config: &[(&str, &str)],
    ) -> anyhow::Result<Topic> {
        kafka.create_topic(name, partitions.try_into()?, config).map_err(anyhow::Error::msg)?;
        let producer = ClientConfig::new()
            .set("bootstrap.servers", kafka.bootstrap())
            // A broker that is killed before it answers gets a record once all the same, and in its place.
            .set("enable.idempotence", "true")
            .create()?;
        Ok(Topic { kafka: kafka.clone(), name: name.to_owned(), producer, begun: vec![Vec::new(); partitions] })
    }

    fn append(&mut self, partition: usize, bytes: &[u8]) -> anyhow::Result<()> {
        self.begun[partition].extend_from_slice(bytes);
        let all = std::mem::take(&mut self.begun[partition]);
        for line in all.split_inclusive(|b| *b == b'\n') {
            let Some(line) = line.strip_suffix(b"\n") else {
                self.begun[partition] = line.to_vec();
                break;
            };
            // A file's blank line is nothing at all.
            if line.trim_ascii().is_empty() {
                continue;
            }
            let record = BaseRecord::<(), [u8]>::to(&self.name).partition(partition.try_into()?).payload(line);
            let mut refused = self.producer.send(record).err();
            while let Some((error, record)) = refused.take() {
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    bail!(error);
                }
                self.producer.poll(LITTLE);
                refused = self.producer.send(record).err();
            }
        }
        self.producer.poll(Duration::ZERO);
        Ok(())
    }

    fn flush(&self) -> anyhow::Result<()> {
        self.producer.flush(DEADLINE).with_context(|| format!("topic \"{}\" doesn't take its records", self.name))
    }

    fn consumer(&self) -> anyhow::Result<BaseConsumer> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.kafka.bootstrap()).set("group.id", &self.name);
        Ok(config.set("enable.auto.commit", "false").set("enable.partition.eof", "false").create()?)
    }

    /// The next offset of each partition.
    fn ends(&self, consumer: &BaseConsumer) -> anyhow::Result<Vec<i64>> {
        let partitions = 0..i32::try_from(self.begun.len())?;
        partitions.map(|n| Ok(consumer.fetch_watermarks(&self.name, n, ANSWER)?.1)).collect()
    }

    fn await_committed(&self) -> anyhow::Result<()> {
        let consumer = self.consumer()?;
        let ends = wait("the topic's ends", || Ok(self.ends(&consumer).ok()))?;
        let mut asked = TopicPartitionList::new();
        asked.add_partition_range(&self.name, 0, i32::try_from(ends.len())? - 1);
        let mut told = None;
        let all = || {
            // The broker may be away just now.
            let Ok(committed) = consumer.committed_offsets(asked.clone(), ANSWER) else { return Ok(None) };
            let offsets: Vec<Offset> = committed.elements().iter().map(|of| of.offset()).collect();
            // Of a partition without records there is nothing to commit.
            let is_there = |(offset, end): (&Offset, &i64)| *end == 0 || *offset == Offset::Offset(*end);
            let all = offsets.len() == ends.len() && offsets.iter().zip(&ends).all(is_there);
            told = Some(offsets);
            Ok(all.then_some(()))
        };
        wait("the group's commits", all).with_context(|| format!("ends {ends:?}, committed {told:?}"))
    }

    fn read(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        let consumer = self.consumer()?;
        let ends = self.ends(&consumer)?;
        let mut from = TopicPartitionList::new();
        for n in 0..i32::try_from(ends.len())? {
            from.add_partition_offset(&self.name, n, Offset::Beginning)?;
        }
        consumer.assign(&from)?;
        let mut read = vec![Vec::new(); ends.len()];
        let mut left: i64 = ends.iter().sum();
        let deadline = Instant::now() + DEADLINE;
        while left > 0 {
            if Instant::now() >= deadline {
                bail!("topic \"{}\": {left} records can't be read again", self.name);
            }
            let Some(record) = consumer.poll(ANSWER) else { continue };
            let record = record?;
            let file: &mut Vec<u8> = &mut read[usize::try_from(record.partition())?];
            file.extend_from_slice(record.payload().unwrap_or_default());
            file.push(b'\n');
            left -= 1;
        }
        Ok(read)
    }
}
