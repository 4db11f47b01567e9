//! Leaders that move from broker to broker, in good order and by a broker's death, while records are written and read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use clawdstrike_edr::config::{OnLost, Source};
use clawdstrike_edr::source::{Reader, StartAt, start};
use clawdstrike_test_services::{Kafka, Service as _, kafka_brokers};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::source::{DEADLINE, Workers};

const PARTITIONS: usize = 3;
/// Records of each partition that are written at once, ...
const SHARE: usize = 20;
/// ... every so often.
const EVERY: Duration = Duration::from_millis(10);

fn bootstrap(brokers: &[Kafka]) -> String {
    brokers.iter().map(Kafka::bootstrap).collect::<Vec<_>>().join(",")
}

fn read(brokers: &[Kafka], topic: &str, workers: &Workers) -> Reader {
    let quick = [("topic.metadata.refresh.interval.ms", "200"), ("reconnect.backoff.max.ms", "500")];
    let config = Source::Kafka {
        name: "stream".into(),
        brokers: bootstrap(brokers),
        topics: vec![topic.into()],
        group: topic.into(),
        settings: quick.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        on_lost_records: OnLost::Fail,
        time: Default::default(),
    };
    start(0, &config, workers.inboxes.clone(), StartAt::Committed).unwrap()
}

/// Writes numbered records to each partition until it is told to stop; each is safe on all replicas that are in sync.
struct Writer {
    stop: Arc<AtomicBool>,
    /// Records of each partition that were handed to the client.
    written: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Writer {
    fn start(brokers: &[Kafka], topic: &str) -> Writer {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap(brokers))
            // In order and once, whatever happens to a leader; this wants acknowledgements of all replicas.
            .set("enable.idempotence", "true")
            .set("reconnect.backoff.max.ms", "500")
            .create()
            .unwrap();
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count, topic) = (stop.clone(), written.clone(), topic.to_owned());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for _ in 0..SHARE {
                    let number = count.fetch_add(1, Ordering::Relaxed).to_string();
                    for partition in 0..PARTITIONS {
                        let record = BaseRecord::<(), str>::to(&topic).partition(partition as i32).payload(&number);
                        producer.send(record).map_err(|(e, _)| e).unwrap();
                    }
                }
                // A rate, not a wait for anything.
                producer.poll(EVERY);
            }
            producer.flush(DEADLINE).unwrap();
        });
        Writer { stop, written, thread }
    }

    /// Waits until everything that was handed over by now has been read.
    fn await_read(&self, workers: &mut Workers, what: &str) {
        let until = self.written.load(Ordering::Relaxed) * PARTITIONS;
        workers.until(&format!("records written {what}"), |seen| seen.count() >= until);
    }

    fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.written.load(Ordering::Relaxed)
    }
}

/// Every record once, in order.
fn all_was_read(workers: &mut Workers, written: usize) {
    let seen = workers.until("all records", |seen| seen.count() >= written * PARTITIONS && seen.degraded.is_none());
    assert_eq!((seen.records.len(), seen.lost.len()), (PARTITIONS, 0));
    for (id, records) in &seen.records {
        assert_eq!(records.len(), written, "{id:?}");
        for (n, record) in records.iter().enumerate() {
            let text = String::from_utf8_lossy(&record.bytes);
            assert_eq!((record.offset, text.as_ref()), (n as u64, n.to_string().as_str()), "{id:?}");
        }
    }
}

#[test]
fn leaders_that_move_in_good_order_cost_no_record_and_no_word() {
    let brokers = kafka_brokers(3).unwrap();
    brokers[0].create_topic("t", PARTITIONS as u32, &[]).unwrap();
    brokers[0].move_leaders("t", &[1, 2, 3]).unwrap();
    let mut workers = Workers::new(0, 2, 2);
    let writer = Writer::start(&brokers, "t");
    let reader = read(&brokers, "t", &workers);
    writer.await_read(&mut workers, "before");
    for leaders in [[2, 3, 1], [3, 1, 2], [3, 3, 3], [1, 2, 3]] {
        std::thread::scope(|scope| {
            let moving = scope.spawn(|| brokers[0].move_leaders("t", &leaders).unwrap());
            workers.until("the move", |_| moving.is_finished());
        });
        writer.await_read(&mut workers, &format!("before leaders were {leaders:?}"));
    }
    let written = writer.stop();
    all_was_read(&mut workers, written);
    assert_eq!(workers.seen.troubles, Vec::<String>::new(), "another leader is there at once");
    reader.stop();
}

#[test]
fn a_leader_that_is_killed_is_told_until_another_leads_and_costs_no_record() {
    let brokers = kafka_brokers(3).unwrap();
    brokers[0].create_topic("t", PARTITIONS as u32, &[]).unwrap();
    brokers[0].move_leaders("t", &[1, 2, 3]).unwrap();
    let mut workers = Workers::new(0, 2, 2);
    let writer = Writer::start(&brokers, "t");
    let reader = read(&brokers, "t", &workers);
    writer.await_read(&mut workers, "before");
    assert_eq!(workers.seen.troubles, Vec::<String>::new());
    // The second leads two partitions once the first is dead, or the third does.
    for victim in [0, 1] {
        brokers[victim].kill().unwrap();
        let number = brokers[victim].number();
        let dead = format!("broker {number}, which leads partitions, does not answer");
        workers.until(&format!("\"{dead}\""), |seen| seen.degraded.as_ref().is_some_and(|d| d.contains(&dead)));
        workers.until("another leader", |seen| seen.degraded.is_none());
        let leaders = brokers[2].leaders("t").unwrap();
        assert!(leaders.iter().all(|leader| leader.is_some_and(|n| n != number)), "{leaders:?}");
        writer.await_read(&mut workers, &format!("after broker {number} had died"));
        brokers[victim].restart().unwrap();
        writer.await_read(&mut workers, &format!("after broker {number} was back"));
    }
    let written = writer.stop();
    all_was_read(&mut workers, written);
    reader.stop();
}
