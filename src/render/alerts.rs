//! The alerts view: on the worker that owns an alert's session, the latest version of each alert. It adds what only that
//! worker knows (the session's risk), answers questions about alerts, and completes those about sessions.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::rc::Rc;

use clawdstrike_operators::epochs::{self, Epochs};
use clawdstrike_rules::plan::{OnRemoval, RuleSet};
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};

use super::control::Command;
use super::detect::{AlertVersion, Origin, Part, Shared};
use super::key::Hasher;
use super::reallow::Judge;
use super::settings::Settings;
use crate::alert::{Alert, Deed, Handling, Note, Reason, Status};
use crate::frame::{self, Kind};
use crate::spool::Spool;
use crate::view::{AgentView, Held, Place, Query, Ranked, Rows, StateView, Top};
use crate::wall_clock;

/// One worker's whole part of an answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Share {
    /// Which question.
    pub id: u64,
    /// The question.
    pub query: Query,
    /// How many rows of it pass the filter.
    pub total: u64,
    /// The rows.
    #[serde(with = "super::json")]
    pub rows: Rows,
}

/// The streams that leave the view.
pub struct Viewed<'scope> {
    /// Versions of alerts, complete.
    pub alerts: StreamVec<'scope, u64, AlertVersion>,
    /// Shares of answers.
    pub shares: StreamVec<'scope, u64, Share>,
}

struct Kept {
    session: u128,
    alert: Alert,
}

/// What comes in for an epoch.
#[derive(Default)]
struct Arrived {
    versions: Vec<AlertVersion>,
    parts: Vec<Part>,
    commands: Vec<Command>,
}

/// Who closes alerts when their rule goes.
const ENGINE: &str = "clawdstrike-edr";
/// A piece of frames is full at so many bytes.
const PIECE: usize = 1 << 20;
/// Alerts, shares.
const OUTPUTS: usize = 2;

struct View {
    settings: Settings,
    shared: Shared,
    alerts: HashMap<String, Kept>,
    oldest: BTreeSet<(i64, String)>,
    open: HashMap<u128, u64>,
    /// Until the cluster has read again what a killed run had read: alerts that left the view.
    left: Option<HashSet<String>>,
    /// Until then too: what analysts had done with alerts that may come.
    handled: HashMap<String, Handling>,
    /// The set in force.
    set: RuleSet,
    from_ingest: FromIngest,
    spool: Option<Rc<RefCell<Spool>>>,
    /// Frames of what changed since the last cut.
    frames: Vec<u8>,
}

/// What the view is given.
pub struct Inputs<'scope> {
    /// Versions of alerts.
    pub versions: StreamVec<'scope, u64, AlertVersion>,
    /// What detection knows of answers.
    pub parts: StreamVec<'scope, u64, Part>,
    /// Commands, to all.
    pub commands: StreamVec<'scope, u64, Command>,
}

/// What the worker's ingest tells.
#[derive(Default)]
pub struct FromIngest {
    /// Hits that it has sent so far.
    pub hits: Rc<Cell<u64>>,
    /// What its classifier remembers, as of when that was last asked.
    pub known: Rc<Cell<Held>>,
}

