//! A cluster on a Kafka whose broker dies, whose topics forget, and whose clocks differ.

use std::path::Path;
use std::process::Command;

use clawdstrike_test_services::{Kafka, Service as _, kafka};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::Value;

use crate::{BINARY, BRIEF, Cluster, event, wait};

pub(crate) const APPEND_TIME: (&str, &str) = ("message.timestamp.type", "LogAppendTime");

/// Writes events of the session to the topic's partitions in turn; each at its second.
pub(crate) fn produce(
    kafka: &Kafka,
    topic: &str,
    partitions: i32,
    session: &str,
    seconds: impl IntoIterator<Item = u32>,
) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", kafka.bootstrap()).create().unwrap();
    for (n, second) in (0..).zip(seconds) {
        let text = event(&format!("{session}-{n}"), session, second, "file_access", &format!("/tmp/{n}"), true);
        let record = BaseRecord::<(), str>::to(topic).partition(n % partitions).payload(&text);
        producer.send(record).map_err(|(e, _)| e).unwrap();
    }
    producer.flush(crate::DEADLINE).unwrap();
}

/// A source for each topic, named as it, and the store in a folder that outlives the cluster.
fn config(kafka: &Kafka, topics: &[&str], folder: &Path) -> String {
    let source = |topic: &&str| {
        format!(
            "[[source]]\ntype = \"kafka\"\nname = \"{topic}\"\nbrokers = \"{}\"\ntopics = [\"{topic}\"]\n\
             [source.settings]\n\"reconnect.backoff.max.ms\" = \"500\"\n",
            kafka.bootstrap()
        )
    };
    let sources: String = topics.iter().map(source).collect();
    let store = folder.join("events.db");
    format!("[cluster]\nprocesses = 2\n{sources}\n[store]\ntype = \"sqlite\"\npath = \"{}\"\n", store.display())
}

fn start(config: &str) -> Cluster {
    Cluster::start(config, &[("brief.yaml", BRIEF)], &[])
}

fn until_all(cluster: &Cluster, events: u64) -> Value {
    wait(&format!("{events} events"), || {
        cluster.get("/v1/health").filter(|h| h["events"] == events && h["archived"] == events)
    })
}

pub(crate) fn text(cluster: &Cluster, path: &str) -> String {
    let url = format!("{}{path}", cluster.api);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move { reqwest::get(url).await.unwrap().text().await.unwrap() })
}

