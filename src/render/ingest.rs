//! Ingest: records become events, events become hits. Runs on the worker that owns the partition; only hits leave it.
//!
//! All that is read between two ticks of the sequencer belongs to one epoch. A worker takes at most
//! [`Settings::epoch_records`] records into an epoch; more waits in its inbox, and when that is full, its readers pause.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use clawdstrike_telemetry::{ClockRule, DeadLetter, Event, Stamp, decode};
use crossbeam_channel::Receiver;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};

use super::again::Again;
use super::class::travels;
use super::class::{Class, ClassDef, MAX_BYS};
use super::classify::Classified;
use super::classify::Classifier;
use super::control::{Command, Counters, Mark, Notice, Switch};
use super::field::{Fields, Place};
use super::hit::{Filling, Head, HitBatch, Payload, Position};
use super::key::Hasher;
use super::partitions::{PartitionState, Partitions};
use super::restore::{Back, PutBack};
use super::rules::{Registry, Rules, SESSION};
use super::settings::Settings;
use crate::dead_letter::DeadRecord;
use crate::inbox::again::AskAgain;
use crate::inbox::{Message, PartitionId, RecordBatch, RecordRef};
use crate::spool::{Progress, Spool};
use crate::view::{Held, Query};
use crate::wall_clock;

/// Records that a worker takes into one epoch, if not set otherwise.
pub const EPOCH_RECORDS: usize = 64 * 1024;
/// Bytes of records that a worker takes into one epoch.
pub(super) const EPOCH_BYTES: usize = 32 << 20;

/// What the records of one batch have in common.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    rank: u16,
    partition: u32,
    pub clock: ClockRule,
    pub wall: i64,
}

/// How an event comes to be sent to its groups.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// It was read.
    First,
    /// It was read before, for rules that wait for it, too.
    Again,
    /// As [`Read::Again`], and the record isn't the bytes that were read first, though it says the same.
    Reworded,
}

/// One worker's reading.
pub(super) struct Ingest {
    pub(super) settings: Settings,
    pub(super) ranks: Vec<u16>,
    pub(super) worker: usize,
    inbox: Receiver<Message>,
    dead: crossbeam_channel::Sender<DeadRecord>,
    waiting_dead: Option<DeadRecord>,
    current: Option<(RecordBatch, usize)>,
    sources_left: usize,
    unlisted: usize,
    pub(super) partitions: Partitions,
    /// What is read again for rules that wait for it.
    pub(super) again: Again,
    spool: Option<Rc<RefCell<Spool>>>,
    pub(super) back: Back,
    checkpoint: u64,
    live: bool,
    draining: bool,
    hasher: Option<Hasher>,
    now: Option<i64>,
    registry: Registry,
    pub(super) rules: Rules,
    /// Where the fields of each `by` list are.
    bys: Vec<Vec<Place>>,
    /// What stands for each `by` list in keys.
    pub(super) tags: Vec<u64>,
    pub(super) classifier: Option<Classifier>,
    /// Where events of a class go, by the class's number within this worker.
    roles: Vec<Option<Roles>>,
    counters: Counters,
    /// Counts what sources have told beside records.
    news: u64,
    told: Option<(Mark, u64)>,
    batches: Vec<Filling>,
    full: Vec<HitBatch>,
    pub(super) values: Vec<u64>,
    scratch: Vec<u8>,
    epoch: u64,
    taken: usize,
    pub(super) taken_bytes: usize,
    failed: Option<String>,
}

/// Learns how to wake the ingest.
pub type Wake = Box<dyn FnOnce(timely::scheduling::SyncActivator)>;

/// The streams that leave the ingest.
pub struct Ingested<'scope> {
    /// Batches of hits, to be sent to their workers.
    pub hits: StreamVec<'scope, u64, HitBatch>,
    /// What was kept of groups, for their workers.
    pub back: StreamVec<'scope, u64, PutBack>,
    /// What all workers should know.
    pub notices: StreamVec<'scope, u64, Notice>,
}