/// Builds the view on this worker.
pub fn view<'scope>(
    scope: Scope<'scope, u64>,
    inputs: Inputs<'scope>,
    settings: &Settings,
    shared: Shared,
    from_ingest: FromIngest,
    spool: Option<Rc<RefCell<Spool>>>,
) -> Viewed<'scope> {
    type Builder<D> = CapacityContainerBuilder<Vec<D>>;
    let mut builder = OperatorBuilder::new("Alerts".to_owned(), scope);
    let mut versions = builder.new_input(inputs.versions, Exchange::new(|v: &AlertVersion| (v.session >> 64) as u64));
    let mut parts = builder.new_input(inputs.parts, Pipeline);
    let mut commands = builder.new_input(inputs.commands, Pipeline);
    let (alerts_out, alerts) = builder.new_output::<Vec<AlertVersion>>();
    let (shares_out, shares) = builder.new_output::<Vec<Share>>();
    let mut alerts_out = OutputBuilder::<_, Builder<AlertVersion>>::from(alerts_out);
    let mut shares_out = OutputBuilder::<_, Builder<Share>>::from(shares_out);
    let mut view = View {
        settings: settings.clone(),
        shared,
        alerts: HashMap::new(),
        oldest: BTreeSet::new(),
        open: HashMap::new(),
        left: spool.is_some().then(HashSet::new),
        handled: HashMap::new(),
        set: RuleSet::default(),
        from_ingest,
        spool,
        frames: Vec::new(),
    };
    builder.build(move |capabilities| {
        drop(capabilities);
        let mut epochs: Epochs<Arrived> = Epochs::default();
        move |frontiers| {
            versions.for_each(|cap, data| {
                if let Some(epoch) = epochs.arrived(&cap, OUTPUTS) {
                    epoch.versions.append(data);
                }
            });
            parts.for_each(|cap, data| {
                if let Some(epoch) = epochs.arrived(&cap, OUTPUTS) {
                    epoch.parts.append(data);
                }
            });
            commands.for_each(|cap, data| {
                if let Some(epoch) = epochs.arrived(&cap, OUTPUTS) {
                    epoch.commands.append(data);
                }
            });
            while let Some((epoch, caps, arrived)) = epochs.next_closed(epochs::least(frontiers)) {
                let changed: Vec<AlertVersion> =
                    arrived.versions.into_iter().filter_map(|v| view.take(epoch, v)).collect();
                let mut alerts_out = alerts_out.activate();
                alerts_out.session(&caps[0]).give_iterator(changed.into_iter());
                let shares: Vec<Share> = arrived.parts.into_iter().map(|p| view.complete(p)).collect();
                let mut out = shares_out.activate();
                out.session(&caps[1]).give_iterator(shares.into_iter());
                for command in arrived.commands {
                    match command {
                        Command::Rules(switch) => {
                            let before = std::mem::replace(&mut view.set, switch.set);
                            // By the same allowlist alerts have been judged.
                            let judge = (before.allowlist != view.set.allowlist).then(|| view.judge()).flatten();
                            alerts_out.session(&caps[0]).give_iterator(view.follow_rules(epoch, judge).into_iter());
                        }
                        // What a checkpoint kept has come by now.
                        Command::Live => {
                            let judge = view.judge();
                            alerts_out.session(&caps[0]).give_iterator(view.follow_rules(epoch, judge).into_iter());
                        }
                        Command::Checkpoint => view.cut(epoch),
                        Command::Reconcile(suspects) => {
                            let told = view.reconcile(epoch, suspects.alerts);
                            alerts_out.session(&caps[0]).give_iterator(told.into_iter());
                        }
                        Command::Handle(handled) => {
                            let told: Vec<_> =
                                handled.into_iter().filter_map(|(id, h)| view.handle(epoch, id, h)).collect();
                            alerts_out.session(&caps[0]).give_iterator(told.into_iter());
                        }
                        _ => {}
                    }
                }
            }
        }
    });
    Viewed { alerts, shares }
}

impl View {
    /// Takes a version into the view, with its session's risk; gives what the world doesn't know yet.
    fn take(&mut self, epoch: u64, version: AlertVersion) -> Option<AlertVersion> {
        let AlertVersion { session, mut alert, origin } = version;
        self.carry_on(&mut alert, origin);
        if origin == Origin::Made {
            let groups = self.shared.groups.borrow();
            let view = groups.get(session).and_then(|g| g.session.as_ref());
            alert.risk_score = view.map_or(alert.risk_score, |s| s.risk_at(alert.first_seen, &self.settings.risk));
            drop(groups);
            self.keep(epoch, session, &alert.alert_id, Some(&alert));
        }
        if let Some(old) = self.alerts.remove(&alert.alert_id) {
            self.forget(&old);
        }
        let kept = Kept { session, alert: alert.clone() };
        if alert.is_open() {
            *self.open.entry(session).or_default() += 1;
        }
        self.oldest.insert((alert.last_seen, alert.alert_id.clone()));
        self.alerts.insert(alert.alert_id.clone(), kept);
        while self.alerts.len() > self.settings.alerts_in_view
            && let Some((_, id)) = self.oldest.first().cloned()
        {
            if let Some(old) = self.alerts.remove(&id) {
                self.forget(&old);
                self.keep(epoch, old.session, &id, None);
                if let Some(left) = &mut self.left {
                    left.insert(id);
                }
            }
        }
        (origin != Origin::Kept { told: true }).then_some(AlertVersion { session, alert, origin })
    }

