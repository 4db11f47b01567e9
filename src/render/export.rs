//! Export: on worker 0, everything that leaves the dataflow in an epoch, once the epoch is closed everywhere.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;

use clawdstrike_operators::epochs::{self, Epochs};
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};

use super::alerts::{Share, merge};
use super::detect::{AlertVersion, SessionChange};
use crate::alert::Alert;
use crate::view::Answer;

/// What an epoch changed, in the order (first_seen, alert_id) for alerts; of several versions in one epoch the last.
#[derive(Debug, Default)]
pub struct Exported {
    /// The epoch.
    pub epoch: u64,
    /// Versions of alerts.
    pub alerts: Vec<Alert>,
    /// Changes of sessions.
    pub sessions: Vec<SessionChange>,
}

/// What worker 0 hands to the world. The driver takes it out and stops giving epochs while much waits here.
#[derive(Default)]
pub struct Exports {
    /// Closed epochs that changed something.
    pub batches: VecDeque<Exported>,
    /// Answers by question.
    pub answers: HashMap<u64, Answer>,
}

/// What comes in for an epoch.
#[derive(Default)]
struct Arrived {
    alerts: Vec<AlertVersion>,
    sessions: Vec<SessionChange>,
    shares: Vec<Share>,
}

/// How far it has come, and nothing else.
const OUTPUTS: usize = 1;

/// Builds the export; worker 0 fills `exports`.
pub fn export<'scope>(
    scope: Scope<'scope, u64>,
    alerts: StreamVec<'scope, u64, AlertVersion>,
    sessions: StreamVec<'scope, u64, SessionChange>,
    shares: StreamVec<'scope, u64, Share>,
    exports: Rc<RefCell<Exports>>,
) -> StreamVec<'scope, u64, ()> {
    let mut builder = OperatorBuilder::new("Export".to_owned(), scope);
    let mut alerts = builder.new_input(alerts, Exchange::new(|_: &AlertVersion| 0));
    let mut sessions = builder.new_input(sessions, Exchange::new(|_: &SessionChange| 0));
    let mut shares = builder.new_input(shares, Exchange::new(|_: &Share| 0));
    let (_out, done) = builder.new_output::<Vec<()>>();
    builder.build(move |capabilities| {
        drop(capabilities);
        // Until an epoch has been handed over it isn't closed for the driver: it would acknowledge too much, or end too early.
        let mut epochs: Epochs<Arrived> = Epochs::default();
        move |frontiers| {
            alerts.for_each(|cap, data| {
                if let Some(epoch) = epochs.arrived(&cap, OUTPUTS) {
                    epoch.alerts.append(data);
                }
            });
            sessions.for_each(|cap, data| {
                if let Some(epoch) = epochs.arrived(&cap, OUTPUTS) {
                    epoch.sessions.append(data);
                }
            });
            shares.for_each(|cap, data| {
                if let Some(epoch) = epochs.arrived(&cap, OUTPUTS) {
                    epoch.shares.append(data);
                }
            });
            while let Some((epoch, _caps, arrived)) = epochs.next_closed(epochs::least(frontiers)) {
                let mut exports = exports.borrow_mut();
                let batch = Exported { epoch, alerts: latest(arrived.alerts), sessions: arrived.sessions };
                if !batch.alerts.is_empty() || !batch.sessions.is_empty() {
                    exports.batches.push_back(batch);
                }
                let mut by_question: BTreeMap<u64, Vec<Share>> = BTreeMap::new();
                for share in arrived.shares {
                    by_question.entry(share.id).or_default().push(share);
                }
                for (id, shares) in by_question {
                    if let Some((total, rows)) = merge(shares) {
                        exports.answers.insert(id, Answer { epoch, total, rows });
                    }
                }
            }
        }
    });
    done
}

/// Of each alert the last version; by (first_seen, alert_id).
fn latest(versions: Vec<AlertVersion>) -> Vec<Alert> {
    let mut by_id: BTreeMap<String, Alert> = BTreeMap::new();
    for version in versions.into_iter().map(|v| v.alert) {
        match by_id.get_mut(&version.alert_id) {
            Some(known) if known.revision > version.revision => {}
            Some(known) => *known = version,
            None => {
                by_id.insert(version.alert_id.clone(), version);
            }
        }
    }
    let mut out: Vec<Alert> = by_id.into_values().collect();
    out.sort_by(|a, b| (a.first_seen, &a.alert_id).cmp(&(b.first_seen, &b.alert_id)));
    out
}
