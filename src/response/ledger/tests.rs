//! The table by itself: random histories with crashes, and what only time brings about.

mod safety;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use clawdstrike_rules::plan::{Action, ActionKind};
use proptest::prelude::*;

use super::policy::{HOUR, Policy};
use super::table::{Go, Item, Outcome, Table};
use super::{Decision, Entry, Filter, State};
use crate::alert::{Alert, Status};
use crate::config;
use crate::hex;
use crate::response::request::{Destination, RETRACTION, idempotency_key};

const ACTIONS: [ActionKind; 4] =
    [ActionKind::AlertSoc, ActionKind::TerminateSession, ActionKind::QuarantineAgent, ActionKind::Alert];
const RECEIVERS: [Destination; 2] = [Destination::SocWebhook, Destination::AgentControl];

fn policy() -> Policy {
    let config = config::Response {
        max_actions_per_hour: 1_000_000,
        max_actions_per_agent_per_hour: 1_000_000,
        max_quarantined_percent: 100,
        ..config::Response::default()
    };
    Policy::new(&config, RECEIVERS, Duration::from_secs(3_600)).expect("a policy")
}

fn alert(id: usize, status: Status) -> Alert {
    Alert {
        alert_id: format!("a{id}"),
        status,
        actions: ACTIONS.map(|kind| Action { kind, params: Default::default() }).to_vec(),
        ..Alert::sample()
    }
}

fn key(id: &str, kind: ActionKind) -> String {
    hex::encode(idempotency_key(id, kind.name(), b"{}"))
}

/// In a transaction of its own.
fn within<T>(table: &mut Table, work: impl FnOnce(&mut Table) -> rusqlite::Result<T>) -> T {
    table.begin_transaction(false).expect("a transaction");
    let value = work(table).expect("a change");
    table.commit().expect("a commit");
    value
}

fn all(table: &Table) -> Vec<Entry> {
    table.list(&Filter::default(), 10_000, None).expect("rows").1.into_iter().map(|(_, entry)| entry).collect()
}

/// What happens.
#[derive(Clone, Debug)]
enum Step {
    /// An alert, with a new version: open, updated, retracted, superseded, a version that runs nothing.
    Version(usize, u8),
    /// A receiver takes the next of its queue, if it may.
    Send(usize),
    /// What is under way is answered: taken, later, never, and whether that comes to be noted.
    Answer(usize, u8),
    /// The process is killed, maybe within a transaction that writes down the latest version; the next one hears so many of
    /// the versions again.
    Crash { torn: bool, replayed: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4usize, 0..6u8).prop_map(|(alert, what)| Step::Version(alert, what)),
        4 => (0..2usize).prop_map(Step::Send),
        4 => (0..8usize, 0..4u8).prop_map(|(which, how)| Step::Answer(which, how)),
        1 => (any::<bool>(), 0..6usize).prop_map(|(torn, replayed)| Step::Crash { torn, replayed }),
    ]
}

/// The engine around the table, as far as it matters, and two receivers that remember.
struct World<'a> {
    path: &'a Path,
    table: Option<Table>,
    policy: Policy,
    versions: Vec<Alert>,
    /// Keys under way.
    flying: Vec<Item>,
    cursors: [i64; 2],
    /// Every request that was sent.
    sent: Vec<String>,
    /// What the ledger has noted as taken.
    noted: BTreeSet<String>,
    now: i64,
}