/// What the ingest of one worker is given.
pub struct IngestParts {
    /// Limits and sources.
    pub settings: Settings,
    /// Where records come from.
    pub inbox: Receiver<Message>,
    /// Wakes this worker when the inbox gets something.
    pub wake: Wake,
    /// Where dead letters go.
    pub dead: crossbeam_channel::Sender<DeadRecord>,
    /// How far partitions had been read when the checkpoint was made that the cluster begins with.
    pub before: HashMap<PartitionId, Progress>,
    /// That checkpoint's number; 0: there is none.
    pub checkpoint: u64,
    /// This worker's share of its frames.
    pub back: Receiver<Vec<u8>>,
    /// Where what must not be lost is put aside; `None`: nothing is.
    pub spool: Option<Rc<RefCell<Spool>>>,
    /// Sources that will say when they have ended.
    pub sources: usize,
    /// Where to ask for what has been read before; `None`: it can't be had.
    pub again: Option<AskAgain>,
    /// Set when a source can't go on.
    pub failure: Arc<OnceLock<String>>,
}

/// Builds the ingest of this worker. `commands` comes to every worker; `known`: what it remembers, when it is asked.
pub fn ingest<'scope>(
    scope: Scope<'scope, u64>,
    commands: StreamVec<'scope, u64, Command>,
    parts: IngestParts,
    known: Rc<Cell<Held>>,
) -> Ingested<'scope> {
    let mut builder = OperatorBuilder::new("Ingest".to_owned(), scope);
    let info = builder.operator_info();
    let mut input = builder.new_input(commands, Pipeline);
    let (hits_out, hits) = builder.new_output::<Vec<HitBatch>>();
    let (back_out, back) = builder.new_output::<Vec<PutBack>>();
    let (notices_out, notices) = builder.new_output::<Vec<Notice>>();
    let mut back_out = OutputBuilder::<_, timely::container::CapacityContainerBuilder<Vec<PutBack>>>::from(back_out);
    let mut hits_out = OutputBuilder::<_, timely::container::CapacityContainerBuilder<Vec<HitBatch>>>::from(hits_out);
    let mut notices_out =
        OutputBuilder::<_, timely::container::CapacityContainerBuilder<Vec<Notice>>>::from(notices_out);
    let activator = scope.activator_for(Rc::clone(&info.address));
    let failure = parts.failure.clone();
    let (mut ingest, wake) = Ingest::new(scope.index(), scope.peers(), parts);
    wake(scope.worker().sync_activator_for(info.address.to_vec()));
    builder.build(move |capabilities| {
        let mut capabilities: Option<Vec<Capability<u64>>> = Some(capabilities);
        let mut commands: BTreeMap<u64, Vec<Command>> = BTreeMap::new();
        move |frontiers| {
            input.for_each(|cap, data| {
                if let Some(&epoch) = cap.least() {
                    commands.entry(epoch).or_default().append(data);
                }
            });
            let Some(caps) = &mut capabilities else { return };
            // Commands of an epoch take effect after it, so all of those before the frontier are due.
            let frontier = frontiers[0].frontier().first().copied();
            while let Some(entry) = commands.first_entry()
                && frontier.is_none_or(|f| *entry.key() < f)
            {
                let (epoch, commands) = entry.remove_entry();
                for command in commands {
                    if matches!(command, Command::Peek { query: Query::State, .. }) {
                        known.set(ingest.classifier.as_ref().map(Classifier::held).unwrap_or_default());
                    }
                    ingest.obey(epoch, command);
                }
            }
            let Some(epoch) = frontier else {
                capabilities = None;
                return;
            };
            if epoch > *caps[0].time() {
                caps.iter_mut().for_each(|c| c.downgrade(&epoch));
            }
            let more = ingest.read(epoch);
            let mut hits_out = hits_out.activate();
            let mut session = hits_out.session(&caps[0]);
            ingest.take_batches().into_iter().for_each(|b| session.give(b));
            drop(session);
            let mut back_out = back_out.activate();
            back_out.session(&caps[1]).give_iterator(ingest.back.take().into_iter());
            let mut notices_out = notices_out.activate();
            let mut session = notices_out.session(&caps[2]);
            ingest.take_notices().into_iter().for_each(|n| session.give(n));
            drop(session);
            if let Some(reason) = ingest.failed.take() {
                failure.get_or_init(|| reason);
            }
            if more {
                activator.activate();
            }
        }
    });
    Ingested { hits, back, notices }
}

