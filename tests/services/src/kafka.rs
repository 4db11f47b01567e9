//! Apache Kafka: one node that is broker and controller (KRaft). Knows nothing of what is in a topic.

mod secure;
mod wire;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::files::{RunFolder, base, copy_folder, told};
use crate::install::{LOCAL_DEADLINE, Maven, maven, package};
use crate::port::Port;
use crate::process::{POLL, run};
use crate::server::{Server, Service, Spec, explain};
use crate::versions::{KAFKA, SLF4J};

use secure::Secure;
pub use secure::{SecureKafka, kafka_secure};

const NAME: &str = "kafka";
const NEEDS: &str = "\"java\" 17 or newer and \"mvn\" on PATH; debian: apt-get install default-jre-headless maven";
/// Any 16 bytes in base64 would do: brokers of different tests never talk to each other.
const CLUSTER_ID: &str = "Y2xhd2RzdHJpa2VfZWRyXw";
/// How long one of Kafka's own tools may take. A Java process on a busy machine: seconds.
const TOOL_DEADLINE: Duration = Duration::from_secs(120);
/// How long until each partition of a new topic has a leader.
const LEADER_DEADLINE: Duration = Duration::from_secs(60);

/// A Kafka broker. Topics that are written or asked for come into being with one partition
/// (`auto.create.topics.enable`); a consumer group starts without delay.
pub struct Kafka {
    server: Server,
    port: Port,
    _controller: Port,
    home: PathBuf,
}

/// Starts a Kafka broker and waits until it serves clients.
///
/// # Errors
/// If `java` or `mvn` is missing, the download fails, or the broker doesn't answer within two minutes.
pub fn kafka() -> Result<Kafka, String> {
    start(None)
}

/// Starts a broker; `secure` are listeners beside the plain one.
fn start(secure: Option<&Secure>) -> Result<Kafka, String> {
    let base = base(false)?;
    let home = package(&base, NAME, KAFKA, install).map_err(|e| explain(NAME, &e, NEEDS))?;
    let folder = RunFolder::create(&base, NAME)?;
    let data = folder.path().join("data");
    copy_folder(&home.join("formatted"), &data)?;
    let (port, controller) = (Port::claim()?, Port::claim()?);
    let properties = folder.path().join("server.properties");
    let mut text = properties_text(port.number(), controller.number(), &data, secure);
    if let Some(secure) = secure {
        text.push_str(&secure.properties(folder.path())?);
    }
    std::fs::write(&properties, text).map_err(|e| told("write", &properties, &e))?;
    let (broker, java_home) = (port.number(), home.clone());
    let spec = Spec {
        name: NAME,
        needs: NEEDS,
        command: Box::new(move || {
            let mut command = java(&java_home);
            command.arg("-Xmx512m").arg("kafka.Kafka").arg(&properties);
            command
        }),
        probe: Box::new(move || wire::brokers(broker)),
        stop: Signal::TERM,
        discard: Signal::KILL,
    };
    Ok(Kafka { server: Server::start(spec, folder)?, port, _controller: controller, home })
}

impl Service for Kafka {
    fn server(&self) -> &Server {
        &self.server
    }
}

impl Kafka {
    /// The address for `bootstrap.servers`: `127.0.0.1:<port>`.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    /// Creates a topic and waits until each partition has a leader. `config` is the topic's own configuration, as in
    /// `("message.timestamp.type", "LogAppendTime")`.
    ///
    /// # Errors
    /// If the topic exists, the broker refuses the configuration, or it isn't running.
    pub fn create_topic(&self, name: &str, partitions: u32, config: &[(&str, &str)]) -> Result<(), String> {
        wire::create_topic(self.port.number(), name, partitions, config)
            .and_then(|()| self.await_leaders(name, partitions))
            .map_err(|e| format!("can't create topic \"{name}\": {e}"))
    }

    /// Raises a topic's number of partitions to `total` and waits until each has a leader.
    ///
    /// # Errors
    /// If there is no such topic, it has as many partitions already, or the broker isn't running.
    pub fn add_partitions(&self, name: &str, total: u32) -> Result<(), String> {
        wire::add_partitions(self.port.number(), name, total)
            .and_then(|()| self.await_leaders(name, total))
            .map_err(|e| format!("can't add partitions to topic \"{name}\": {e}"))
    }