impl World<'_> {
    fn table(&mut self) -> &mut Table {
        self.table.as_mut().expect("an open table")
    }

    fn record(&mut self, alert: &Alert) {
        let (policy, now) = (self.policy.clone(), self.now);
        within(self.table(), |table| table.record(alert, &policy, now));
    }

    fn take(&mut self, step: &Step) {
        self.now += 1_000;
        match step {
            Step::Version(id, what) => {
                let status = match what {
                    0 | 1 => Status::Open,
                    2 => Status::Updated,
                    3 | 4 => Status::Retracted,
                    _ => Status::Acknowledged,
                };
                let mut alert = alert(*id, status);
                alert.superseded_by = (*what == 4).then(|| "heir".to_owned());
                self.versions.push(alert.clone());
                self.record(&alert);
            }
            Step::Send(to) => self.send(*to),
            Step::Answer(which, how) => {
                if !self.flying.is_empty() {
                    let item = self.flying.remove(which % self.flying.len());
                    self.answer(&item, *how);
                }
            }
            Step::Crash { torn, replayed } => {
                if let Some(latest) = self.versions.last().cloned().filter(|_| *torn) {
                    let (policy, now) = (self.policy.clone(), self.now);
                    let table = self.table();
                    table.begin_transaction(false).expect("a transaction");
                    table.record(&latest, &policy, now).expect("a change");
                }
                self.table = None;
                self.flying.clear();
                self.cursors = [0; 2];
                self.table = Some(Table::open(self.path).expect("the ledger"));
                let again = self.versions[self.versions.len().saturating_sub(*replayed)..].to_vec();
                for version in &again {
                    self.record(version);
                }
            }
        }
    }

    fn send(&mut self, to: usize) {
        let (cursor, now) = (self.cursors[to], self.now);
        let items = within(self.table(), |table| table.queue(RECEIVERS[to], cursor, 1));
        let Some(item) = items.into_iter().next() else {
            self.cursors[to] = 0;
            return;
        };
        self.cursors[to] = item.turn;
        // One attempt of an alert is under way at a time.
        if self.flying.iter().any(|other| other.alert_id == item.alert_id) {
            return;
        }
        if let Go::Send(work) = within(self.table(), |table| table.go(&item, now)) {
            assert!(!self.noted.contains(&item.key), "what was taken is sent again: {work:?}");
            if work.action.is_none() {
                let opening = key(&item.alert_id, ActionKind::AlertSoc);
                assert!(self.noted.contains(&opening), "a retraction goes before its alert");
            }
            self.sent.push(item.key.clone());
            self.flying.push(item);
        }
    }

    fn answer(&mut self, item: &Item, how: u8) {
        let outcome = match how {
            0 | 1 => Outcome::Taken,
            2 => Outcome::Later("it answered 503".into()),
            _ => Outcome::Refused("it answered 400".into()),
        };
        let now = self.now;
        within(self.table(), |table| table.attempted(&item.key, &outcome, now));
        if matches!(outcome, Outcome::Taken) {
            self.noted.insert(item.key.clone());
        }
    }

    /// Everything that is to be sent is, and taken.
    fn settle(&mut self) {
        for _ in 0..200 {
            for item in std::mem::take(&mut self.flying) {
                self.answer(&item, 0);
            }
            self.send(0);
            self.send(1);
        }
    }

    fn judge(&mut self) {
        let rows: BTreeMap<String, Entry> = all(self.table()).into_iter().map(|row| (row.key.clone(), row)).collect();
        let mut expected = BTreeSet::new();
        for id in 0..4 {
            let id = format!("a{id}");
            let versions: Vec<&Alert> = self.versions.iter().filter(|alert| alert.alert_id == id).collect();
            let opened = versions.iter().any(|alert| alert.status != Status::Retracted);
            let holds = versions.last().is_some_and(|alert| alert.status != Status::Retracted);
            if !opened {
                continue;
            }
            expected.extend(ACTIONS.map(|kind| key(&id, kind)));
            for kind in ACTIONS {
                let row = rows.get(&key(&id, kind)).unwrap_or_else(|| panic!("{kind:?} of {id} has no row"));
                let ended = matches!(row.state, State::Acknowledged | State::Failed);
                assert!(ended || (!holds && row.state == State::Cancelled), "{row:?}");
                if ended && kind != ActionKind::Alert {
                    assert!(self.sent.contains(&row.key), "noted and never sent: {row:?}");
                }
            }
            let retraction = hex::encode(idempotency_key(&id, RETRACTION, b""));
            if versions.iter().any(|alert| alert.status == Status::Retracted) {
                expected.insert(retraction.clone());
            }
            let told = self.sent.contains(&key(&id, ActionKind::AlertSoc));
            assert!(told || !self.sent.contains(&retraction), "the SOC hears of the end of what it never heard of");
        }
        let keys: BTreeSet<String> = rows.into_keys().collect();
        assert!(keys.is_subset(&expected), "rows that nobody asked for");
        assert!(self.sent.iter().all(|key| keys.contains(key)), "requests without a row");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_action_of_every_alert_is_carried_out_with_one_key_whatever_happens(
        steps in proptest::collection::vec(step(), 1..60)
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger.sqlite");
        let mut world = World {
            path: &path,
            table: Some(Table::open(&path).expect("a ledger")),
            policy: policy(),
            versions: Vec::new(),
            flying: Vec::new(),
            cursors: [0; 2],
            sent: Vec::new(),
            noted: BTreeSet::new(),
            now: 1,
        };
        for step in &steps {
            world.take(step);
        }
        world.settle();
        world.judge();
    }
}

