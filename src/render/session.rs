//! Session views: what one session's group knows about its lives (SPEC §5).
//!
//! Counts only ever grow, and a late event can only close the gap between two lives, never open one: so a late event is
//! added to the life it falls into, and two lives that it joins are added up. State per life: the distinct targets (8
//! bytes each, to [`EXACT_TARGETS`], beyond that HyperLogLog's 4 KiB) and the latest [`RECENT`] events.

use std::cmp::Ordering;

use cardinality_estimator::CardinalityEstimator;
use clawdstrike_telemetry::EventType;
use hashbrown::HashSet;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::hit::{Head, Payload};
use super::key::Hashed;
use crate::session::{RecentEvent, RiskWeights, SessionView, risk_score};

/// Up to so many distinct targets are counted exactly.
pub const EXACT_TARGETS: usize = 10_000;
/// Bytes of an estimator of many targets.
const ESTIMATOR_BYTES: usize = 4 << 10;
/// How many of the latest events a view shows.
pub const RECENT: usize = 5;

/// A session. As it is here, a checkpoint keeps it: another field is another [`super::snapshot::VERSION`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Session {
    names: Box<str>,
    tenant_len: u16,
    agent_len: u16,
    /// Nearly always one.
    lives: SmallVec<[Life; 1]>,
    resumed_before: bool,
    /// Two records had one id and different bytes.
    pub id_conflict: bool,
}

/// One life.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Life {
    events: u64,
    violations: u64,
    by_type: [u64; 7],
    first: i64,
    last: i64,
    targets: Targets,
    skewed: bool,
    recent: Vec<Recent>,
    changed: bool,
}

/// Distinct targets, by their hashes.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Targets {
    Exact(HashSet<u64, Hashed>),
    Estimated(Box<CardinalityEstimator<u64>>),
}

impl Default for Targets {
    fn default() -> Self {
        Targets::Exact(HashSet::default())
    }
}

impl Targets {
    fn count(&self) -> u64 {
        match self {
            Targets::Exact(targets) => targets.len() as u64,
            // It can't be fewer than were counted before.
            Targets::Estimated(estimator) => estimator.estimate().max(EXACT_TARGETS + 1) as u64,
        }
    }

    /// Bytes beyond the struct's own.
    fn held(&self) -> usize {
        match self {
            // A byte of control and an eighth free, at least, for each slot.
            Targets::Exact(targets) => targets.capacity() * 10,
            Targets::Estimated(_) => ESTIMATOR_BYTES,
        }
    }

    fn is_exact(&self) -> bool {
        matches!(self, Targets::Exact(_))
    }

    fn add(&mut self, target: u64) {
        match self {
            Targets::Exact(targets) => {
                targets.insert(target);
                if targets.len() > EXACT_TARGETS {
                    *self = Targets::Estimated(Box::new(estimator(targets)));
                }
            }
            Targets::Estimated(estimator) => estimator.insert_hash(target),
        }
    }

    fn join(&mut self, other: Targets) {
        match (&mut *self, other) {
            (Targets::Estimated(mine), Targets::Estimated(theirs)) => mine.merge(&theirs),
            (Targets::Exact(mine), Targets::Estimated(mut theirs)) => {
                mine.iter().for_each(|&target| theirs.insert_hash(target));
                *self = Targets::Estimated(theirs);
            }
            (_, Targets::Exact(theirs)) => theirs.into_iter().for_each(|target| self.add(target)),
        }
    }
}

fn estimator(targets: &HashSet<u64, Hashed>) -> CardinalityEstimator<u64> {
    let mut estimator = CardinalityEstimator::new();
    targets.iter().for_each(|&target| estimator.insert_hash(target));
    estimator
}

/// One of the latest events.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(into = "RecentParts", from = "RecentParts")]
struct Recent {
    time: i64,
    event_type: EventType,
    allowed: bool,
    len: u8,
    target: [u8; RecentEvent::TARGET_BYTES],
}

/// A [`Recent`] as (time, event type, allowed, target).
type RecentParts = (i64, EventType, bool, Vec<u8>);

impl From<Recent> for RecentParts {
    fn from(recent: Recent) -> RecentParts {
        (recent.time, recent.event_type, recent.allowed, recent.target().to_vec())
    }
}

