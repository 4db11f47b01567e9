//! Apache Kafka: one node or several, each broker and controller (KRaft). Knows nothing of what is in a topic.

mod leaders;
mod node;
mod secure;
mod wire;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;

use crate::files::{RunFolder, base, copy_folder, told};
use crate::install::{LOCAL_DEADLINE, Maven, maven, package};
use crate::process::run;
use crate::server::{Server, Service, Spec, explain};
use crate::versions::{KAFKA, SLF4J};

use node::Node;
use secure::Secure;
pub use secure::{SecureKafka, kafka_secure};

const NAME: &str = "kafka";
const NEEDS: &str = "\"java\" 17 or newer and \"mvn\" on PATH; debian: apt-get install default-jre-headless maven";
/// Any 16 bytes in base64 would do: brokers of different tests never talk to each other.
const CLUSTER_ID: &str = "Y2xhd2RzdHJpa2VfZWRyXw";
/// How long one of Kafka's own tools may take. A Java process on a busy machine: seconds.
const TOOL_DEADLINE: Duration = Duration::from_secs(120);
/// A broker that is alone, and one of several, for which a machine's memory has to be enough.
const HEAPS: [&str; 2] = ["-Xmx512m", "-Xmx256m"];

/// A Kafka broker. Topics that are written or asked for come into being with one partition
/// (`auto.create.topics.enable`), on all brokers of its cluster; a consumer group starts without delay.
pub struct Kafka {
    server: Server,
    node: Node,
    /// Of its cluster; all of them have every topic.
    brokers: usize,
    home: PathBuf,
}

/// Starts a Kafka broker and waits until it serves clients.
///
/// # Errors
/// If `java` or `mvn` is missing, the download fails, or the broker doesn't answer within two minutes.
pub fn kafka() -> Result<Kafka, String> {
    start(None)
}

/// Starts so many brokers that are one cluster, at most nine, and waits until each serves clients. They are numbered from
/// 1; more than half of them must run, since all are controllers.
///
/// # Errors
/// As [`kafka`].
pub fn kafka_brokers(count: usize) -> Result<Vec<Kafka>, String> {
    let nodes = Node::all(count)?;
    let voters: Vec<String> = nodes.iter().map(Node::voter).collect();
    let start = |node| {
        let voters = voters.clone();
        // None of them serves clients before most of them run.
        std::thread::spawn(move || start_node(node, &voters, None))
    };
    let starting: Vec<JoinHandle<_>> = nodes.into_iter().map(start).collect();
    let started =
        starting.into_iter().map(|broker| broker.join().map_err(|_| "starting a broker panicked".to_owned())?);
    started.collect()
}

/// Starts a broker that is alone; `secure` are listeners beside the plain one.
fn start(secure: Option<&Secure>) -> Result<Kafka, String> {
    let node = Node::all(1)?.remove(0);
    let voters = [node.voter()];
    start_node(node, &voters, secure)
}

fn start_node(node: Node, voters: &[String], secure: Option<&Secure>) -> Result<Kafka, String> {
    let base = base(false)?;
    let home = package(&base, NAME, KAFKA, install).map_err(|e| explain(NAME, &e, NEEDS))?;
    let folder = RunFolder::create(&base, NAME)?;
    let data = folder.path().join("data");
    copy_folder(&home.join("formatted"), &data)?;
    node.own(&data)?;
    let properties = folder.path().join("server.properties");
    let mut text = node.properties(voters, &data, secure);
    if let Some(secure) = secure {
        text.push_str(&secure.properties(folder.path())?);
    }
    std::fs::write(&properties, text).map_err(|e| told("write", &properties, &e))?;
    let (port, java_home, heap) = (node.port.number(), home.clone(), HEAPS[usize::from(voters.len() > 1)]);
    let spec = Spec {
        name: NAME,
        needs: NEEDS,
        command: Box::new(move || {
            let mut command = java(&java_home);
            command.arg(heap).arg("kafka.Kafka").arg(&properties);
            command
        }),
        probe: Box::new(move || wire::brokers(port)),
        stop: Signal::TERM,
        discard: Signal::KILL,
    };
    Ok(Kafka { server: Server::start(spec, folder)?, node, brokers: voters.len(), home })
}

impl Service for Kafka {
    fn server(&self) -> &Server {
        &self.server
    }
}

impl Kafka {
    /// The address for `bootstrap.servers`: `127.0.0.1:<port>`.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    fn port(&self) -> u16 {
        self.node.port.number()
    }

    /// Its number in its cluster, from 1.
    pub fn number(&self) -> usize {
        self.node.number
    }

    /// Creates a topic and waits until each partition has a leader. `config` is the topic's own configuration, as in
    /// `("message.timestamp.type", "LogAppendTime")`.
    ///
    /// # Errors
    /// If the topic exists, the broker refuses the configuration, or it isn't running.
    pub fn create_topic(&self, name: &str, partitions: u32, config: &[(&str, &str)]) -> Result<(), String> {
        wire::create_topic(self.port(), name, partitions, self.brokers, config)
            .and_then(|()| self.await_led(name, partitions))
            .map_err(|e| format!("can't create topic \"{name}\": {e}"))
    }

    /// Raises a topic's number of partitions to `total` and waits until each has a leader.
    ///
    /// # Errors
    /// If there is no such topic, it has as many partitions already, or the broker isn't running.
    pub fn add_partitions(&self, name: &str, total: u32) -> Result<(), String> {
        wire::add_partitions(self.port(), name, total)
            .and_then(|()| self.await_led(name, total))
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
    // This broker never starts: each that does makes a copy of its folder its own.
    let node = Node::all(1)?.remove(0);
    let text = node.properties(&[node.voter()], &folder.join("formatted"), None);
    std::fs::write(&properties, text).map_err(|e| told("write", &properties, &e))?;
    let mut command = java(folder);
    command.args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"]).arg(&properties);
    run(&mut command, "", folder, LOCAL_DEADLINE).map(drop)
}