impl Ingest {
    fn new(worker: usize, peers: usize, parts: IngestParts) -> (Ingest, Wake) {
        let ranks = parts.settings.ranks();
        let ingest = Ingest {
            ranks,
            settings: parts.settings,
            worker,
            inbox: parts.inbox,
            dead: parts.dead,
            waiting_dead: None,
            current: None,
            sources_left: parts.sources,
            unlisted: parts.sources,
            partitions: Partitions::new(parts.before),
            again: Again::new(parts.again),
            spool: parts.spool,
            back: Back::new(parts.back, peers),
            checkpoint: parts.checkpoint,
            live: false,
            draining: false,
            hasher: None,
            now: None,
            registry: Registry::default(),
            rules: Rules::default(),
            bys: Vec::new(),
            tags: Vec::new(),
            classifier: None,
            roles: Vec::new(),
            counters: Counters::default(),
            news: 0,
            told: None,
            batches: (0..peers as u64).map(|worker| Filling { worker, ..Filling::default() }).collect(),
            full: Vec::new(),
            values: Vec::new(),
            scratch: Vec::new(),
            epoch: 0,
            taken: 0,
            taken_bytes: 0,
            failed: None,
        };
        (ingest, parts.wake)
    }

    fn obey(&mut self, epoch: u64, command: Command) {
        match command {
            Command::Start { secret, now, restored } => {
                let checkpoint = restored.map_or(0, |r| r.checkpoint);
                if checkpoint != self.checkpoint {
                    self.failed = Some(format!(
                        "this process has read checkpoint {}, and the cluster begins with {checkpoint}: another run was still making them; start again",
                        self.checkpoint
                    ));
                }
                let hasher = Hasher::new(&secret);
                self.classifier = Some(Classifier::new(self.worker, hasher.clone(), &self.settings.zone));
                self.hasher = Some(hasher);
                self.now = now;
            }
            Command::Rules(switch) => {
                let Switch { set, in_force, fill } = *switch;
                self.rules = self.registry.load(&set, in_force, &self.settings);
                self.bys = self.rules.bys.iter().map(|list| list.iter().map(Place::in_group).collect()).collect();
                self.tags =
                    self.hasher.iter().flat_map(|hasher| self.rules.bys.iter().map(|by| hasher.tag(by))).collect();
                self.roles.clear();
                if self.rules.bys.len() > MAX_BYS {
                    tracing::error!(
                        "the rules loaded so far have over {MAX_BYS} different `by` lists: rules with a further one are not evaluated; restart the cluster to forget old ones"
                    );
                }
                if let Some(Err(reason)) = self.classifier.as_mut().map(|c| c.load(&self.rules)) {
                    self.failed = Some(reason);
                }
                self.read_again(fill);
            }
            Command::Live => self.live = true,
            Command::Checkpoint => {
                if let Some(spool) = &self.spool {
                    spool.borrow_mut().note_read(epoch, self.partitions.progress());
                }
            }
            Command::Drain => self.draining = true,
            Command::Peek { .. } | Command::Reconcile(_) | Command::Handle(_) => {}
        }
    }

    fn wall(&self) -> i64 {
        self.now.unwrap_or_else(wall_clock::now)
    }

    /// Reads into the epoch what fits; says whether there is more to do at once.
    fn read(&mut self, epoch: u64) -> bool {
        if self.rules.version == 0 {
            return false;
        }
        if epoch > self.epoch {
            (self.epoch, self.taken, self.taken_bytes) = (epoch, 0, 0);
            self.again.begin_epoch();
        }
        if self.spool.as_ref().is_some_and(|spool| spool.borrow_mut().is_behind()) {
            return true;
        }
        if !self.live {
            return self.put_back();
        }
        if self.draining {
            return false;
        }
        let wall = self.wall();
        let more = self.read_on(wall);
        // Whatever there is to read on, a share of the epoch is for what is read again: neither starves the other.
        self.take_again(wall);
        more
    }

    fn read_on(&mut self, wall: i64) -> bool {
        let before = self.taken;
        // A turn is short, so that the worker's other operators keep up.
        while !self.is_full() && self.taken - before <= self.settings.epoch_records / 4 {
            if !self.bury() {
                return true;
            }
            match self.current.take() {
                Some((records, from)) => self.take_records(records, from, wall),
                None => match self.inbox.try_recv() {
                    Ok(input) => self.take_input(input),
                    Err(_) => return false,
                },
            }
        }
        !self.is_full()
    }

    /// The epoch takes no more records.
    pub(super) fn is_full(&self) -> bool {
        self.taken >= self.settings.epoch_records || self.taken_bytes >= EPOCH_BYTES
    }

    /// Hands on a dead letter that waits; says whether none waits any more.
    fn bury(&mut self) -> bool {
        if let Some(dead) = self.waiting_dead.take()
            && let Err(crossbeam_channel::TrySendError::Full(dead)) = self.dead.try_send(dead)
        {
            self.waiting_dead = Some(dead);
        }
        self.waiting_dead.is_none()
    }

