//! Rules over what has been: the very same dataflow, offline, over the events that a store kept, or over files.
//!
//! A stored event's time is its event time, whatever the lateness was then: its reference time is that time too. Events
//! without an event_id are told apart by their place among those that are read, not by where they were read first, so the
//! ids of alerts that end at one differ from those of the running cluster.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use clawdstrike_rules::plan::{Condition, RuleSet};

use super::replay::{self, Outcome, Replay};
use crate::config::{self, Limits};
use crate::inbox::{BATCH_BYTES, Inboxes, Message, PartitionId, RecordBatch, RecordRef};
use crate::render::ingest::EPOCH_RECORDS;
use crate::store::{PastEvent, Store};

/// Where past events are.
#[derive(Clone, Debug)]
pub enum Past {
    /// In a cluster's store.
    Store(config::Store),
    /// In files of JSON lines.
    Files(Vec<PathBuf>),
}

/// What to run over them.
pub struct Backtest<'a> {
    /// The rules.
    pub rules: &'a RuleSet,
    /// The events.
    pub past: &'a Past,
    /// Alerts with a match at this time or later are wanted, microseconds since 1970.
    pub from: i64,
    /// No event after this time counts.
    pub to: i64,
    /// Timely workers.
    pub workers: usize,
    /// Limits.
    pub limits: Limits,
    /// The wall clock.
    pub now: i64,
    /// Records read so far, for a progress display.
    pub progress: Arc<AtomicU64>,
}

/// The one partition of what a store kept.
const PARTITION: PartitionId = PartitionId { source: 0, partition: 0 };

/// How far before a time events may have to do with matches at it: conditions look back as far as the longest window, and
/// at each other's matches, and a chain goes on over a pause.
pub fn lead(rules: &RuleSet) -> i64 {
    let rule = |r: &clawdstrike_rules::plan::Rule| {
        let longest = r.conditions.iter().map(Condition::window).max().unwrap_or(0);
        longest.saturating_mul(if r.conditions.len() > 1 { 2 } else { 1 }).saturating_add(r.suppress_for)
    };
    rules.rules.iter().map(rule).max().unwrap_or(0)
}

/// Runs the rules over the past; of the alerts those are given that have a match in the span.
///
/// # Errors
/// The store or a file can't be read; the text names it.
pub fn run(backtest: Backtest<'_>) -> Result<Outcome, String> {
    let Backtest { rules, past, from, to, workers, limits, now, progress } = backtest;
    let files = match past {
        Past::Files(files) => files.clone(),
        Past::Store(_) => Vec::new(),
    };
    let replay = Replay { files, rules: rules.clone(), workers, limits, now, changes: None, progress };
    let sampled = AtomicBool::new(false);
    let mut outcome = match past {
        Past::Files(_) => replay::run(replay)?,
        Past::Store(store) => replay::run_fed(replay, EPOCH_RECORDS, |inboxes| {
            let begin = from.saturating_sub(lead(rules));
            match feed(store, begin, to, &inboxes) {
                Ok(some) => sampled.store(some, Ordering::Relaxed),
                Err(reason) => {
                    // The workers have ended already if it can't be sent: then they say why.
                    let _ended = inboxes.local[0].send(Message::Failed(reason));
                }
            }
        })?,
    };
    outcome.sampled = sampled.into_inner();
    outcome.alerts.retain(|alert| alert.last_seen >= from && alert.first_seen <= to);
    Ok(outcome)
}

/// Sends what the store kept; says whether some of it is a sample.
fn feed(store: &config::Store, from: i64, to: i64, inboxes: &Inboxes) -> Result<bool, String> {
    for inbox in &inboxes.local {
        if inboxes.of(PARTITION).is_some_and(|own| std::ptr::eq(own, inbox)) {
            send(inboxes, Message::Assigned(PARTITION));
        }
        let _ended = inbox.send(Message::Listed(PARTITION.source));
    }
    let store = Store::prepare(store)?.ok_or("the configuration has no store: expected [store], or --events FILE")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| format!("no runtime for the store's connection: {e}"))?;
    let mut feeder = Feeder { inboxes, same_time: Vec::new(), batch: empty(0) };
    let mut sampled = false;
    let take = |event: PastEvent| {
        sampled |= event.sampled;
        feeder.take(event)
    };
    runtime.block_on(store.past_events(from, to, take))?;
    feeder.end();
    for inbox in &inboxes.local {
        let _ended = inbox.send(Message::Ended(PARTITION.source));
    }
    Ok(sampled)
}

/// Whether somebody took it.
fn send(inboxes: &Inboxes, message: Message) -> bool {
    inboxes.of(PARTITION).is_some_and(|inbox| inbox.send(message).is_ok())
}

fn empty(next_offset: u64) -> RecordBatch {
    RecordBatch { partition: PARTITION, bytes: Vec::new(), records: Vec::new(), next_offset, end: None }
}

struct Feeder<'a> {
    inboxes: &'a Inboxes,
    /// Events of one time, whose order is still to be found.
    same_time: Vec<PastEvent>,
    batch: RecordBatch,
}

impl Feeder<'_> {
    fn take(&mut self, event: PastEvent) -> bool {
        let known = self.same_time.first().is_none_or(|first| first.time == event.time);
        let goes_on = known || self.add_those();
        self.same_time.push(event);
        goes_on
    }

    /// Adds the events of one time, in the total order of those without an event_id.
    fn add_those(&mut self) -> bool {
        let mut events = std::mem::take(&mut self.same_time);
        if events.len() > 1 {
            // Events with an event_id have an order of their own.
            let position = |event: &PastEvent| match event.source_position {
                Some(_) => None,
                None => event.position().map(|(source, partition, offset)| (source.to_owned(), partition, offset)),
            };
            events.sort_by_cached_key(position);
        }
        events.into_iter().all(|event| self.add(&event))
    }

    fn add(&mut self, event: &PastEvent) -> bool {
        let start = self.batch.bytes.len() as u32;
        self.batch.bytes.extend_from_slice(event.record.as_bytes());
        let (len, offset) = (event.record.len() as u32, self.batch.next_offset);
        self.batch.records.push(RecordRef { start, len, offset, append: Some(event.time) });
        self.batch.next_offset += 1;
        self.batch.bytes.len() < BATCH_BYTES || self.hand_over()
    }

    fn hand_over(&mut self) -> bool {
        let next = empty(self.batch.next_offset);
        send(self.inboxes, Message::Batch(std::mem::replace(&mut self.batch, next)))
    }

    fn end(mut self) {
        if self.add_those() && self.hand_over() {
            send(self.inboxes, Message::Finished(PARTITION));
        }
    }
}
