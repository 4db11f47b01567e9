//! Detect: the operator that owns groups. It applies an epoch's hits when the epoch is closed, moves the watermark, and
//! answers questions as of that epoch.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use clawdstrike_operators::epochs::{self, Epochs};
use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};

use super::class::Classes;
use super::control::{Command, Counters, Notice, Switch, Watermark};
use super::group::Context;
use super::groups::{Groups, Touched};
use super::hit::HitBatch;
use super::ingest::owner;
use super::keep::Keeper;
use super::key::Hasher;
use super::reallow::Reclassed;
use super::restore::PutBack;
use super::revive::Staged;
use super::rules::{Registry, Rules};
use super::settings::Settings;
use crate::alert::Alert;
use crate::inbox::PartitionId;
use crate::session::{SessionKey, SessionView};
use crate::spool::Spool;
use crate::view::{AgentView, Query};

/// How often changed sessions are told to stores and watchers.
const SESSION_BEAT: Duration = Duration::from_secs(1);

/// A new version of an alert, on its way to the worker that owns its session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AlertVersion {
    /// The session's key.
    pub session: u128,
    /// The version.
    #[serde(with = "super::json")]
    pub alert: Alert,
    /// From whom.
    pub origin: Origin,
}

/// From whom a version of an alert comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// It was just made.
    Made,
    /// It comes from a checkpoint; `told`: stores and receivers have had it.
    Kept {
        /// See there.
        told: bool,
    },
}

/// What stores and watchers learn of sessions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum SessionChange {
    /// A life's view.
    Now(SessionView),
    /// The last view of a life that has left the live view for want of room.
    Left(SessionView),
    /// So many groups lost events that rules may have needed, for want of room.
    Shed(u64),
    /// There is no such life any more.
    Gone(SessionKey),
}

impl SessionChange {
    /// How a life stands, if this tells it.
    pub fn view(&self) -> Option<&SessionView> {
        match self {
            SessionChange::Now(view) | SessionChange::Left(view) => Some(view),
            SessionChange::Shed(_) | SessionChange::Gone(_) => None,
        }
    }

    /// Whose change it is, if it is a life's.
    pub fn life(&self) -> Option<SessionKey> {
        match self {
            SessionChange::Gone(life) => Some(life.clone()),
            told => told.view().map(SessionKey::of),
        }
    }
}

/// One worker's part of an answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    /// Which question.
    pub id: u64,
    /// The question.
    pub query: Query,
    /// Sessions with their keys, for questions about sessions.
    pub sessions: Vec<(u128, SessionView)>,
    /// Agents, for questions about agents.
    pub agents: Vec<AgentView>,
    /// How many rows there are before limit and offset.
    pub total: u64,
}

/// Totals over all workers, as worker 0 sees them.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Counters by worker.
    pub workers: BTreeMap<u32, Counters>,
    /// What to read next of each partition, by what was read for the epochs applied so far.
    pub positions: BTreeMap<PartitionId, u64>,
    /// Where partitions ended when that was last known.
    pub ends: BTreeMap<PartitionId, u64>,
    /// The event-time bound.
    pub watermark: Option<i64>,
    /// Copies left out by this worker.
    pub copies: u64,
    /// All workers have read all there is.
    pub finished: bool,
    /// Workers that have handed over their share of a checkpoint.
    pub put_back: usize,
    /// The last reading again for rules that has been finished.
    pub filled: u32,
    /// Something has arrived for an epoch that isn't closed yet.
    pub pending: bool,
}

/// What the operator shares with the others of its worker.
#[derive(Clone)]
pub struct Shared {
    /// This worker, and how many there are.
    pub place: (usize, usize),
    /// The groups.
    pub groups: Rc<RefCell<Groups>>,
    /// Totals.
    pub totals: Rc<RefCell<Totals>>,
    /// Hashes with the cluster's secret, once it is known.
    pub hasher: Rc<RefCell<Option<Hasher>>>,
}