fn open(folder: &tempfile::TempDir) -> Table {
    Table::open(&folder.path().join("ledger.sqlite")).expect("a ledger")
}

#[test]
fn what_nobody_approves_expires() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut table = open(&folder);
    let config = config::Response { requires_approval: vec![ActionKind::QuarantineAgent], ..Default::default() };
    let policy = Policy::new(&config, RECEIVERS, Duration::from_secs(3_600)).expect("a policy");
    let mut alert = alert(1, Status::Open);
    alert.actions.retain(|action| action.kind == ActionKind::QuarantineAgent);
    within(&mut table, |table| table.record(&alert, &policy, 1));
    let day = 24 * HOUR;
    assert_eq!(within(&mut table, |table| table.tidy(&policy, day)), 0);
    assert_eq!(within(&mut table, |table| table.tidy(&policy, day + 1)), 1);
    assert_eq!(all(&table)[0].state, State::Expired);
    let key = all(&table)[0].key.clone();
    let refused = within(&mut table, |table| table.decide(&key, Decision::Approve, "ann", &policy, day + 2));
    assert!(refused.is_err());
    // The alert goes on, and the row stays what it is.
    within(&mut table, |table| table.record(&alert, &policy, day + 3));
    assert_eq!(all(&table)[0].state, State::Expired);
}

#[test]
fn old_rows_go_once_their_alert_is_quiet_and_nothing_is_to_be_done() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut table, policy) = (open(&folder), policy());
    let keep = 30 * 24 * HOUR;
    within(&mut table, |table| table.record(&alert(1, Status::Open), &policy, 1));
    within(&mut table, |table| table.tidy(&policy, 10 * keep));
    let kinds = |table: &Table| all(table).into_iter().map(|row| row.action).collect::<BTreeSet<_>>();
    // The log's line is done, the others are still to be sent.
    assert_eq!(kinds(&table), BTreeSet::from(["alert_soc", "quarantine_agent", "terminate_session"].map(String::from)));
    for kind in ACTIONS {
        within(&mut table, |table| table.attempted(&key("a1", kind), &Outcome::Taken, 2));
    }
    // It goes on: its rows are remembered.
    within(&mut table, |table| table.record(&alert(1, Status::Updated), &policy, keep / 2));
    within(&mut table, |table| table.tidy(&policy, keep + 1));
    assert_eq!(all(&table).len(), 4);
    within(&mut table, |table| table.tidy(&policy, 2 * keep));
    assert_eq!(all(&table).len(), 0);
}

#[test]
fn a_cap_is_free_again_after_an_hour() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut table = open(&folder);
    let config = config::Response { max_actions_per_agent_per_hour: 2, ..Default::default() };
    let policy = Policy::new(&config, RECEIVERS, Duration::from_secs(3_600)).expect("a policy");
    let mut at = |id: usize, now: i64| {
        let decided = within(&mut table, |table| table.record(&alert(id, Status::Open), &policy, now));
        decided.iter().filter(|decided| decided.verdict.state() == State::Waiting).count()
    };
    assert_eq!(at(1, HOUR), 0);
    assert_eq!(at(2, 2 * HOUR - 1), 2);
    assert_eq!(at(3, 2 * HOUR), 0);
}

#[test]
fn a_ledger_of_a_later_version_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ledger.sqlite");
    let table = Table::open(&path).expect("a ledger");
    table.db.pragma_update(None, "user_version", 99).expect("a version");
    drop(table);
    let error = Table::open(&path).err().expect("an error");
    assert!(error.contains("later version"), "{error}");
}