    /// Detection knows nothing of analysts: what they have done is carried from version to version.
    fn carry_on(&mut self, alert: &mut Alert, origin: Origin) {
        if let Some(handling) = self.handled.remove(&alert.alert_id) {
            alert.handling.join(handling);
        }
        if let Some(old) = self.alerts.get(&alert.alert_id).map(|kept| &kept.alert) {
            alert.handling.join(old.handling.clone());
            if origin == Origin::Made {
                // What an analyst did may have made a version of this very epoch.
                alert.revision = alert.revision.max(old.revision + 1);
            }
        }
        alert.status = alert.handling.status(alert.status, alert.match_count);
    }

    /// What an analyst has done with an alert makes a version of it. While an alert may still come, because what an earlier
    /// run had read is read again, it is kept for that.
    fn handle(&mut self, epoch: u64, id: String, mut handling: Handling) -> Option<AlertVersion> {
        let Some(kept) = self.alerts.get(&id) else {
            if self.left.is_some() {
                self.handled.entry(id).or_default().join(handling);
            }
            return None;
        };
        let (session, mut alert) = (kept.session, kept.alert.clone());
        handling.made_at(alert.match_count);
        alert.handling.join(handling);
        if alert.status != Status::Retracted {
            alert.status = if alert.match_count > 1 { Status::Updated } else { Status::Open };
        }
        alert.revision = epoch;
        self.take(epoch, AlertVersion { session, alert, origin: Origin::Made })
    }

    /// Open alerts say whether their rule has gone, and become then what it wanted; those whose proof `judge` says the allowlist
    /// takes out are retracted. (Where more matches can join them, detection has retracted them.)
    fn follow_rules(&mut self, epoch: u64, mut judge: Option<Judge>) -> Vec<AlertVersion> {
        let rules: HashSet<&str> = self.set.rules.iter().map(|rule| rule.id.as_str()).collect();
        let mut told = Vec::new();
        for Kept { session, alert } in self.alerts.values().filter(|kept| kept.alert.is_open()) {
            let removed = !rules.contains(alert.rule_id.as_str());
            let taken_out = judge.as_mut().is_some_and(|judge| judge.takes_out(alert));
            if !taken_out && removed == alert.rule_removed {
                continue;
            }
            let mut alert = Alert { rule_removed: removed, revision: epoch, ..alert.clone() };
            match alert.on_removal {
                _ if taken_out => alert.retract(Reason::Allowlisted, epoch),
                OnRemoval::Retract if removed => alert.retract(Reason::RuleRemoved, epoch),
                OnRemoval::Close if removed => {
                    let (by, comment) = (ENGINE.to_owned(), "its rule was removed".to_owned());
                    let note =
                        Note { at: wall_clock::now(), by, deed: Deed::Close, comment, matches: alert.match_count };
                    alert.handling.join(Handling::of(note));
                }
                _ => {}
            }
            told.push(AlertVersion { session: *session, alert, origin: Origin::Made });
        }
        told.into_iter().filter_map(|version| self.take(epoch, version)).collect()
    }

    fn judge(&self) -> Option<Judge> {
        if self.set.allowlist.is_empty() {
            return None;
        }
        let entries = (0..).zip(self.set.allowlist.iter().cloned()).collect();
        Judge::new(entries, self.set.rules.iter(), &self.shared, &self.settings)
    }

    /// Puts aside a version, or that an alert has left the view. The key goes where the session's goes.
    fn keep(&mut self, epoch: u64, session: u128, id: &str, alert: Option<&Alert>) {
        if self.spool.is_none() {
            return;
        }
        let low = self.shared.hasher.borrow().as_ref().map_or(0, |hasher| hasher.narrow(id.as_bytes()));
        write_kept(&mut self.frames, epoch, session, low, alert);
    }

    /// The view is at the cut, after the others of its worker.
    fn cut(&mut self, epoch: u64) {
        if let Some(spool) = &self.spool {
            spool.borrow_mut().finish(epoch, &mut self.frames);
        }
    }