#[test]
fn a_killed_broker_shows_and_nothing_is_lost_or_doubled() {
    let kafka = kafka().unwrap();
    // The third partition stays empty, and doesn't hold the watermark back.
    kafka.create_topic("agents", 3, &[APPEND_TIME]).unwrap();
    produce(&kafka, "agents", 2, "before", 0..1000);
    let folder = tempfile::tempdir().unwrap();
    let cluster = start(&config(&kafka, &["agents"], folder.path()));
    let health = until_all(&cluster, 1000);
    assert!(health["watermark"].is_string(), "{health}");
    wait("an engine in order", || cluster.get("/v1/health").filter(|h| h["status"] == "ok"));

    kafka.kill().unwrap();
    let degraded = wait("a source that says it can't be read", || {
        let health = cluster.get("/v1/health")?;
        let told = health["degraded"].as_object()?.clone();
        (told.contains_key("source agents") && told.contains_key("archive agents")).then_some(told)
    });
    assert!(degraded["source agents"].as_str().unwrap().contains("broker"), "{degraded:?}");
    assert!(text(&cluster, "/metrics").contains("clawdstrike_degraded{part=\"source agents\"} 1"));
    let doctor = Command::new(BINARY).args(["doctor", "--config"]).arg(cluster.path("workers.toml")).output().unwrap();
    let said = String::from_utf8(doctor.stdout).unwrap();
    assert_eq!(doctor.status.code(), Some(1), "{said}");
    for part in ["an engine runs: 1000 events", "the running engine says", "schema version", "brokers"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    kafka.restart().unwrap();
    produce(&kafka, "agents", 2, "after", 0..500);
    until_all(&cluster, 1500);
    wait("an engine in order again", || cluster.get("/v1/health").filter(|h| h["status"] == "ok"));
    assert_eq!(cluster.stop(), 0);
    let rows = rusqlite::Connection::open(folder.path().join("events.db")).unwrap();
    let count: (i64, i64) = rows
        .query_row("SELECT count(*), count(DISTINCT event_key) FROM agent_events", [], |r| Ok((r.get(0)?, r.get(1)?)))
        .unwrap();
    assert_eq!(count, (1500, 1500));
}

#[test]
fn records_that_retention_took_are_an_error_in_the_log_and_a_metric() {
    let kafka = kafka().unwrap();
    kafka.create_topic("agents", 1, &[APPEND_TIME]).unwrap();
    produce(&kafka, "agents", 1, "before", 0..100);
    let folder = tempfile::tempdir().unwrap();
    let config = config(&kafka, &["agents"], folder.path());
    let cluster = start(&config);
    until_all(&cluster, 100);
    assert_eq!(cluster.stop(), 0);
    produce(&kafka, "agents", 1, "gone", 0..100);
    kafka.delete_records("agents", 0, 150).unwrap();
    let cluster = start(&config);
    let health = until_all(&cluster, 50);
    assert_eq!(health["lost_records"]["agents"], 50, "{health}");
    assert_eq!(health["archive_lost_records"]["agents"], 50, "{health}");
    let metrics = text(&cluster, "/metrics");
    assert!(metrics.contains("clawdstrike_source_lost_records_total{source=\"agents\"} 50"), "{metrics}");
    let log = cluster.log.lock().unwrap().clone();
    let told = log.lines().filter(|l| l.contains("50 offsets from 100 on are gone")).collect::<Vec<_>>();
    assert_eq!(told.len(), 2, "the engine's own reading and the archive's: {log}");
    for part in ["ERROR", "agents", "partition=0", "lost=50"] {
        assert!(told.iter().all(|l| l.contains(part)), "{part}: {told:?}");
    }
    assert_eq!(cluster.stop(), 0);
}

/// Three events of 2024, the second an hour ahead of the others.
#[test]
fn append_time_decides_alone_and_create_time_trusts_what_it_has_read() {
    let kafka = kafka().unwrap();
    kafka.create_topic("appended", 1, &[APPEND_TIME]).unwrap();
    kafka.create_topic("created", 1, &[]).unwrap();
    for topic in ["appended", "created"] {
        produce(&kafka, topic, 1, topic, [0, 3599, 5]);
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = start(&config(&kafka, &["appended", "created"], folder.path()));
    let health = until_all(&cluster, 6);
    assert_eq!(health["retimed"], 4, "{health}");
    let log = cluster.log.lock().unwrap().clone();
    let warned: Vec<&str> = log.lines().filter(|l| l.contains("no trusted clock")).collect();
    assert!(!warned.is_empty() && warned.iter().all(|l| l.contains("created")), "{warned:?}");
    assert_eq!(cluster.stop(), 0);
    let rows = rusqlite::Connection::open(folder.path().join("events.db")).unwrap();
    let times = |session: &str| -> Vec<String> {
        let mut query = rows.prepare("SELECT time FROM agent_events WHERE session_id = ?1 ORDER BY time").unwrap();
        query.query_map([session], |r| r.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let created = times("created");
    let seconds: Vec<&str> = created.iter().map(|t| &t[..19]).collect();
    // The third is re-timed by the second.
    assert_eq!(seconds, ["2024-05-06T10:00:00", "2024-05-06T10:59:59", "2024-05-06T10:59:59"]);
    assert!(times("appended").iter().all(|t| &t[..4] > "2024"), "the broker's clock: {:?}", times("appended"));
}