impl Shared {
    /// A session's key, if this worker owns it.
    pub fn own_session(&self, tenant: &str, agent: &str, session: &str) -> Option<u128> {
        let (worker, peers) = self.place;
        let key = self.hasher.borrow().as_ref()?.session(tenant, agent, session, &mut Vec::new());
        (owner(key, peers) == worker).then_some(key)
    }
}

/// The streams that leave detection.
pub struct Detected<'scope> {
    /// Versions of alerts.
    pub alerts: StreamVec<'scope, u64, AlertVersion>,
    /// Changes of sessions.
    pub sessions: StreamVec<'scope, u64, SessionChange>,
    /// Answers to questions.
    pub parts: StreamVec<'scope, u64, Part>,
}

/// What comes in for an epoch.
#[derive(Default)]
struct Arrived {
    hits: Vec<HitBatch>,
    back: Vec<PutBack>,
    commands: Vec<Command>,
    notices: Vec<Notice>,
}

/// Alerts, sessions, parts.
const OUTPUTS: usize = 3;

pub(super) struct Detect {
    pub(super) settings: Settings,
    pub(super) shared: Shared,
    registry: Registry,
    pub(super) rules: Rules,
    pub(super) classes: Classes,
    pub(super) reclassed: Reclassed,
    watermark: Watermark,
    /// What comes back from a checkpoint, until all of it has.
    pub(super) staged: Staged,
    /// Until the cluster has read again what a killed run had read: lives that left the view.
    pub(super) left: Option<HashSet<SessionKey>>,
    /// Puts aside what must not be lost.
    pub(super) keeper: Option<Keeper>,
    offline: bool,
    last_beat: Instant,
    closed: bool,
    /// The reading again that rules wait for, and the workers that are done with it.
    fill: (u32, HashSet<u32>),
    pub(super) changed: Vec<u128>,
    pub(super) alerts: Vec<AlertVersion>,
    pub(super) sessions: Vec<SessionChange>,
    parts: Vec<Part>,
    scratch: Vec<u8>,
}

/// Where groups' changes go.
pub(super) struct Told<'a> {
    hasher: Option<&'a Hasher>,
    alerts: &'a mut Vec<AlertVersion>,
    sessions: &'a mut Vec<SessionChange>,
    scratch: &'a mut Vec<u8>,
}

impl Told<'_> {
    /// Takes what changed in a group.
    pub fn take(&mut self, touched: Touched<'_>) {
        if let Some(session) = &touched.group.session
            && !touched.changes.gone.is_empty()
        {
            let (t, a, s) = session.names();
            let gone = touched.changes.gone.into_iter();
            self.sessions.extend(gone.map(|first_seen| {
                let (tenant_id, agent_id, session_id) = (t.to_owned(), a.to_owned(), s.to_owned());
                SessionChange::Gone(SessionKey { tenant_id, agent_id, session_id, first_seen })
            }));
        }
        let Some(hasher) = self.hasher else { return };
        for alert in touched.changes.alerts {
            let session = hasher.session(&alert.tenant_id, &alert.agent_id, &alert.session_id, self.scratch);
            self.alerts.push(AlertVersion { session, alert, origin: Origin::Made });
        }
    }
}

/// What detection is given.
pub struct Inputs<'scope> {
    /// Batches of hits, each for one worker.
    pub hits: StreamVec<'scope, u64, HitBatch>,
    /// What a checkpoint kept, each piece for one worker.
    pub back: StreamVec<'scope, u64, PutBack>,
    /// Commands, on every worker.
    pub commands: StreamVec<'scope, u64, Command>,
    /// Notices, on every worker.
    pub notices: StreamVec<'scope, u64, Notice>,
}

