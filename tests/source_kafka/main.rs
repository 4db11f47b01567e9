//! Kafka, against a real broker: every record once, at the worker that owns its partition, from where the group or the
//! engine got to, whatever happens to the broker meanwhile.

mod leaders;
mod lost;
#[path = "../source/mod.rs"]
mod source;
mod tls;
mod topics;

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clawdstrike_edr::config::{OnLost, Source};
use clawdstrike_edr::source::{MAX_RECORD, PartitionId, Reader, StartAt, start};
use clawdstrike_test_services::{Kafka, Service as _, kafka};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use source::{Workers, eventually};

/// One broker for the tests of this file; each has topics and groups of its own.
fn broker() -> &'static Kafka {
    static BROKER: OnceLock<Kafka> = OnceLock::new();
    BROKER.get_or_init(|| kafka().unwrap())
}

/// A name that no other test has.
fn fresh(what: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("{what}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

fn topic(partitions: u32, config: &[(&str, &str)]) -> String {
    let name = fresh("topic");
    broker().create_topic(&name, partitions, config).unwrap();
    name
}

fn config(broker: &Kafka, topics: &[&str], group: &str, more: &[(&str, &str)]) -> Source {
    // New partitions show sooner than by default.
    let quick = [("topic.metadata.refresh.interval.ms", "200")];
    let settings = quick.iter().chain(more);
    Source::Kafka {
        name: "stream".into(),
        brokers: broker.bootstrap(),
        topics: topics.iter().map(|t| (*t).to_owned()).collect(),
        group: group.into(),
        settings: settings.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        on_lost_records: OnLost::default(),
        time: Default::default(),
    }
}

fn read(topics: &[&str], group: &str, workers: &Workers, at: StartAt) -> Reader {
    let config = config(broker(), topics, group, &[]);
    start(0, &config, workers.inboxes.clone(), at).unwrap()
}

/// Writes `prefix-0`, `prefix-1`, ... to the topic's partitions in turn.
fn produce(broker: &Kafka, topic: &str, partitions: i32, prefix: &str, count: usize) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", broker.bootstrap()).create().unwrap();
    for n in 0..count {
        let text = format!("{prefix}-{n}");
        let record = BaseRecord::<(), str>::to(topic).partition(n as i32 % partitions).payload(&text);
        producer.send(record).map_err(|(e, _)| e).unwrap();
    }
    producer.flush(source::DEADLINE).unwrap();
}

fn expected(prefix: &str, count: usize) -> Vec<String> {
    let mut all: Vec<String> = (0..count).map(|n| format!("{prefix}-{n}")).collect();
    all.sort();
    all
}

fn positions(workers: &Workers) -> Vec<(PartitionId, u64)> {
    workers.seen.next.iter().map(|(id, n)| (*id, *n)).collect()
}

/// Each partition's lag, as Kafka's own tool tells it.
fn lag(group: &str) -> BTreeMap<String, String> {
    let told = broker().consumer_group_describe(group).unwrap();
    told.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|columns| columns.len() > 5 && columns[0] == group)
        .map(|columns| (format!("{}/{}", columns[1], columns[2]), columns[5].to_owned()))
        .collect()
}

#[test]
fn partitions_are_spread_over_the_workers_of_all_processes_and_each_record_is_read_once() {
    let topic = topic(6, &[]);
    produce(broker(), &topic, 6, "r", 60_000);
    let mut processes = [Workers::new(0, 2, 4), Workers::new(2, 2, 4)];
    let group = fresh("group");
    let readers: Vec<Reader> =
        processes.iter().map(|workers| read(&[&topic], &group, workers, StartAt::Committed)).collect();
    let mut all = Vec::new();
    for (workers, partitions) in processes.iter_mut().zip([4, 2]) {
        let seen = workers.until("all records", |seen| seen.count() == partitions * 10_000 && seen.all_caught_up());
        assert_eq!(seen.assigned.len(), partitions);
        for (worker, id) in &seen.assigned {
            assert_eq!(*worker, id.partition as usize % 4);
            let offsets: Vec<u64> = seen.records[id].iter().map(|r| r.offset).collect();
            assert_eq!(offsets, (0..10_000).collect::<Vec<u64>>());
            let (read, end) = seen.first[id];
            assert!(
                read < 10_000 && end == Some(10_000),
                "with the first records comes where it ends: {read}, {end:?}"
            );
            assert_eq!(seen.ends[id], 10_000);
            assert!(seen.records[id].iter().all(|r| r.append.is_none()), "CreateTime is no trusted clock");
        }
        all.extend(seen.texts());
    }
    all.sort();
    assert_eq!(all, expected("r", 60_000));
    readers.into_iter().for_each(Reader::stop);
}

