//! What the broker no longer has is never passed over in silence: it is counted, or it stops the engine.

use clawdstrike_edr::config::{OnLost, Source};
use clawdstrike_edr::source::{INBOX_BATCHES, Reader, StartAt, start};

use crate::source::{Workers, eventually};
use crate::{broker, config, fresh, positions, produce, read, topic};

fn with_policy(policy: OnLost, topic: &str, group: &str, more: &[(&str, &str)]) -> Source {
    let mut source = config(broker(), &[topic], group, more);
    if let Source::Kafka { on_lost_records, .. } = &mut source {
        *on_lost_records = policy;
    }
    source
}

fn read_with(policy: OnLost, topic: &str, group: &str, workers: &Workers, at: StartAt) -> Reader {
    start(0, &with_policy(policy, topic, group, &[]), workers.inboxes.clone(), at).unwrap()
}

/// A topic of 1000 records in one partition, of which the group has committed 100 and the first 600 are gone.
fn topic_and_group_left_behind() -> (String, String, Workers) {
    let (topic, group) = (topic(1, &[]), fresh("group"));
    produce(broker(), &topic, 1, "a", 1000);
    let mut workers = Workers::new(0, 1, 1);
    let reader = read(&[&topic], &group, &workers, StartAt::Committed);
    workers.until("all records", |seen| seen.count() == 1000);
    let mut safe = positions(&workers);
    safe[0].1 = 100;
    reader.commit(&safe).unwrap();
    reader.stop();
    broker().delete_records(&topic, 0, 600).unwrap();
    (topic, group, workers)
}

#[test]
fn records_deleted_behind_the_committed_offset_are_counted_and_the_rest_is_read() {
    let (topic, group, before) = topic_and_group_left_behind();
    let id = positions(&before)[0].0;
    let mut workers = Workers::new(0, 1, 1);
    let reader = read_with(OnLost::Skip, &topic, &group, &workers, StartAt::Committed);
    let seen = workers.until("the rest", |seen| seen.count() == 400 && seen.all_caught_up());
    assert_eq!(seen.records[&id][0].offset, 600);
    assert_eq!(seen.lost, [(id, 500)].into());
    // The position moves on before a record of it is read.
    reader.commit(&positions(&workers)).unwrap();
    reader.stop();

    let mut workers = Workers::new(0, 1, 1);
    let at = StartAt::Positions([(id, 1000)].into());
    let reader = read_with(OnLost::Fail, &topic, &group, &workers, at);
    let seen = workers.until("the end", |seen| seen.all_caught_up());
    assert_eq!((seen.count(), seen.lost.len()), (0, 0), "what has been read before it was deleted isn't lost");
    reader.stop();
}

#[test]
fn by_choice_lost_records_stop_the_engine_with_all_that_one_must_know() {
    let (topic, group, before) = topic_and_group_left_behind();
    let id = positions(&before)[0].0;
    for (at, gone) in [(StartAt::Committed, 500), (StartAt::Positions([(id, 590)].into()), 10)] {
        let mut workers = Workers::new(0, 1, 1);
        let reader = read_with(OnLost::Fail, &topic, &group, &workers, at);
        let error = workers.until_or_failed("a failure", |seen| !seen.failed.is_empty()).failed[0].clone();
        for part in [
            &format!("topic \"{topic}\" partition 0"),
            &format!("{gone} offsets from"),
            "600",
            "on_lost_records",
            "\"stream\"",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(workers.seen.count(), 0, "{error}");
        reader.stop();
    }
}

#[test]
fn explicit_positions_behind_the_oldest_record_count_what_is_gone() {
    let (topic, group, before) = topic_and_group_left_behind();
    let id = positions(&before)[0].0;
    let mut workers = Workers::new(0, 1, 1);
    let reader = read_with(OnLost::Skip, &topic, &group, &workers, StartAt::Positions([(id, 250)].into()));
    let seen = workers.until("the rest", |seen| seen.count() == 400 && seen.all_caught_up());
    assert_eq!((seen.records[&id][0].offset, seen.lost[&id]), (600, 350));
    reader.stop();
}

#[test]
fn a_partition_without_a_position_loses_nothing_by_beginning_at_its_oldest_record() {
    let (topic, _, before) = topic_and_group_left_behind();
    let id = positions(&before)[0].0;
    let mut workers = Workers::new(0, 1, 1);
    let reader = read_with(OnLost::Fail, &topic, &fresh("group"), &workers, StartAt::Committed);
    let seen = workers.until("the rest", |seen| seen.count() == 400 && seen.all_caught_up());
    assert_eq!((seen.records[&id][0].offset, seen.lost.len()), (600, 0));
    reader.stop();
}

#[test]
fn retention_that_overtakes_a_running_reader_is_counted() {
    let topic = topic(1, &[]);
    let fill = "x".repeat(1000);
    let all = 30_000;
    produce(broker(), &topic, 1, &fill, all);
    // A small client: most records are still on the broker when its worker takes nothing.
    let small = [("queued.max.messages.kbytes", "512"), ("fetch.message.max.bytes", "65536")];
    let mut workers = Workers::new(0, 1, 1);
    let source = with_policy(OnLost::Skip, &topic, &fresh("group"), &small);
    let reader = start(0, &source, workers.inboxes.clone(), StartAt::Committed).unwrap();
    eventually("a full inbox", || workers.receivers[0].len() == INBOX_BATCHES);
    broker().delete_records(&topic, 0, 25_000).unwrap();
    let seen = workers.until("the rest", |seen| seen.all_caught_up());
    let (id, lost) = seen.lost.first_key_value().map(|(id, n)| (*id, *n)).unwrap();
    assert_eq!(seen.count() as u64 + lost, all as u64, "each record is read or counted");
    let offsets: Vec<u64> = seen.records[&id].iter().map(|r| r.offset).collect();
    let gap: Vec<_> = offsets.windows(2).filter(|w| w[1] != w[0] + 1).collect();
    assert_eq!(gap.len(), 1);
    assert_eq!((gap[0][1], gap[0][1] - gap[0][0] - 1), (25_000, lost));
    reader.stop();
}

#[test]
fn a_topic_made_anew_is_read_from_its_beginning_or_stops_the_engine() {
    let (topic, group) = (topic(1, &[]), fresh("group"));
    produce(broker(), &topic, 1, "old", 50);
    let mut workers = Workers::new(0, 1, 1);
    let reader = read(&[&topic], &group, &workers, StartAt::Committed);
    workers.until("all records", |seen| seen.count() == 50);
    let at = StartAt::Positions(positions(&workers).into_iter().collect());
    reader.stop();
    broker().delete_topic(&topic).unwrap();
    eventually("a topic of the same name", || broker().create_topic(&topic, 1, &[]).is_ok());
    produce(broker(), &topic, 1, "new", 20);

    let mut workers = Workers::new(0, 1, 1);
    let reader = read_with(OnLost::Fail, &topic, &group, &workers, at.clone());
    let error = workers.until_or_failed("a failure", |seen| !seen.failed.is_empty()).failed[0].clone();
    assert!(error.contains("offset 50") && error.contains("created again"), "{error}");
    reader.stop();
    let mut workers = Workers::new(0, 1, 1);
    let reader = read_with(OnLost::Skip, &topic, &group, &workers, at);
    let seen = workers.until("the new records", |seen| seen.all_caught_up());
    assert_eq!((seen.count(), seen.lost.len()), (20, 0));
    reader.stop();
}