    /// Alerts that a killed run had told of: as they are now, or retracted. Those that have left the view meanwhile were told
    /// of by this run.
    fn reconcile(&mut self, epoch: u64, told: Vec<Alert>) -> Vec<AlertVersion> {
        let left = self.left.take().unwrap_or_default();
        self.handled.clear();
        let told = told.into_iter().filter(|alert| !left.contains(&alert.alert_id));
        let mut judge = self.judge();
        told.filter_map(|alert| self.as_it_stands(epoch, alert, judge.as_mut())).collect()
    }

    /// `None`: another worker's.
    fn as_it_stands(&mut self, epoch: u64, told: Alert, judge: Option<&mut Judge>) -> Option<AlertVersion> {
        let session = self.shared.own_session(&told.tenant_id, &told.agent_id, &told.session_id)?;
        let revision = epoch.max(told.revision + 1);
        let alert = match self.alerts.get(&told.alert_id) {
            Some(kept) => Alert { revision, ..kept.alert.clone() },
            None => {
                let mut told = told;
                let taken_out = judge.is_some_and(|judge| judge.takes_out(&told));
                told.retract(if taken_out { Reason::Allowlisted } else { Reason::NotFoundAgain }, revision);
                told
            }
        };
        self.take(epoch, AlertVersion { session, alert, origin: Origin::Made })
    }

    fn forget(&mut self, old: &Kept) {
        self.oldest.remove(&(old.alert.last_seen, old.alert.alert_id.clone()));
        if old.alert.is_open()
            && let Some(n) = self.open.get_mut(&old.session)
        {
            *n -= 1;
            if *n == 0 {
                self.open.remove(&old.session);
            }
        }
    }

    fn complete(&self, part: Part) -> Share {
        let Part { id, query, sessions, agents, total } = part;
        let (total, rows) = match &query {
            Query::Sessions { .. } | Query::SessionsById(_) => {
                let with_alerts = sessions.into_iter().map(|(key, mut view)| {
                    view.open_alerts = self.open.get(&key).copied().unwrap_or_default();
                    view
                });
                (total, Rows::Sessions(with_alerts.collect()))
            }
            Query::Alerts { filter, sort, limit, after } => {
                let mut top: Top<&Alert> = Top::new(*sort, after.clone(), *limit);
                self.alerts.values().map(|k| &k.alert).filter(|a| filter.accepts(a)).for_each(|a| top.offer(a));
                (top.total(), Rows::Alerts(top.into_rows().into_iter().cloned().collect()))
            }
            Query::Alert(id) => {
                let found: Vec<Alert> = self.alerts.get(id).map(|k| k.alert.clone()).into_iter().collect();
                (found.len() as u64, Rows::Alerts(found))
            }
            Query::State => (0, Rows::State(self.state())),
            Query::Agents { .. } => (agents.len() as u64, Rows::Agents(self.count_alerts(agents))),
        };
        Share { id, query, total, rows }
    }

    /// What this worker holds. Groups may have come further than the epoch.
    fn state(&self) -> StateView {
        let groups = self.shared.groups.borrow();
        let mut state = StateView {
            hits: self.from_ingest.hits.get(),
            classifier: self.from_ingest.known.get(),
            ended: groups.ended(),
            spool: self.spool.as_ref().map(|spool| spool.borrow().held()).unwrap_or_default(),
            ..StateView::default()
        };
        for (_, group) in groups.iter() {
            state.groups += Held::of(1, group.held);
        }
        for Kept { alert, .. } in self.alerts.values() {
            let evidence = alert.evidence.iter().map(|e| size_of_val(e) + e.target.len() + e.id.len()).sum::<usize>();
            state.alerts += Held::of(1, size_of::<Kept>() + alert.trigger_event.len() + evidence);
        }
        state
    }

    fn count_alerts(&self, mut agents: Vec<AgentView>) -> Vec<AgentView> {
        let mut open: HashMap<(&str, &str), u64> = HashMap::new();
        for alert in self.alerts.values().map(|k| &k.alert).filter(|a| a.is_open()) {
            *open.entry((&alert.tenant_id, &alert.agent_id)).or_default() += 1;
        }
        for agent in &mut agents {
            agent.open_alerts += open.get(&(&*agent.tenant_id, &*agent.agent_id)).copied().unwrap_or_default();
        }
        agents
    }
}

