//! The archive stage: every event into the store, beside the dataflow, with a position of its own in each source (SPEC §8).
//! It reads the sources again, so a store that is slow or down delays neither detection nor response; how far it has
//! come is kept in the store, in the transaction that writes the events.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clawdstrike_telemetry::{ClockRule, Event, Reference, decode};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use sha2::{Digest, Sha256};

use super::handle::Handle;
use super::once;
use super::sampling::Sampler;
use crate::config::{Config, OnLost, Source, TimeFrom};
use crate::hex;
use crate::inbox::{Closed, Inbox, Inboxes, Message, PartitionId, RecordBatch};
use crate::render::settings::Settings;
use crate::source::{self, Reader, StartAt};
use crate::store::{ArchiveSender, EventRow};
use crate::view::{Query, Rows};
use crate::wall_clock;

/// Rows written together, if so many wait: in one transaction, whose end is what takes long.
pub const ROWS: usize = 8_000;
/// Bytes of records that are enough for one, however few they are.
const BYTES: usize = 8 << 20;
/// Rows wait for others at most so long.
const WAIT: Duration = Duration::from_millis(250);
/// Written batches that may be unacknowledged: the next is made while the last is written.
const UNDER_WAY: usize = 2;

/// How often is looked for more of what is put aside.
const ASIDE_LOOK: Duration = Duration::from_millis(100);
/// How long the store has to say how far it has come, for what is put aside.
const ASIDE_ASK: Duration = Duration::from_secs(1);

/// What the group of the readers is called behind the engine's own.
const GROUP: &str = "-archive";

/// Sources whose names and clocks the stage needs.
struct Sources {
    names: Vec<String>,
    by_reference: Vec<bool>,
}

/// What the stage tells of itself.
#[derive(Default)]
pub struct Archived {
    events: AtomicU64,
    left_out: AtomicU64,
    sources: Mutex<Told>,
}

/// What the stage's readers tell, by source.
#[derive(Default)]
pub struct Told {
    /// Records that were gone before they could be read.
    pub lost: BTreeMap<String, u64>,
    /// Why a source can't be read at present; or why the stage "has stopped" reading one.
    pub degraded: BTreeMap<String, String>,
}

