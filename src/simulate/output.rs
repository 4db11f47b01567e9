//! Where simulated events go: files, standard output, Kafka. Knows nothing of how they are made.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Stdout, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

/// Topics of the brief.
const EVENTS_TOPIC: &str = "agent.events";
const VIOLATIONS_TOPIC: &str = "agent.violations";
/// How long brokers may take to answer at all, and to take what is left at the end.
const BROKER_TIMEOUT: Duration = Duration::from_secs(10);
const FLUSH_TIMEOUT: Duration = Duration::from_secs(40);
/// A record that no broker takes for so long has failed; less than [`FLUSH_TIMEOUT`].
const RECORD_TIMEOUT_MS: &str = "30000";
/// Records between two looks at delivery reports.
const POLL_EVERY: u32 = 1_024;

/// One line on its way out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    /// With its line feed.
    pub(super) line: &'a [u8],
    /// Agent and session; `key` in one piece is `agent:session`.
    pub(super) key: &'a str,
    pub(super) allowed: bool,
    pub(super) slot: usize,
}

/// A destination.
pub(super) enum Output {
    Files(Vec<BufWriter<File>>),
    Stdout(BufWriter<Stdout>),
    Kafka(Box<Kafka>),
}

impl Output {
    /// Opens `count` files, or standard output for `-`.
    pub(super) fn files(path: &Path, count: usize, append: bool) -> anyhow::Result<Output> {
        if path.as_os_str() == "-" {
            return Ok(Output::Stdout(BufWriter::with_capacity(1 << 16, io::stdout())));
        }
        let open = |path: PathBuf| {
            let mut options = OpenOptions::new();
            options.create(true).write(true).append(append).truncate(!append);
            let file = options
                .open(&path)
                .with_context(|| format!("file \"{}\" can't be opened for writing", path.display()))?;
            Ok(BufWriter::with_capacity(1 << 18, file))
        };
        let files = if count == 1 {
            vec![open(path.to_owned())?]
        } else {
            (0..count).map(|i| open(numbered(path, i))).collect::<anyhow::Result<_>>()?
        };
        Ok(Output::Files(files))
    }

    /// Connects to Kafka; fails if no broker answers.
    pub(super) fn kafka(brokers: &str) -> anyhow::Result<Output> {
        Kafka::connect(brokers).map(|kafka| Output::Kafka(Box::new(kafka)))
    }

    /// Whether [`Line::key`] is used, which costs its making.
    pub(super) fn wants_key(&self) -> bool {
        matches!(self, Output::Kafka(_))
    }

    /// Writes a line; it may stay in a buffer until [`Output::flush`].
    pub(super) fn write(&mut self, line: Line<'_>) -> anyhow::Result<()> {
        match self {
            Output::Files(files) => {
                let file = line.slot % files.len();
                files[file].write_all(line.line).context("writing to the file stopped")
            }
            Output::Stdout(out) => out.write_all(line.line).context("writing to standard output stopped"),
            Output::Kafka(kafka) => kafka.write(line),
        }
    }

    /// Lets readers see what was written.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        match self {
            Output::Files(files) => files.iter_mut().try_for_each(|f| f.flush().context("writing to the file stopped")),
            Output::Stdout(out) => out.flush().context("writing to standard output stopped"),
            Output::Kafka(kafka) => kafka.poll(),
        }
    }

    /// Flushes, waits for what is under way, and tells of lines that didn't arrive.
    pub(super) fn finish(&mut self) -> anyhow::Result<()> {
        self.flush()?;
        match self {
            Output::Kafka(kafka) => kafka.finish(),
            Output::Files(_) | Output::Stdout(_) => Ok(()),
        }
    }
}

/// `a/b.jsonl` with number 2 is `a/b-2.jsonl`.
fn numbered(path: &Path, number: usize) -> PathBuf {
    let stem = path.file_stem().map(|s| s.to_string_lossy()).unwrap_or_default();
    let extension = path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
    path.with_file_name(format!("{stem}-{number}{extension}"))
}

/// A producer as the brief's: lz4, keyed by `agent:session`, violations in their own topic.
pub(super) struct Kafka {
    producer: BaseProducer<Deliveries>,
    failures: Failures,
    since_poll: u32,
}

type Failures = Arc<Mutex<(u64, Option<KafkaError>)>>;

struct Deliveries(Failures);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            failures.0 += 1;
            failures.1.get_or_insert_with(|| error.clone());
        }
    }
}

impl Kafka {
    fn connect(brokers: &str) -> anyhow::Result<Kafka> {
        let failures = Failures::default();
        let producer: BaseProducer<Deliveries> = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("client.id", "clawdstrike-simulate")
            .set("compression.type", "lz4")
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .set("message.timeout.ms", RECORD_TIMEOUT_MS)
            .set("queue.buffering.max.messages", "200000")
            .set("queue.buffering.max.kbytes", "131072")
            .create_with_context(Deliveries(Arc::clone(&failures)))
            .map_err(|e| anyhow!("kafka \"{brokers}\" can't be used: {e}"))?;
        producer
            .client()
            .fetch_metadata(None, BROKER_TIMEOUT)
            .map_err(|e| anyhow!("kafka \"{brokers}\" doesn't answer: {e}; check \"--kafka\", expected host:port"))?;
        Ok(Kafka { producer, failures, since_poll: 0 })
    }

    fn write(&mut self, line: Line<'_>) -> anyhow::Result<()> {
        let topic = if line.allowed { EVENTS_TOPIC } else { VIOLATIONS_TOPIC };
        let payload = line.line.strip_suffix(b"\n").unwrap_or(line.line);
        let mut record = BaseRecord::to(topic).payload(payload).key(line.key);
        // Ends: a full queue empties, because its records are taken or fail within their timeout.
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    self.producer.poll(Duration::from_millis(50));
                    self.check()?;
                }
                Err((error, _)) => bail!("kafka takes no record for topic \"{topic}\": {error}"),
            }
        }
        self.since_poll += 1;
        if self.since_poll >= POLL_EVERY { self.poll() } else { Ok(()) }
    }

    fn poll(&mut self) -> anyhow::Result<()> {
        self.since_poll = 0;
        self.producer.poll(Duration::ZERO);
        self.check()
    }

    fn check(&self) -> anyhow::Result<()> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match &failures.1 {
            Some(error) => bail!(
                "kafka didn't take {} events: {error}; check that the topics \"{EVENTS_TOPIC}\" and \"{VIOLATIONS_TOPIC}\" exist and can be written",
                failures.0
            ),
            None => Ok(()),
        }
    }

    fn finish(&self) -> anyhow::Result<()> {
        let flushed = self.producer.flush(FLUSH_TIMEOUT);
        self.check()?;
        flushed.map_err(|e| anyhow!("kafka hasn't taken the last {} events: {e}", self.producer.in_flight_count()))
    }
}