/// The key goes where the session's goes. `None`: it has left the view.
fn write_kept(out: &mut Vec<u8>, epoch: u64, session: u128, low: u64, alert: Option<&Alert>) {
    let key = session >> 64 << 64 | u128::from(low);
    frame::write_with(out, Kind::Alert, key, epoch, i64::MAX, |out| {
        if let Some(alert) = alert {
            out.extend_from_slice(&session.to_le_bytes());
            // Texts and numbers: there is nothing in it that JSON can't say.
            out.extend(serde_json::to_vec(alert).unwrap_or_default());
        }
    });
}

/// Pieces of frames as a view puts them aside that has these alerts, in a cluster with this secret.
pub fn kept_alerts<'a>(secret: &[u8], alerts: impl Iterator<Item = &'a Alert>) -> Vec<Vec<u8>> {
    let hasher = Hasher::new(secret);
    let mut pieces = vec![Vec::new()];
    let mut scratch = Vec::new();
    for alert in alerts {
        let session = hasher.session(&alert.tenant_id, &alert.agent_id, &alert.session_id, &mut scratch);
        if pieces.last().is_some_and(|piece| piece.len() >= PIECE) {
            pieces.push(Vec::new());
        }
        if let Some(piece) = pieces.last_mut() {
            write_kept(piece, alert.revision, session, hasher.narrow(alert.alert_id.as_bytes()), Some(alert));
        }
    }
    pieces
}

/// Merges the shares of all workers into one answer's rows.
pub fn merge(shares: Vec<Share>) -> Option<(u64, Rows)> {
    let query = shares.first()?.query.clone();
    let mut total = shares.iter().map(|s| s.total).sum();
    let mut sessions = Vec::new();
    let mut alerts = Vec::new();
    let mut state = StateView::default();
    let mut agents: BTreeMap<(String, String), AgentView> = BTreeMap::new();
    for share in shares {
        match share.rows {
            Rows::Sessions(rows) => sessions.extend(rows),
            Rows::Alerts(rows) => alerts.extend(rows),
            Rows::Agents(rows) => rows.into_iter().for_each(|row| add_agent(&mut agents, row)),
            Rows::State(of_worker) => state += of_worker,
        }
    }
    let rows = match query {
        Query::Sessions { sort, limit, after, .. } => Rows::Sessions(first(sessions, sort, after, limit)),
        Query::SessionsById(_) => Rows::Sessions(sessions),
        Query::Alerts { sort, limit, after, .. } => Rows::Alerts(first(alerts, sort, after, limit)),
        Query::Alert(_) => Rows::Alerts(alerts),
        Query::State => Rows::State(state),
        Query::Agents { filter, sort, limit, after } => {
            let mut top = Top::new(sort, after, limit);
            agents.into_values().filter(|agent| filter.accepts(agent)).for_each(|agent| top.offer(agent));
            total = top.total();
            Rows::Agents(top.into_rows())
        }
    };
    Some((total, rows))
}

fn first<R: Ranked>(rows: Vec<R>, sort: R::Sort, after: Option<Place>, limit: usize) -> Vec<R> {
    let mut top = Top::new(sort, after, limit);
    rows.into_iter().for_each(|row| top.offer(row));
    top.into_rows()
}