impl From<RecentParts> for Recent {
    fn from((time, event_type, allowed, text): RecentParts) -> Recent {
        let len = text.len().min(RecentEvent::TARGET_BYTES);
        let mut target = [0; RecentEvent::TARGET_BYTES];
        target[..len].copy_from_slice(&text[..len]);
        Recent { time, event_type, allowed, len: len as u8, target }
    }
}

impl Recent {
    fn new(head: &Head, target: &[u8]) -> Recent {
        let target = shorten(target);
        let mut recent = Recent {
            time: head.time,
            event_type: head.event_type,
            allowed: head.allowed,
            len: target.len() as u8,
            target: [0; RecentEvent::TARGET_BYTES],
        };
        recent.target[..target.len()].copy_from_slice(target);
        recent
    }

    fn target(&self) -> &[u8] {
        &self.target[..usize::from(self.len)]
    }

    /// Ties in time are ordered by content, so that a view doesn't depend on arrival.
    fn order(&self, other: &Recent) -> Ordering {
        let key = |r: &Recent| (r.time, r.event_type);
        key(self)
            .cmp(&key(other))
            .then_with(|| self.target().cmp(other.target()))
            .then_with(|| self.allowed.cmp(&other.allowed))
    }

    fn show(&self) -> RecentEvent {
        RecentEvent {
            time: self.time,
            event_type: self.event_type,
            target: String::from_utf8_lossy(self.target()).into_owned(),
            allowed: self.allowed,
        }
    }
}

impl Session {
    /// A session that begins with this event's names; `resumed`: earlier lives of it have left.
    pub fn new(payload: Payload<'_>, resumed: bool) -> Session {
        let (t, a, s) = (payload.tenant_id(), payload.agent_id(), payload.session_id());
        Session {
            names: format!("{t}{a}{s}").into(),
            tenant_len: t.len() as u16,
            agent_len: a.len() as u16,
            lives: SmallVec::new(),
            resumed_before: resumed,
            id_conflict: false,
        }
    }

    /// Tenant, agent and session id.
    pub fn names(&self) -> (&str, &str, &str) {
        let (tenant, rest) = self.names.split_at(usize::from(self.tenant_len));
        let (agent, session) = rest.split_at(usize::from(self.agent_len));
        (tenant, agent, session)
    }

    /// Counts an event. `shown`: its target, if it may be one of the latest events. `gone` receives the `first_seen` of lives that are no more, because it joined them to an earlier
    /// one or moved their beginning.
    pub fn add(&mut self, head: &Head, shown: Option<&[u8]>, retention: i64, gone: &mut Vec<i64>) {
        let near = |life: &Life| {
            head.time >= life.first.saturating_sub(retention) && head.time <= life.last.saturating_add(retention)
        };
        let at = match self.lives.iter().position(near) {
            Some(at) => at,
            None => {
                let at = self.lives.partition_point(|l| l.first < head.time);
                self.lives.insert(at, Life { first: head.time, last: head.time, ..Life::default() });
                at
            }
        };
        let before = self.lives[at].first;
        self.lives[at].add(head, shown);
        if self.lives[at].first != before {
            gone.push(before);
        }
        while self.lives.get(at + 1).is_some_and(|next| next.first.saturating_sub(self.lives[at].last) <= retention) {
            let next = self.lives.remove(at + 1);
            gone.push(next.first);
            self.lives[at].join(next);
        }
    }

    /// Lives that ended before `oldest` leave; their last views.
    pub fn retire(&mut self, oldest: i64, idle_before: i64, weights: &RiskWeights) -> Vec<SessionView> {
        let n = self.lives.iter().take_while(|l| l.last < oldest).count();
        let mut views = self.views(idle_before, weights);
        views.truncate(n);
        self.lives.drain(..n);
        self.resumed_before |= n > 0;
        views
    }

    /// No life is left.
    pub fn is_empty(&self) -> bool {
        self.lives.is_empty()
    }

    /// Bytes that the session holds, about.
    pub fn held(&self) -> usize {
        let lives =
            self.lives.iter().map(|l| size_of::<Life>() + l.targets.held() + size_of::<Recent>() * l.recent.capacity());
        size_of::<Session>() + self.names.len() + lives.sum::<usize>()
    }