/// Builds detection on this worker.
pub fn detect<'scope>(
    scope: Scope<'scope, u64>,
    inputs: Inputs<'scope>,
    settings: &Settings,
    shared: Shared,
    spool: Option<Rc<RefCell<Spool>>>,
) -> Detected<'scope> {
    type Builder<D> = CapacityContainerBuilder<Vec<D>>;
    let mut builder = OperatorBuilder::new("Detect".to_owned(), scope);
    let Inputs { hits, back, commands, notices } = inputs;
    let mut hits = builder.new_input(hits, Exchange::new(|batch: &HitBatch| batch.worker));
    let mut back = builder.new_input(back, Exchange::new(|back: &PutBack| back.worker));
    let mut commands = builder.new_input(commands, Pipeline);
    let mut notices = builder.new_input(notices, Pipeline);
    let (alerts_out, alerts) = builder.new_output::<Vec<AlertVersion>>();
    let (sessions_out, sessions) = builder.new_output::<Vec<SessionChange>>();
    let (parts_out, parts) = builder.new_output::<Vec<Part>>();
    let mut alerts_out = OutputBuilder::<_, Builder<AlertVersion>>::from(alerts_out);
    let mut sessions_out = OutputBuilder::<_, Builder<SessionChange>>::from(sessions_out);
    let mut parts_out = OutputBuilder::<_, Builder<Part>>::from(parts_out);
    let keeper = spool.map(|spool| Keeper::new(spool, settings));
    let mut detect = Detect::new(settings.clone(), shared, keeper);
    builder.build(move |capabilities| {
        drop(capabilities);
        let mut epochs: Epochs<Arrived> = Epochs::default();
        move |frontiers| {
            let mut pending = false;
            hits.for_each(|cap, data| {
                if let Some(epoch) = epochs.arrived(&cap, OUTPUTS) {
                    epoch.hits.append(data);
                    pending = true;
                }
            });
            back.for_each(|cap, data| {
                if let Some(epoch) = epochs.arrived(&cap, OUTPUTS) {
                    epoch.back.append(data);
                    pending = true;
                }
            });
            commands.for_each(|cap, data| {
                if let Some(epoch) = epochs.arrived(&cap, OUTPUTS) {
                    epoch.commands.append(data);
                    pending = true;
                }
            });
            notices.for_each(|cap, data| {
                if let Some(epoch) = epochs.arrived(&cap, OUTPUTS) {
                    epoch.notices.append(data);
                    pending = true;
                }
            });
            if pending {
                detect.shared.totals.borrow_mut().pending = true;
            }
            while let Some((epoch, caps, arrived)) = epochs.next_closed(epochs::least(frontiers)) {
                detect.apply(epoch, arrived);
                let mut out = alerts_out.activate();
                out.session(&caps[0]).give_iterator(detect.alerts.drain(..));
                let mut out = sessions_out.activate();
                out.session(&caps[1]).give_iterator(detect.sessions.drain(..));
                let mut out = parts_out.activate();
                out.session(&caps[2]).give_iterator(detect.parts.drain(..));
            }
        }
    });
    Detected { alerts, sessions, parts }
}