impl Archived {
    /// Events written since the start.
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Low-risk events that were left out since the start, because only a share of them is kept.
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    /// What the readers tell.
    pub fn sources(&self) -> MutexGuard<'_, Told> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running stage.
pub struct Archive {
    readers: Vec<Reader>,
    aside: Vec<Aside>,
    task: tokio::task::JoinHandle<()>,
}

impl Archive {
    /// Starts reading all sources, or what was put aside of them, from where the store has them; `secret` is the cluster's.
    ///
    /// # Errors
    /// A source's configuration is wrong; the text says how.
    pub async fn start(
        config: &Config,
        store: ArchiveSender,
        handle: Handle,
        archived: Arc<Archived>,
        secret: Vec<u8>,
    ) -> Result<Archive, String> {
        let known = loop {
            match store.positions().await {
                Ok(known) => break known,
                Err(error) => {
                    tracing::warn!(%error, "the archive waits for the store");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        };
        let (inbox, from) = Inbox::new();
        let inboxes = Inboxes { first: 0, peers: 1, local: vec![inbox] };
        let mut readers = Vec::new();
        let mut aside = Vec::new();
        for (index, source) in (0u16..).zip(&config.sources) {
            if let Some(folder) = once::folder(config, index) {
                let id = PartitionId { source: index, partition: 0 };
                let next = known.iter().find(|(name, ..)| name == source.name()).map_or(0, |(.., next)| *next);
                let reader = once::Reader::new(folder, id, next);
                aside.push(Aside::start(source.name(), reader, inboxes.local[0].clone(), store.clone())?);
                continue;
            }
            if !source::can_be_read_again(source) {
                // Read here, too, a part of it would never reach the engine.
                tracing::warn!(
                    source = source.name(),
                    "its events are not archived: it can be read once only, on another machine; have it write files, and read those"
                );
                continue;
            }
            let start = known.iter().filter(|(name, ..)| name == source.name());
            let start = start.map(|&(_, partition, next)| (PartitionId { source: index, partition }, next)).collect();
            readers.push(source::start(index, &own_group(source, GROUP), inboxes.clone(), StartAt::Positions(start))?);
        }
        let sources = Sources {
            names: config.sources.iter().map(|s| s.name().to_owned()).collect(),
            by_reference: config.sources.iter().map(|s| s.time() == TimeFrom::Reference).collect(),
        };
        let (max_lateness, max_skew) = (config.limits.max_lateness.0, config.limits.max_skew.0);
        let clock = ClockRule { max_lateness, max_skew, by_reference: false };
        let share = config.store.keeps().map_or(1.0, |sampling| sampling.low_risk);
        let sampler = (share < 1.0).then(|| Sampler::new(share, secret, Settings::from_config(config)));
        if sampler.is_some() {
            tracing::info!(share, "of low-risk events a share is kept");
        }
        let runtime = tokio::runtime::Handle::current();
        let task = tokio::task::spawn_blocking(move || {
            let mut stage = Stage {
                sources,
                clock,
                references: HashMap::new(),
                sampler,
                archived,
                rows: Vec::new(),
                bytes: 0,
                positions: BTreeMap::new(),
            };
            stage.run(&from, &store, &handle, &runtime);
        });
        Ok(Archive { readers, aside, task })
    }

    /// Stops reading; what was not written is read again at the next start.
    pub async fn stop(self) {
        for reader in self.readers {
            reader.stop();
        }
        self.aside.into_iter().for_each(Aside::stop);
        if self.task.await.is_err() {
            tracing::error!("the archive stage panicked");
        }
    }
}

/// Reads what was put aside of a source that can be read once only, and lets go of what the store has.
struct Aside {
    source: String,
    stop: Sender<Infallible>,
    thread: std::thread::JoinHandle<()>,
}

impl Aside {
    fn start(source: &str, mut reader: once::Reader, inbox: Inbox, store: ArchiveSender) -> Result<Aside, String> {
        let (stop, stopped) = bounded(0);
        let runtime = tokio::runtime::Handle::current();
        let name = source.to_owned();
        let body = move || {
            let (mut said, mut unasked) = (None, 0);
            loop {
                let read = reader.read().map(|batch| {
                    batch.map(|batch| (batch.bytes.len(), inbox.send_unless(Message::Batch(batch), &stopped)))
                });
                let (pause, trouble) = match read {
                    Ok(Some((_, Err(Closed)))) => return,
                    Ok(Some((bytes, Ok(())))) => {
                        unasked += bytes;
                        (Duration::ZERO, None)
                    }
                    Ok(None) => (ASIDE_LOOK, None),
                    Err(trouble) => (ASIDE_LOOK, Some(trouble)),
                };
                let mut trouble = trouble;
                if unasked >= BYTES || pause > Duration::ZERO {
                    unasked = 0;
                    trouble = trouble.or(forget(&name, &reader, &store, &runtime).err());
                }
                if trouble != said {
                    said = trouble;
                    said.iter().for_each(|trouble| {
                        tracing::warn!(source = name, "what was put aside for the archive waits: {trouble}")
                    });
                }
                match stopped.recv_timeout(pause) {
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(never) => match never {},
                }
            }
        };
        let thread = std::thread::Builder::new().name("archive-aside".into()).spawn(body);
        let thread = thread.map_err(|e| format!("no thread to archive: {e}; raise the limit of processes"))?;
        Ok(Aside { source: source.into(), stop, thread })
    }

    fn stop(self) {
        let Aside { source, stop, thread } = self;
        drop(stop);
        if thread.join().is_err() {
            tracing::error!(source, "the reader of what was put aside panicked");
        }
    }
}

/// Deletes what was put aside and is in the store. One that doesn't answer at once is asked another time.
fn forget(
    source: &str,
    reader: &once::Reader,
    store: &ArchiveSender,
    runtime: &tokio::runtime::Handle,
) -> Result<(), String> {
    if !reader.has_old()? {
        return Ok(());
    }
    let asked = async { tokio::time::timeout(ASIDE_ASK, store.positions()).await };
    let Ok(Ok(positions)) = runtime.block_on(asked) else { return Ok(()) };
    let next = positions.iter().find(|(name, ..)| name == source).map_or(0, |(.., next)| *next);
    reader.forget(next)
}

/// For readers that never commit, so that their group must have no commits of the engine's. And they go on where records
/// are lost: a store that was away for longer than the topic's retention must not stop detection.
pub(super) fn own_group(source: &Source, behind: &str) -> Source {
    let mut own = source.clone();
    if let Source::Kafka { group, on_lost_records, .. } = &mut own {
        group.push_str(behind);
        *on_lost_records = OnLost::Skip;
    }
    own
}

struct Stage {
    sources: Sources,
    clock: ClockRule,
    references: HashMap<PartitionId, Reference>,
    /// `None`: all events are kept.
    sampler: Option<Sampler>,
    archived: Arc<Archived>,
    rows: Vec<EventRow>,
    /// Of their records.
    bytes: usize,
    positions: BTreeMap<PartitionId, u64>,
}

impl Stage {
    fn run(
        &mut self,
        from: &Receiver<Message>,
        store: &ArchiveSender,
        handle: &Handle,
        runtime: &tokio::runtime::Handle,
    ) {
        let mut under_way = std::collections::VecDeque::new();
        loop {
            match from.recv_timeout(WAIT) {
                Ok(Message::Batch(batch)) => {
                    if let Some(sampler) = &mut self.sampler {
                        sampler.follow(&handle.rules().set, wall_clock::now());
                    }
                    self.take(&batch);
                }
                Ok(other) => {
                    self.note(other);
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let enough = self.rows.len() >= ROWS || self.bytes >= BYTES || from.is_empty();
            if self.positions.is_empty() || !enough {
                continue;
            }
            let mut rows = std::mem::take(&mut self.rows);
            let positions = std::mem::take(&mut self.positions);
            self.bytes = 0;
            let name = |p: PartitionId| self.sources.names.get(usize::from(p.source)).cloned().unwrap_or_default();
            let positions = positions.into_iter().map(|(p, next)| (name(p), p.partition, next)).collect();
            runtime.block_on(add_risk(&mut rows, handle));
            let count = rows.len() as u64;
            match runtime.block_on(store.send(rows, positions)) {
                Ok(receipt) => under_way.push_back((count, receipt)),
                Err(_) => return,
            }
            // With nothing more to read there is time to wait for all of them.
            let allowed = if from.is_empty() { 0 } else { UNDER_WAY };
            while under_way.len() > allowed
                && let Some((count, receipt)) = under_way.pop_front()
            {
                match runtime.block_on(receipt) {
                    Ok(_) => self.archived.events.fetch_add(count, Ordering::Relaxed),
                    Err(_) => return,
                };
            }
        }
    }

    /// What a source tells beside records.
    fn note(&self, message: Message) {
        let name = |source: u16| self.sources.names.get(usize::from(source)).cloned().unwrap_or_default();
        let mut told = self.archived.sources();
        match message {
            Message::Lost(partition, records) => *told.lost.entry(name(partition.source)).or_default() += records,
            Message::Degraded(source, Some(reason)) => drop(told.degraded.insert(name(source), reason)),
            Message::Degraded(source, None) => drop(told.degraded.remove(&name(source))),
            Message::Failed(reason) => drop(told.degraded.insert("has stopped".into(), reason)),
            _ => {}
        }
    }

    fn take(&mut self, batch: &RecordBatch) {
        let source = usize::from(batch.partition.source);
        let name = self.sources.names.get(source).cloned().unwrap_or_default();
        let by_reference = self.sources.by_reference.get(source).copied().unwrap_or(false);
        let clock = ClockRule { by_reference, ..self.clock };
        for record in &batch.records {
            let raw = &batch.bytes[record.start as usize..][..record.len as usize];
            // The engine's own reading sends what is no event to the dead letters.
            let Ok(event) = decode(raw) else { continue };
            let reference = self.references.entry(batch.partition).or_insert_with(Reference::largest);
            let stamp = reference.observe(&clock, event.timestamp, record.append, wall_clock::now());
            let position = format!("{name}/{}/{}", batch.partition.partition, record.offset);
            let mut row = row(&event, stamp.time, &position);
            if let Some(sampler) = &mut self.sampler {
                let Some(share) = sampler.share(&event, &stamp, &row.key) else {
                    self.archived.left_out.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                row.sample_share = share;
            }
            self.bytes += raw.len();
            self.rows.push(row);
        }
        self.positions.insert(batch.partition, batch.next_offset);
    }
}

fn row(event: &Event<'_>, time: i64, position: &str) -> EventRow {
    match &event.event_id {
        Some(id) => {
            EventRow { source_position: Some(position.to_owned()), ..EventRow::of(event, time, key(event, id)) }
        }
        None => EventRow::of(event, time, position.to_owned()),
    }
}

/// Copies have one key, records with one id and other bytes have others: the first half of SHA-256, in hex, over tenant,
/// agent, session, event_id and record, each behind its length (8 bytes, big-endian).
fn key(event: &Event<'_>, id: &str) -> String {
    let mut hash = Sha256::new();
    for part in
        [event.tenant_id.as_bytes(), event.agent_id.as_bytes(), event.session_id.as_bytes(), id.as_bytes(), event.raw]
    {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hex::encode(&hash.finalize()[..16])
}

/// Each event gets its session's score as it is now; none if the session has left the live view.
async fn add_risk(rows: &mut [EventRow], handle: &Handle) {
    let ids: BTreeSet<_> =
        rows.iter().map(|r| (r.tenant_id.clone(), r.agent_id.clone(), r.session_id.clone())).collect();
    if ids.is_empty() {
        return;
    }
    let answer = match handle.peek(Query::SessionsById(ids.into_iter().collect())).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(%error, "events are archived without their sessions' risk");
            return;
        }
    };
    let Rows::Sessions(sessions) = answer.rows else { return };
    let scores: HashMap<_, _> =
        sessions.into_iter().map(|s| ((s.tenant_id, s.agent_id, s.session_id), s.risk_score)).collect();
    for row in rows {
        row.risk_score = scores.get(&(row.tenant_id.clone(), row.agent_id.clone(), row.session_id.clone())).copied();
    }
}