    /// Time of the last event.
    pub fn last_seen(&self) -> i64 {
        self.lives.last().map_or(i64::MIN, |l| l.last)
    }

    /// The risk of the life that a time falls into.
    pub fn risk_at(&self, time: i64, weights: &RiskWeights) -> f64 {
        let life = self.lives.iter().find(|l| l.first <= time && time <= l.last).or(self.lives.last());
        life.map_or(0.0, |l| l.risk(weights))
    }

    /// All lives as views; those without an event since `idle_before` are idle.
    pub fn views(&self, idle_before: i64, weights: &RiskWeights) -> Vec<SessionView> {
        self.lives
            .iter()
            .enumerate()
            .map(|(i, l)| self.view(l, i > 0 || self.resumed_before, idle_before, weights))
            .collect()
    }

    /// All lives count as changed.
    pub fn mark_changed(&mut self) {
        self.lives.iter_mut().for_each(|life| life.changed = true);
    }

    /// The lives that changed since the last call.
    pub fn changed(&mut self, idle_before: i64, weights: &RiskWeights) -> Vec<SessionView> {
        let mut views = self.views(idle_before, weights);
        let mut flags = self.lives.iter_mut().map(|l| std::mem::take(&mut l.changed));
        views.retain(|_| flags.next().unwrap_or(false));
        views
    }

    fn view(&self, life: &Life, resumed: bool, idle_before: i64, weights: &RiskWeights) -> SessionView {
        let (tenant, agent, session) = self.names();
        let flags = [(life.skewed, "clock_skew"), (self.id_conflict, "id_conflict")];
        SessionView {
            tenant_id: tenant.to_owned(),
            agent_id: agent.to_owned(),
            session_id: session.to_owned(),
            resumed,
            idle: life.last < idle_before,
            events: life.events,
            violations: life.violations,
            by_type: life.by_type,
            unique_targets: life.targets.count(),
            unique_targets_exact: life.targets.is_exact(),
            first_seen: life.first,
            last_seen: life.last,
            risk_score: life.risk(weights),
            open_alerts: 0,
            last_events: life.last_events(),
            flags: flags.iter().filter(|f| f.0).map(|f| f.1.to_owned()).collect(),
        }
    }
}

impl Life {
    fn risk(&self, weights: &RiskWeights) -> f64 {
        risk_score(weights, self.events, self.violations, self.targets.count(), self.first, self.last)
    }

    fn add(&mut self, head: &Head, shown: Option<&[u8]>) {
        self.events += 1;
        self.violations += u64::from(!head.allowed);
        self.by_type[head.event_type.index()] += 1;
        self.first = self.first.min(head.time);
        self.last = self.last.max(head.time);
        self.skewed |= head.skewed;
        self.changed = true;
        self.targets.add(head.target);
        if let Some(target) = shown {
            self.add_recent(Recent::new(head, target));
        }
    }

    /// Keeps the latest events, in any order: the earliest makes room.
    fn add_recent(&mut self, event: Recent) {
        if self.recent.len() < RECENT {
            if self.recent.capacity() == self.recent.len() {
                self.recent.reserve_exact(self.recent.len().clamp(1, RECENT - self.recent.len()));
            }
            self.recent.push(event);
        } else if let Some(earliest) = self.recent.iter_mut().min_by(|a, b| a.order(b))
            && earliest.order(&event).is_lt()
        {
            *earliest = event;
        }
    }

    fn last_events(&self) -> Vec<RecentEvent> {
        let mut recent: Vec<&Recent> = self.recent.iter().collect();
        recent.sort_by(|a, b| a.order(b));
        recent.into_iter().map(Recent::show).collect()
    }

    fn join(&mut self, next: Life) {
        self.events += next.events;
        self.violations += next.violations;
        for (sum, n) in self.by_type.iter_mut().zip(next.by_type) {
            *sum += n;
        }
        self.last = self.last.max(next.last);
        self.skewed |= next.skewed;
        self.changed = true;
        self.targets.join(next.targets);
        next.recent.into_iter().for_each(|e| self.add_recent(e));
    }
}

/// The first bytes of a target, cut at a character.
fn shorten(target: &[u8]) -> &[u8] {
    let mut end = target.len().min(RecentEvent::TARGET_BYTES);
    while end < target.len() && end > 0 && target[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    &target[..end]
}
