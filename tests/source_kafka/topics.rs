//! Topics whose offsets have gaps (transactions, compaction), whose partitions are empty, or which grow: each is read to
//! its end, which lag tools see.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clawdstrike_edr::config::Source;
use clawdstrike_edr::source::{StartAt, start};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::source::{DEADLINE, Workers, eventually};
use crate::{broker, config, fresh, lag, positions, produce, read, topic};

fn transactional() -> BaseProducer {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", broker().bootstrap())
        .set("transactional.id", fresh("transaction"))
        .create()
        .unwrap();
    producer.init_transactions(DEADLINE).unwrap();
    producer
}

fn send(producer: &BaseProducer, record: BaseRecord<'_, str, str>) {
    producer.send(record).map_err(|(e, _)| e).unwrap();
}

fn no_lag(topics: &[(&str, u32)]) -> BTreeMap<String, String> {
    let partitions = topics.iter().flat_map(|(topic, n)| (0..*n).map(move |p| format!("{topic}/{p}")));
    partitions.map(|p| (p, "0".to_owned())).collect()
}

#[test]
fn aborted_transactions_are_not_read_and_control_records_leave_no_lag() {
    let (topic, group) = (topic(1, &[]), fresh("group"));
    let producer = transactional();
    for (text, commit) in [("kept", true), ("dropped", false), ("kept too", true), ("dropped at the end", false)] {
        producer.begin_transaction().unwrap();
        send(&producer, BaseRecord::to(&topic).payload(text));
        match commit {
            true => producer.commit_transaction(DEADLINE).unwrap(),
            false => {
                producer.flush(DEADLINE).unwrap();
                producer.abort_transaction(DEADLINE).unwrap();
            }
        }
    }
    let mut workers = Workers::new(0, 1, 1);
    let reader = read(&[&topic], &group, &workers, StartAt::Committed);
    let seen = workers.until("the end", |seen| seen.next.values().any(|n| *n == 8) && seen.all_caught_up());
    assert_eq!(seen.texts(), ["kept", "kept too"]);
    assert_eq!(seen.lost.len(), 0, "gaps are no losses");
    reader.commit(&positions(&workers)).unwrap();
    reader.stop();
    assert_eq!(lag(&group), no_lag(&[(&topic, 1)]));
}

#[test]
fn an_open_transaction_holds_nothing_back_but_itself() {
    let (topic, group) = (topic(2, &[]), fresh("group"));
    let producer = transactional();
    producer.begin_transaction().unwrap();
    send(&producer, BaseRecord::to(&topic).partition(0).payload("open"));
    producer.flush(DEADLINE).unwrap();
    produce(broker(), &topic, 2, "a", 2);
    let mut workers = Workers::new(0, 1, 1);
    let reader = read(&[&topic], &group, &workers, StartAt::Committed);
    // What was written behind the open transaction waits with it; the partition still is idle.
    let seen = workers.until("two ends", |seen| seen.assigned.len() == 2 && seen.all_caught_up() && seen.count() == 1);
    assert_eq!(seen.texts(), ["a-1"]);
    producer.abort_transaction(DEADLINE).unwrap();
    let seen = workers.until("the end of the transaction", |seen| seen.count() == 2 && seen.all_caught_up());
    assert_eq!(seen.texts(), ["a-0", "a-1"]);
    workers.until("all positions", |seen| seen.next.values().sum::<u64>() == 4);
    reader.commit(&positions(&workers)).unwrap();
    reader.stop();
    assert_eq!(lag(&group), no_lag(&[(&topic, 2)]));
}

#[test]
fn compacted_and_empty_partitions_are_read_to_their_ends() {
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "50"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("max.compaction.lag.ms", "100"),
    ];
    // Partition 0 is compacted, 1 never had a record; of the other topic all records are deleted.
    let (topic, emptied, group) = (topic(2, &settings), topic(1, &[]), fresh("group"));
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", broker().bootstrap()).create().unwrap();
    let mut written = 0;
    let mut write = |count| {
        for n in written..written + count {
            send(&producer, BaseRecord::to(&topic).partition(0).key("the same").payload(&format!("version {n}")));
        }
        written += count;
        producer.flush(DEADLINE).unwrap();
        written
    };
    write(1000);
    produce(broker(), &emptied, 1, "gone", 10);
    broker().delete_records(&emptied, 0, 10).unwrap();
    eventually("a compacted partition with gaps", || {
        // A segment is closed by the first record after its time, and only closed ones are compacted.
        let written = write(1);
        let mut workers = Workers::new(0, 1, 1);
        let reader = read(&[&topic, &emptied], &group, &workers, StartAt::Committed);
        let seen = workers.until("three ends", |seen| seen.assigned.len() == 3 && seen.all_caught_up());
        let next: Vec<u64> = seen.next.values().copied().collect();
        assert_eq!(next, [written, 0, 10]);
        let compacted = seen.count() < 100;
        if compacted {
            assert_eq!(seen.lost.len(), 0, "gaps are no losses");
            reader.commit(&positions(&workers)).unwrap();
        }
        reader.stop();
        compacted
    });
    assert_eq!(lag(&group), no_lag(&[(&topic, 2), (&emptied, 1)]));
}

#[test]
fn partitions_added_at_runtime_are_read_within_ten_seconds() {
    let topic = topic(1, &[]);
    let mut workers = Workers::new(0, 1, 1);
    let mut source = config(broker(), &[&topic], &fresh("group"), &[]);
    if let Source::Kafka { settings, .. } = &mut source {
        settings.clear(); // as by default
    }
    let reader = start(0, &source, workers.inboxes.clone(), StartAt::Committed).unwrap();
    workers.until("the first partition", |seen| seen.all_caught_up());
    broker().add_partitions(&topic, 3).unwrap();
    let added = Instant::now();
    produce(broker(), &topic, 3, "a", 30);
    workers.until("the new partitions", |seen| seen.count() == 30);
    assert!(added.elapsed() < Duration::from_secs(10), "{:?}", added.elapsed());
    reader.stop();
}