fn add_agent(agents: &mut BTreeMap<(String, String), AgentView>, row: AgentView) {
    match agents.entry((row.tenant_id.clone(), row.agent_id.clone())) {
        std::collections::btree_map::Entry::Vacant(slot) => {
            slot.insert(row);
        }
        std::collections::btree_map::Entry::Occupied(mut slot) => {
            let sum = slot.get_mut();
            sum.sessions += row.sessions;
            sum.events += row.events;
            sum.violations += row.violations;
            sum.open_alerts += row.open_alerts;
            sum.max_risk = sum.max_risk.max(row.max_risk);
            sum.last_seen = sum.last_seen.max(row.last_seen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::groups::Groups;
    use super::*;
    use crate::config::Limits;

    fn view() -> View {
        let groups = Rc::new(RefCell::new(Groups::new()));
        let shared = Shared { place: (0, 1), groups, totals: Rc::default(), hasher: Rc::default() };
        View {
            settings: Settings::new(&Limits::default(), Vec::new()),
            shared,
            alerts: HashMap::new(),
            oldest: BTreeSet::new(),
            open: HashMap::new(),
            left: Some(HashSet::new()),
            handled: HashMap::new(),
            set: RuleSet::default(),
            from_ingest: FromIngest::default(),
            spool: None,
            frames: Vec::new(),
        }
    }

    /// A version as detection makes it.
    fn version(revision: u64, status: Status, match_count: u64) -> AlertVersion {
        let json = serde_json::json!({"alert_id": "x", "revision": revision, "rule_id": "R", "rule_name": "n",
            "rule_version": "v", "severity": "low", "status": status, "superseded_by": null, "tenant_id": "",
            "group": [], "agent_id": "a", "session_id": "s", "first_seen": 1, "last_seen": 1,
            "match_count": match_count, "risk_score": 0.0, "evidence": [], "attack": [], "actions": [],
            "run_actions": true, "shadow": false, "trigger_event": "{}"});
        let alert = serde_json::from_value(json).expect("an alert of before there was handling");
        AlertVersion { session: 7, alert, origin: Origin::Made }
    }

    fn did(at: i64, deed: Deed) -> Handling {
        Handling::of(Note { at, by: "ann".into(), deed, comment: String::new(), matches: 0 })
    }

    fn told(version: Option<AlertVersion>) -> (Status, u64, usize) {
        let alert = version.expect("a version").alert;
        (alert.status, alert.revision, alert.handling.notes().len())
    }

    #[test]
    fn what_analysts_did_is_carried_from_version_to_version() {
        let mut view = view();
        assert_eq!(told(view.take(10, version(10, Status::Open, 1))), (Status::Open, 10, 0));
        assert_eq!(told(view.handle(10, "x".into(), did(1, Deed::Acknowledge))), (Status::Acknowledged, 11, 1));
        // The next epoch is no later than the version that the note made: a store must not take them for the same one.
        assert_eq!(told(view.take(11, version(11, Status::Updated, 2))), (Status::Acknowledged, 12, 1));
        assert_eq!(told(view.handle(20, "x".into(), did(2, Deed::Close))), (Status::Closed, 20, 2));
        assert_eq!(view.open.get(&7), None);
        assert_eq!(told(view.handle(21, "x".into(), did(3, Deed::Comment))), (Status::Closed, 21, 3));
        // A match after it was closed opens it again.
        assert_eq!(told(view.take(30, version(30, Status::Updated, 3))), (Status::Updated, 30, 3));
        assert_eq!(view.open.get(&7), Some(&1));
        assert_eq!(told(view.take(31, version(31, Status::Retracted, 3))), (Status::Retracted, 31, 3));
        assert_eq!(told(view.handle(32, "x".into(), did(4, Deed::Acknowledge))), (Status::Retracted, 32, 4));
        assert!(view.handle(33, "y".into(), did(5, Deed::Close)).is_none());
    }

    #[test]
    fn what_analysts_did_before_a_restart_waits_for_the_alert() {
        let mut view = view();
        let mut before = did(1, Deed::Close);
        before.made_at(2);
        assert!(view.handle(1, "x".into(), before).is_none());
        // Read again, the alert has as many matches as when it was closed only in the end.
        assert_eq!(told(view.take(10, version(10, Status::Open, 1))), (Status::Closed, 10, 1));
        assert_eq!(told(view.take(11, version(11, Status::Updated, 2))), (Status::Closed, 11, 1));
        assert_eq!(told(view.take(12, version(12, Status::Updated, 3))), (Status::Updated, 12, 1));
        view.reconcile(13, Vec::new());
        assert!(view.handled.is_empty());
    }

    #[test]
    fn an_alert_keeps_the_latest_notes_and_each_once() {
        let mut handling = Handling::default();
        for at in 0..150 {
            handling.join(did(at, Deed::Comment));
            handling.join(did(at, Deed::Comment));
        }
        assert_eq!(handling.notes().len(), Handling::NOTES);
        assert_eq!(handling.notes().first().map(|n| n.at), Some(50));
    }
}