impl Detect {
    pub(super) fn new(settings: Settings, shared: Shared, keeper: Option<Keeper>) -> Detect {
        if keeper.is_some() {
            shared.groups.borrow_mut().note_changes();
        }
        Detect {
            staged: Staged::default(),
            left: Some(HashSet::new()),
            keeper,
            watermark: Watermark::new(shared.place.1, settings.max_lateness),
            settings,
            shared,
            registry: Registry::default(),
            rules: Rules::default(),
            classes: Classes::default(),
            reclassed: Reclassed::default(),
            offline: false,
            last_beat: Instant::now(),
            closed: false,
            fill: (0, HashSet::new()),
            changed: Vec::new(),
            alerts: Vec::new(),
            sessions: Vec::new(),
            parts: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Applies a closed epoch: classes it speaks of, its hits, the watermark, then commands.
    fn apply(&mut self, epoch: u64, arrived: Arrived) {
        for notice in arrived.notices {
            match notice {
                Notice::Class(def) => self.classes.learn(def, &self.rules),
                Notice::Progress { worker, mark, counters, positions, ends } => {
                    self.watermark.tell(worker, mark);
                    let mut totals = self.shared.totals.borrow_mut();
                    totals.workers.insert(worker, counters);
                    totals.positions.extend(positions);
                    totals.ends.extend(ends);
                }
                Notice::PutBack => self.shared.totals.borrow_mut().put_back += 1,
                Notice::Filling { worker, fill, done } => {
                    if done && fill == self.fill.0 {
                        self.fill.1.insert(worker);
                    }
                }
            }
        }
        self.staged.add(arrived.back);
        self.apply_hits(epoch, &arrived.hits);
        self.move_watermark(epoch);
        self.begin_rules(epoch);
        self.make_room();
        self.keep_leaving(epoch);
        for command in arrived.commands {
            self.obey(epoch, command);
        }
        self.beat();
    }

    /// Has all groups do something that they may tell of, in the world as it is now.
    pub(super) fn look(&mut self, epoch: u64, look: impl FnOnce(&mut Groups, &Context<'_>, &mut Told<'_>)) {
        let watermark = self.shared.totals.borrow().watermark.unwrap_or(i64::MIN);
        let keeper = self.keeper.as_ref();
        let ctx =
            Context { rules: &self.rules, classes: &self.classes, settings: &self.settings, watermark, keeper, epoch };
        let hasher = self.shared.hasher.borrow();
        let (alerts, sessions, scratch) = (&mut self.alerts, &mut self.sessions, &mut self.scratch);
        let mut told = Told { hasher: hasher.as_ref(), alerts, sessions, scratch };
        look(&mut self.shared.groups.borrow_mut(), &ctx, &mut told);
    }

    fn apply_hits(&mut self, epoch: u64, hits: &[HitBatch]) {
        let offline = self.offline;
        let mut changed = std::mem::take(&mut self.changed);
        let mut copies = 0;
        self.look(epoch, |groups, ctx, told| {
            groups.apply(ctx, hits, |touched| {
                copies += touched.changes.copies;
                if !offline && touched.group.session.is_some() {
                    changed.push(touched.key);
                }
                told.take(touched);
            });
        });
        self.changed = changed;
        self.shared.totals.borrow_mut().copies += copies;
    }

    /// Once all workers have read again what rules wait for, those begin.
    fn begin_rules(&mut self, epoch: u64) {
        if self.fill.0 == 0 || self.fill.1.len() < self.shared.place.1 {
            return;
        }
        self.shared.totals.borrow_mut().filled = std::mem::take(&mut self.fill.0);
        let filled = self.rules.fill();
        self.classes.reload(&self.rules);
        self.look(epoch, |groups, ctx, told| groups.begin_rules(ctx, &filled, |touched| told.take(touched)));
        if self.shared.totals.borrow().watermark.is_some_and(|watermark| watermark > i64::MIN) {
            self.advance(epoch);
        }
    }

    fn move_watermark(&mut self, epoch: u64) {
        let (before, finished) = {
            let totals = self.shared.totals.borrow();
            (totals.watermark, totals.finished)
        };
        let now = self.watermark.bound();
        let ended = self.watermark.finished().is_some();
        {
            let mut totals = self.shared.totals.borrow_mut();
            totals.watermark = now;
            totals.finished = ended;
        }
        if now > before {
            self.advance(epoch);
        }
        if self.offline && ended && !finished {
            self.tell_all_sessions(now);
        }
    }

    /// Looks at the groups that are due.
    fn advance(&mut self, epoch: u64) {
        self.look(epoch, |groups, ctx, told| {
            let oldest = ctx.watermark.saturating_sub(ctx.settings.session_retention);
            let idle = ctx.watermark.saturating_sub(ctx.settings.session_idle);
            groups.advance(ctx, |touched| {
                if let Some(session) = &mut touched.group.session {
                    let retired = session.retire(oldest, idle, &ctx.settings.risk);
                    told.sessions.extend(retired.into_iter().map(SessionChange::Now));
                    if session.is_empty() {
                        touched.group.had_lives = true;
                        touched.group.session = None;
                    }
                }
                told.take(touched);
            });
        });
    }

    fn make_room(&mut self) {
        let (idle, weights) = (self.idle_before(), &self.settings.risk);
        let sessions = &mut self.sessions;
        let (views, bytes) = (self.settings.sessions_in_view, self.settings.state_memory);
        let shed = self.shared.groups.borrow_mut().make_room(views, bytes, |session| {
            sessions.extend(session.views(idle, weights).into_iter().map(SessionChange::Left));
        });
        if shed > 0 {
            sessions.push(SessionChange::Shed(shed));
        }
    }

    fn obey(&mut self, epoch: u64, command: Command) {
        match command {
            Command::Start { secret, now, restored } => {
                *self.shared.hasher.borrow_mut() = Some(Hasher::new(&secret));
                self.offline = now.is_some();
                if let Some(restored) = restored {
                    self.watermark.restore(restored.watermark);
                    self.shared.totals.borrow_mut().watermark = restored.watermark;
                    self.staged.acked = restored.acked;
                }
            }
            Command::Rules(switch) => {
                let Switch { set, mut in_force, fill } = *switch;
                // Who gave the command may not have known yet.
                in_force.fill_as(&self.rules.in_force);
                let rules = self.registry.load(&set, in_force, &self.settings);
                let before = std::mem::replace(&mut self.rules, rules);
                self.fill = (fill, HashSet::new());
                self.classes.reload(&self.rules);
                if let (Some(keeper), Some(hasher)) = (&mut self.keeper, &*self.shared.hasher.borrow()) {
                    keeper.tags = self.rules.bys.iter().map(|by| hasher.tag(by)).collect();
                }
                if before.version > 0 && !before.has_allowlist_of(&self.rules) {
                    self.judge_anew(epoch);
                }
            }
            Command::Live => {
                self.revive(epoch);
                self.judge_alerts(epoch);
            }
            Command::Checkpoint => self.cut(epoch),
            Command::Reconcile(suspects) => self.reconcile(&suspects.sessions),
            Command::Drain | Command::Handle(_) => {}
            Command::Peek { id, query } => self.parts.push(self.answer(id, query)),
        }
    }

    pub(super) fn idle_before(&self) -> i64 {
        let watermark = self.shared.totals.borrow().watermark.unwrap_or(i64::MIN);
        watermark.saturating_sub(self.settings.session_idle)
    }

    /// Changed sessions go to stores and watchers at a beat, not with every event.
    fn beat(&mut self) {
        if !self.offline && self.last_beat.elapsed() >= SESSION_BEAT {
            self.tell_changed_sessions();
        }
    }

    pub(super) fn tell_changed_sessions(&mut self) {
        self.last_beat = Instant::now();
        let idle = self.idle_before();
        self.changed.sort_unstable();
        self.changed.dedup();
        let mut groups = self.shared.groups.borrow_mut();
        for key in self.changed.drain(..) {
            if let Some(session) = groups.get_mut(key).and_then(|g| g.session.as_mut()) {
                self.sessions.extend(session.changed(idle, &self.settings.risk).into_iter().map(SessionChange::Now));
            }
        }
    }

    fn tell_all_sessions(&mut self, watermark: Option<i64>) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        let idle = watermark.unwrap_or(i64::MIN).saturating_sub(self.settings.session_idle);
        let groups = self.shared.groups.borrow();
        for group in groups.iter().map(|(_, g)| g) {
            if let Some(session) = &group.session {
                let conflict = group.has_conflict();
                for mut view in session.views(idle, &self.settings.risk) {
                    if conflict && !view.flags.iter().any(|f| f == "id_conflict") {
                        view.flags.push("id_conflict".to_owned());
                    }
                    self.sessions.push(SessionChange::Now(view));
                }
            }
        }
    }
}