#[test]
fn a_restart_goes_on_at_the_committed_offset_which_lag_tools_see() {
    let topic = topic(2, &[]);
    let group = fresh("group");
    produce(broker(), &topic, 2, "a", 1000);
    let mut workers = Workers::new(0, 1, 1);
    let reader = read(&[&topic], &group, &workers, StartAt::Committed);
    workers.until("the first records", |seen| seen.count() == 1000);
    // One of the two partitions is safe only half.
    let mut safe = positions(&workers);
    assert_eq!((safe[0].1, safe[1].1), (500, 500));
    safe[1].1 = 250;
    reader.commit(&safe).unwrap();
    reader.stop();
    let lag = lag(&group);
    assert_eq!(lag, BTreeMap::from([(format!("{topic}/0"), "0".to_owned()), (format!("{topic}/1"), "250".to_owned())]));

    produce(broker(), &topic, 2, "b", 100);
    let mut workers = Workers::new(0, 1, 1);
    let reader = read(&[&topic], &group, &workers, StartAt::Committed);
    let seen = workers.until("the rest", |seen| seen.count() >= 350 && seen.all_caught_up());
    assert_eq!(seen.count(), 350);
    let first: Vec<u64> = seen.records.values().map(|r| r[0].offset).collect();
    assert_eq!(first, [500, 250]);
    reader.stop();
}

#[test]
fn the_engines_own_positions_go_before_the_groups() {
    let topic = topic(2, &[]);
    let group = fresh("group");
    produce(broker(), &topic, 2, "a", 100);
    let mut workers = Workers::new(0, 1, 1);
    let reader = read(&[&topic], &group, &workers, StartAt::Committed);
    workers.until("all records", |seen| seen.count() == 100);
    let ends = positions(&workers);
    reader.commit(&ends).unwrap();
    reader.stop();
    // Named: from there, though the group is further. Not named: where the group is.
    let at = StartAt::Positions([(ends[0].0, 40)].into());
    let mut workers = Workers::new(0, 1, 1);
    let reader = read(&[&topic], &group, &workers, at);
    let seen = workers.until("the end", |seen| seen.assigned.len() == 2 && seen.all_caught_up());
    assert_eq!(seen.count(), 10);
    assert_eq!(seen.records[&ends[0].0][0].offset, 40);
    reader.stop();
}

#[test]
fn new_partitions_and_topics_are_read_from_their_beginnings() {
    let topic = topic(2, &[]);
    let later = fresh("later");
    let mut workers = Workers::new(0, 3, 3);
    let group = fresh("group");
    let reader = read(&[&topic, &later], &group, &workers, StartAt::Committed);
    let seen = workers.until("the empty partitions' ends", |seen| seen.assigned.len() == 2 && seen.all_caught_up());
    assert_eq!(seen.count(), 0);
    broker().add_partitions(&topic, 4).unwrap();
    produce(broker(), &topic, 4, "a", 400);
    workers.until("four partitions", |seen| seen.count() == 400);
    broker().create_topic(&later, 1, &[]).unwrap();
    produce(broker(), &later, 1, "b", 10);
    let seen = workers.until("the later topic", |seen| seen.count() == 410 && seen.all_caught_up());
    let numbers: Vec<u32> = seen.partitions().iter().map(|id| id.partition).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 1 << 20]);
    reader.stop();
}

#[test]
fn the_brokers_append_time_comes_with_each_record() {
    let topic = topic(1, &[("message.timestamp.type", "LogAppendTime")]);
    let micros = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        i64::try_from(since.as_micros()).unwrap()
    };
    let before = micros();
    produce(broker(), &topic, 1, "a", 10);
    let after = micros();
    let mut workers = Workers::new(0, 1, 1);
    let reader = read(&[&topic], &fresh("group"), &workers, StartAt::Committed);
    let seen = workers.until("all records", |seen| seen.count() == 10);
    for record in seen.records.values().flatten() {
        let append = record.append.unwrap();
        // The broker counts in milliseconds.
        assert!((before - 1000..=after).contains(&append), "{before} {append} {after}");
    }
    reader.stop();
}