    fn take_input(&mut self, input: Message) {
        match input {
            Message::Assigned(partition) => self.partitions.assign(partition),
            Message::Listed(_) => self.unlisted = self.unlisted.saturating_sub(1),
            Message::Batch(records) => self.current = Some((records, 0)),
            Message::CaughtUp(partition) | Message::Finished(partition) => self.partitions.idle(partition),
            Message::Ended(_) => self.sources_left = self.sources_left.saturating_sub(1),
            Message::Lost(partition, records) => {
                *self.counters.lost.entry(self.source(partition.source)).or_default() += records;
                self.news += 1;
            }
            Message::Degraded(source, reason) => {
                let source = self.source(source);
                match reason {
                    Some(reason) => self.counters.degraded.insert(source, reason),
                    None => self.counters.degraded.remove(&source),
                };
                self.news += 1;
            }
            Message::Failed(reason) => self.failed = Some(reason),
        }
    }

    /// A source's name.
    pub(super) fn source(&self, index: u16) -> String {
        self.settings.sources.get(usize::from(index)).map_or_else(|| "?".to_owned(), |s| s.name.clone())
    }

    pub(super) fn origin(&self, id: PartitionId, wall: i64) -> Origin {
        let source = self.settings.sources.get(usize::from(id.source));
        Origin {
            rank: self.ranks.get(usize::from(id.source)).copied().unwrap_or_default(),
            partition: id.partition,
            clock: ClockRule {
                max_lateness: self.settings.max_lateness,
                max_skew: self.settings.max_skew,
                by_reference: source.is_some_and(|s| s.by_reference),
            },
            wall,
        }
    }

    fn take_records(&mut self, records: RecordBatch, from: usize, wall: i64) {
        let id = records.partition;
        let mut state = self.partitions.get(id);
        let origin = self.origin(id, wall);
        let mut next = from;
        while let Some(record) = records.records.get(next)
            && self.waiting_dead.is_none()
            && !self.is_full()
        {
            let raw = &records.bytes[record.start as usize..][..record.len as usize];
            self.taken += 1;
            self.taken_bytes += raw.len();
            match decode(raw) {
                Ok(event) => self.take_event(&event, &origin, record, &mut state),
                Err(reason) => self.take_dead(reason, id, record.offset, raw),
            }
            next += 1;
        }
        state.end = records.end.or(state.end);
        state.next = Some(records.records.get(next).map_or(records.next_offset, |r| r.offset));
        self.partitions.set(id, state);
        if next < records.records.len() {
            self.current = Some((records, next));
        }
    }

    fn take_dead(&mut self, letter: DeadLetter, partition: PartitionId, offset: u64, raw: &[u8]) {
        *self.counters.dead_letters.entry(letter.reason.code().to_owned()).or_default() += 1;
        let dead = DeadRecord {
            source: self.source(partition.source),
            partition: partition.partition,
            offset,
            reason: letter.reason.code(),
            detail: letter.detail,
            raw: raw.to_vec(),
        };
        if let Err(crossbeam_channel::TrySendError::Full(dead)) = self.dead.try_send(dead) {
            self.waiting_dead = Some(dead);
        }
    }

    fn take_event(&mut self, event: &Event<'_>, origin: &Origin, record: &RecordRef, state: &mut PartitionState) {
        let stamp = state.reference.observe(&origin.clock, event.timestamp, record.append, origin.wall);
        state.largest = state.largest.max(Some(stamp.reference));
        state.latest = state.latest.max(Some(stamp.time));
        self.counters.events += 1;
        self.counters.retimed += u64::from(stamp.skewed);
        self.send_hits(event, &stamp, origin, record.offset, Read::First);
    }

    /// Workers of all processes.
    pub(super) fn peers(&self) -> usize {
        self.batches.len()
    }