    /// Deletes a partition's records before an offset, as retention would.
    ///
    /// # Errors
    /// If there is no such partition or the broker isn't running.
    pub fn delete_records(&self, topic: &str, partition: u32, before: u64) -> Result<(), String> {
        let failed = |e: String| format!("can't delete records of topic \"{topic}\" partition {partition}: {e}");
        let file = self.server.folder().path().join(format!("delete-{topic}-{partition}.json"));
        let text = format!(
            r#"{{"version": 1, "partitions": [{{"topic": "{topic}", "partition": {partition}, "offset": {before}}}]}}"#
        );
        std::fs::write(&file, text).map_err(|e| told("write", &file, &e))?;
        let (bootstrap, path) = (self.bootstrap(), file.to_string_lossy());
        let arguments = ["--bootstrap-server", bootstrap.as_str(), "--offset-json-file", &path];
        let told = self.tool("org.apache.kafka.tools.DeleteRecordsCommand", &arguments, "").map_err(failed)?;
        // The tool's exit code is 0 also when a partition was refused.
        match told.contains("low_watermark: ") {
            true => Ok(()),
            false => Err(failed(told)),
        }
    }

    /// Deletes a topic, and waits until it is gone.
    ///
    /// # Errors
    /// If there is no such topic or the broker isn't running.
    pub fn delete_topic(&self, name: &str) -> Result<(), String> {
        let bootstrap = self.bootstrap();
        let arguments = ["--bootstrap-server", &bootstrap, "--delete", "--topic", name];
        self.tool("org.apache.kafka.tools.TopicCommand", &arguments, "")
            .map(drop)
            .map_err(|e| format!("can't delete topic \"{name}\": {e}"))
    }

    /// What Kafka's own `kafka-consumer-groups --describe` tells of a group: a table with a line for each partition,
    /// with its committed offset, end offset and lag.
    ///
    /// # Errors
    /// If there is no such group or the broker isn't running.
    pub fn consumer_group_describe(&self, group: &str) -> Result<String, String> {
        let bootstrap = self.bootstrap();
        let told = self.tool(
            "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
            &["--bootstrap-server", &bootstrap, "--describe", "--group", group],
            "",
        )?;
        // The tool's exit code is 0 then, too.
        match told.trim().strip_prefix("Error: ") {
            Some(error) => Err(format!("can't describe group \"{group}\": {error}")),
            None => Ok(told),
        }
    }

    /// Runs one of Kafka's own command-line tools by its class (`org.apache.kafka.tools.TopicCommand`, ...), its
    /// standard input the text `input`; returns its standard output. Takes a second or two.
    ///
    /// # Errors
    /// If the tool fails or doesn't end within two minutes.
    pub fn tool(&self, class: &str, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut command = java(&self.home);
        command
            .args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
            .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
            .arg(class)
            .args(arguments);
        run(&mut command, input, self.server.folder().path(), TOOL_DEADLINE).map_err(|e| explain(class, &e, NEEDS))
    }

    fn await_leaders(&self, topic: &str, partitions: u32) -> Result<(), String> {
        let until = Instant::now() + LEADER_DEADLINE;
        loop {
            let led = wire::led_partitions(self.port.number(), topic)?;
            if led >= partitions as usize {
                return Ok(());
            }
            if Instant::now() >= until {
                let seconds = LEADER_DEADLINE.as_secs();
                return Err(format!("{led} of {partitions} partitions have a leader after {seconds} s"));
            }
            std::thread::sleep(POLL);
        }
    }
}

fn java(home: &Path) -> Command {
    let mut command = Command::new("java");
    command.arg("-cp").arg(home.join("lib").join("*"));
    command
}

/// The jars, and an empty data folder: formatting one takes a Java process, and the result knows no port.
fn install(folder: &Path) -> Result<(), String> {
    let artifacts = [
        ("org.apache.kafka", "kafka_2.13", KAFKA),
        ("org.apache.kafka", "kafka-tools", KAFKA),
        ("org.slf4j", "slf4j-simple", SLF4J),
    ];
    maven(folder, &artifacts, Maven::CopyJars)?;
    let properties = folder.join("format.properties");
    // Any ports: this broker never starts.
    let text = properties_text(1, 2, &folder.join("formatted"), None);
    std::fs::write(&properties, text).map_err(|e| told("write", &properties, &e))?;
    let mut command = java(folder);
    command.args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"]).arg(&properties);
    run(&mut command, "", folder, LOCAL_DEADLINE).map(drop)
}

/// A small broker: one node, so every replication factor is 1; internal topics with one partition start sooner.
fn properties_text(broker: u16, controller: u16, data: &Path, secure: Option<&Secure>) -> String {
    let listeners = secure.map(Secure::listeners).unwrap_or_default();
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}{listeners}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}{listeners}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL
inter.broker.listener.name=PLAINTEXT
log.dirs={}
num.partitions=1
default.replication.factor=1
auto.create.topics.enable=true
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=8388608
log.cleaner.backoff.ms=200
",
        data.display()
    )
}