#[test]
fn tombstones_are_empty_records_and_giants_are_cut() {
    let topic = topic(1, &[("max.message.bytes", "10000000")]);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", broker().bootstrap())
        .set("message.max.bytes", "10000000")
        .create()
        .unwrap();
    let giant = vec![b'x'; 3 * MAX_RECORD];
    let send = |record: BaseRecord<'_, str, [u8]>| {
        producer.send(record).map_err(|(e, _)| e).unwrap();
    };
    send(BaseRecord::to(&topic).key("k"));
    send(BaseRecord::to(&topic).payload(&giant[..]));
    send(BaseRecord::to(&topic).payload(&b"last"[..]));
    producer.flush(source::DEADLINE).unwrap();
    let mut workers = Workers::new(0, 1, 1);
    let reader = read(&[&topic], &fresh("group"), &workers, StartAt::Committed);
    let seen = workers.until("all records", |seen| seen.count() == 3);
    let sizes: Vec<usize> = seen.records.values().flatten().map(|r| r.bytes.len()).collect();
    assert_eq!(sizes, [0, MAX_RECORD, 4]);
    reader.stop();
}

#[test]
fn a_broker_that_is_down_is_waited_for() {
    let broker = kafka().unwrap();
    broker.create_topic("t", 2, &[]).unwrap();
    produce(&broker, "t", 2, "a", 100);
    let config = config(&broker, &["t"], "group", &[("reconnect.backoff.max.ms", "500")]);
    let mut workers = Workers::new(0, 2, 2);
    let at = StartAt::Committed;
    let reader = start(0, &config, workers.inboxes.clone(), at.clone()).unwrap();
    workers.until("records of before", |seen| seen.count() == 100);
    broker.kill().unwrap();
    // Down when it starts: no error either.
    let mut late = Workers::new(0, 2, 2);
    let late_reader = start(0, &config, late.inboxes.clone(), at).unwrap();
    broker.restart().unwrap();
    produce(&broker, "t", 2, "b", 100);
    let seen = workers.until("records of after", |seen| seen.count() >= 200);
    assert_eq!(seen.count(), 200);
    late.until("all records", |seen| seen.count() == 200);
    reader.commit(&positions(&workers)).unwrap();
    reader.stop();
    late_reader.stop();
}

/// A group that nobody has used: the first question makes the broker create the topic of committed offsets and load it.
#[test]
fn a_fresh_broker_whose_coordinator_still_loads_loses_no_partition() {
    let broker = kafka().unwrap();
    broker.create_topic("t", 3, &[]).unwrap();
    produce(&broker, "t", 3, "a", 30);
    let config = config(&broker, &["t", "absent"], "group", &[]);
    let mut workers = Workers::new(0, 2, 2);
    let reader = start(0, &config, workers.inboxes.clone(), StartAt::Committed).unwrap();
    let seen = workers.until("all records", |seen| seen.count() == 30 && seen.all_caught_up() && seen.listed == 2);
    assert_eq!(seen.assigned.len(), 3);
    reader.stop();
}

#[test]
fn a_full_inbox_pauses_the_reader_which_still_can_be_stopped() {
    let topic = topic(1, &[]);
    let fill = "x".repeat(1000);
    produce(broker(), &topic, 1, &fill, 20_000);
    let mut workers = Workers::new(0, 1, 1);
    let group = fresh("group");
    let reader = read(&[&topic], &group, &workers, StartAt::Committed);
    let capacity = clawdstrike_edr::source::INBOX_BATCHES;
    eventually("a full inbox", || workers.receivers[0].len() == capacity);
    let begun = Instant::now();
    reader.stop();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    workers = Workers::new(0, 1, 1);
    let reader = read(&[&topic], &group, &workers, StartAt::Committed);
    eventually("a full inbox", || workers.receivers[0].len() == capacity);
    workers.until("all records", |seen| seen.count() == 20_000);
    reader.stop();
}

#[test]
fn settings_are_checked_at_the_start_and_secrets_are_not_shown() {
    let workers = Workers::new(0, 1, 1);
    let refused = |settings: &[(&str, &str)]| {
        let config = config(broker(), &["t"], "group", settings);
        let at = StartAt::Committed;
        start(0, &config, workers.inboxes.clone(), at).err().unwrap()
    };
    let error = refused(&[("fetch.messge.max.bytes", "1")]);
    assert!(error.contains("\"fetch.messge.max.bytes\"") && error.contains("source \"stream\""), "{error}");
    let error = refused(&[("auto.offset.reset", "latest")]);
    assert!(error.contains("the engine's own"), "{error}");
    let error = refused(&[("sasl.password", "env:NO_SUCH_VARIABLE")]);
    assert!(error.contains("\"sasl.password\"") && error.contains("\"NO_SUCH_VARIABLE\""), "{error}");
    let error = refused(&[("sasl.password", "file:no/such/file")]);
    assert!(error.contains("\"no/such/file\""), "{error}");
    let folder = tempfile::TempDir::new().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "hush-hush\n").unwrap();
    let error = refused(&[("fetch.min.bytes", &format!("file:{}", secret.display()))]);
    assert!(error.contains("\"fetch.min.bytes\""), "{error}");
    assert!(!error.contains("hush"), "{error}");
}