    /// Sends an event to the groups that it concerns; one that was read again, to those of rules that wait for it.
    pub(super) fn send_hits(&mut self, event: &Event<'_>, stamp: &Stamp, origin: &Origin, offset: u64, read: Read) {
        let again = read != Read::First;
        let (Some(hasher), Some(classifier)) = (self.hasher.as_ref(), self.classifier.as_mut()) else { return };
        let classified = classifier.classify(event, stamp.time, &mut self.values);
        let roles = roles_of(&mut self.roles, &classified, classifier, &self.rules);
        let position = Position { source: origin.rank, partition: origin.partition, offset };
        let session = hasher.session(&event.tenant_id, &event.agent_id, &event.session_id, &mut self.scratch);
        let id = event.event_id.as_ref().map_or(0, |id| hasher.identity(session, id, &mut self.scratch));
        let mut head = Head {
            key: 0,
            time: stamp.time,
            timestamp: event.timestamp,
            reference: stamp.reference,
            id,
            raw: if id == 0 { 0 } else { hasher.narrow(event.raw) },
            target: classified.target,
            class: classified.class,
            by: SESSION,
            event_type: event.event_type,
            allowed: event.allowed,
            skewed: stamp.skewed,
            kept: false,
            again,
            reworded: read == Read::Reworded,
            start: 0,
            len: 0,
        };
        let mut bys = if again { roles.fill } else { travels(roles.all) };
        let mut fields = Fields::new(event);
        while bys != 0 {
            let by = bys.trailing_zeros() as u16;
            bys &= bys - 1;
            let key = if by == SESSION {
                Some(session)
            } else {
                hasher.group(
                    self.tags[usize::from(by)],
                    &event.tenant_id,
                    &mut fields,
                    &self.bys[usize::from(by)],
                    &mut self.scratch,
                )
            };
            if let Some(key) = key {
                (head.key, head.by) = (key, by);
                let to = owner(key, self.batches.len());
                let batch = &mut self.batches[to];
                head.kept = roles.all >> by & 1 == 1;
                let bytes = if head.kept { &mut batch.kept } else { &mut batch.passing };
                head.start = bytes.len() as u32;
                head.len = Payload::encode(bytes, event, position, &self.values, origin.clock.by_reference, head.kept);
                batch.heads.push(head);
                if batch.is_full() {
                    self.full.push(batch.take());
                }
            }
        }
    }

    /// Which `by` lists an event of this class concerns.
    pub(super) fn roles_of(&mut self, classified: &Classified) -> u64 {
        self.classifier
            .as_mut()
            .map_or(0, |classifier| roles_of(&mut self.roles, classified, classifier, &self.rules).all)
    }

    fn take_batches(&mut self) -> Vec<HitBatch> {
        let mut out = std::mem::take(&mut self.full);
        out.extend(self.batches.iter_mut().filter(|b| !b.heads.is_empty()).map(Filling::take));
        out
    }

    fn take_notices(&mut self) -> Vec<Notice> {
        let mut out: Vec<Notice> = self
            .classifier
            .as_mut()
            .map(Classifier::take_news)
            .unwrap_or_default()
            .into_iter()
            .map(Notice::Class)
            .collect();
        if self.back.is_told() {
            out.push(Notice::PutBack);
        }
        if !self.live {
            return out;
        }
        out.extend(self.again.news(self.worker as u32));
        let mark = self.mark();
        let counted = self.counters.events + self.counters.dead_letters.values().sum::<u64>() + self.news;
        let told = Some((mark, counted));
        if told != self.told || self.partitions.have_news() {
            self.told = told;
            let ends = self.partitions.ends();
            let positions = self.partitions.take_news();
            let counters = self.counters.clone();
            out.push(Notice::Progress { worker: self.worker as u32, mark, counters, positions, ends });
        }
        out
    }

    fn mark(&self) -> Mark {
        if self.sources_left == 0 && self.current.is_none() && self.waiting_dead.is_none() {
            return self.partitions.finished();
        }
        if self.unlisted > 0 {
            return Mark::Unknown;
        }
        self.partitions.mark()
    }
}

/// Where events of a class go: bit `b`, to groups of `by` list `b`.
#[derive(Clone, Copy, Default)]
struct Roles {
    all: u64,
    /// To those of rules that wait for earlier events.
    fill: u64,
}

fn roles_of(
    known: &mut Vec<Option<Roles>>,
    classified: &Classified,
    classifier: &mut Classifier,
    rules: &Rules,
) -> Roles {
    let number = classified.number();
    if let Some(roles) = known.get(number).copied().flatten() {
        return roles;
    }
    let def = classifier.latest_news(classified.class);
    // Where it goes doesn't depend on the allowlist: entries hold at some times only, and a copy that is re-timed must meet
    // the event that it copies.
    let roles = def.map_or_else(Roles::default, |def| {
        let class = Class::new(ClassDef { allowed: Vec::new(), ..def }, rules);
        Roles { all: class.roles, fill: class.fill_roles }
    });
    known.resize(known.len().max(number + 1), None);
    known[number] = Some(roles);
    roles
}

/// The worker that owns a key.
pub fn owner(key: u128, workers: usize) -> usize {
    ((key >> 64) as u64 % workers as u64) as usize
}
