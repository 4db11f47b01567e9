//! What alerts asked for and what came of it: the ledger and the receiver beside the alerts that hold. Knows no fault.
//!
//! Which alerts there were on the way depends on what was read when; so an action may also be of an alert that was retracted, if
//! it says so. An alert that took the place of another one has that one's actions, or its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use anyhow::Context as _;
use clawdstrike_agent_control::{Deed, Received};
use clawdstrike_rules::plan::RuleSet;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use crate::database::Stored;

/// Differences that a failure shows.
const SHOWN: usize = 10;

/// A row of the ledger.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    key: String,
    alert_id: String,
    agent_id: String,
    session_id: String,
    action: String,
    params: String,
    receiver: Option<String>,
    state: String,
    retracted: bool,
    superseded_by: Option<String>,
}

/// The ledger of an engine that has ended.
///
/// # Errors
/// It can't be read.
pub(crate) fn ledger(state: &Path) -> anyhow::Result<Vec<Row>> {
    let path = state.join("ledger.sqlite");
    let read = || {
        let db = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let sql = "SELECT key, alert_id, agent_id, session_id, action, params, receiver, state, alert_retracted, superseded_by FROM actions";
        let mut rows = db.prepare(sql)?;
        let row = |row: &rusqlite::Row<'_>| {
            Ok(Row {
                key: row.get(0)?,
                alert_id: row.get(1)?,
                agent_id: row.get(2)?,
                session_id: row.get(3)?,
                action: row.get(4)?,
                params: row.get(5)?,
                receiver: row.get(6)?,
                state: row.get(7)?,
                retracted: row.get(8)?,
                superseded_by: row.get(9)?,
            })
        };
        rows.query_map([], row)?.collect::<rusqlite::Result<Vec<Row>>>()
    };
    read().with_context(|| format!("ledger \"{}\"", path.display()))
}

/// What is wrong with the actions; empty: nothing.
pub(crate) fn differences(
    rules: &RuleSet,
    stored: &Stored,
    ledger: &[Row],
    received: &[Received],
    deeds: &[Deed],
) -> String {
    let mut wrong = asked(rules, stored, ledger);
    wrong.extend(done(ledger, received, deeds));
    let more = wrong.len().saturating_sub(SHOWN);
    let told = wrong.into_iter().take(SHOWN).map(|text| format!("action: {text}\n"));
    told.chain((more > 0).then(|| format!("and {more} more of actions\n"))).collect()
}

/// The ledger against the alerts.
fn asked(rules: &RuleSet, stored: &Stored, ledger: &[Row]) -> Vec<String> {
    let text = |alert: &Value, name: &str| alert[name].as_str().unwrap_or_default().to_owned();
    let heir: HashMap<String, Option<String>> = stored
        .retracted
        .iter()
        .map(|alert| (text(alert, "alert_id"), alert["superseded_by"].as_str().map(str::to_owned)))
        .collect();
    let holding: BTreeMap<String, &Value> =
        stored.alerts.iter().map(|alert| (text(alert, "alert_id"), alert)).collect();
    let mut wrong = Vec::new();
    let mut has: BTreeMap<String, BTreeSet<(&str, &str)>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for row in ledger {
        if !seen.insert((&row.alert_id, &row.action, &row.params)) {
            wrong.push(format!("it has two keys: {row:?}"));
        }
        let holds = holding.contains_key(&row.alert_id);
        if !holds && !heir.contains_key(&row.alert_id) {
            wrong.push(format!("there never was such an alert: {row:?}"));
        }
        if holds == (row.retracted || row.superseded_by.is_some()) && row.action != "retraction" {
            wrong.push(format!("its alert {}: {row:?}", if holds { "holds" } else { "was retracted" }));
        }
        if let Some(last) = last(&row.alert_id, &heir).filter(|_| row.action != "retraction") {
            has.entry(last).or_default().insert((&row.action, &row.params));
        }
    }
    for (id, alert) in &holding {
        let Some(rule) = rules.rules.iter().find(|rule| alert["rule_id"] == rule.id.as_str()) else { continue };
        let wanted: BTreeSet<(&str, String)> = rule
            .actions
            .iter()
            .map(|action| (action.kind.name(), serde_json::to_string(&action.params).unwrap_or_default()))
            .collect();
        let found = has.remove(id).unwrap_or_default();
        let found: BTreeSet<(&str, String)> = found.into_iter().map(|(a, params)| (a, params.to_owned())).collect();
        // What was found by back-fill alone does nothing.
        let none = found.is_empty() && alert["backfilled"] == true;
        if found != wanted && !none {
            wrong.push(format!("alert {id} of {} has {found:?}, expected {wanted:?}", rule.id));
        }
    }
    wrong
}

/// The alert that an alert has become part of in the end; itself, if it holds. `None`: it was retracted for good.
fn last(id: &str, heir: &HashMap<String, Option<String>>) -> Option<String> {
    let mut id = id.to_owned();
    // No longer than there are retracted ones, even if they went in a circle.
    for _ in 0..=heir.len() {
        match heir.get(&id) {
            None => return Some(id),
            Some(next) => id = next.clone()?,
        }
    }
    None
}

/// The receiver against the ledger.
fn done(ledger: &[Row], received: &[Received], deeds: &[Deed]) -> Vec<String> {
    let rows: HashMap<&str, &Row> = ledger.iter().map(|row| (row.key.as_str(), row)).collect();
    let mut wrong = Vec::new();
    let mut requests: HashMap<&str, &Received> = HashMap::new();
    for request in received {
        let first = requests.entry(&request.key).or_insert(request);
        if (&first.path, &first.raw) != (&request.path, &request.raw) {
            wrong.push(format!("key {} came with two requests: {} and {}", request.key, first.path, request.path));
        }
    }
    for deed in deeds {
        let fits = |row: &&Row| {
            let action = if row.action == "retraction" { "alert_soc" } else { &row.action };
            let session = deed.session_id.as_ref().is_none_or(|session| *session == row.session_id);
            action == deed.action && row.agent_id == deed.agent_id && session
        };
        match rows.get(deed.key.as_str()) {
            None => wrong.push(format!("it was done, and is in no ledger: {deed:?}")),
            Some(row) if !fits(row) => wrong.push(format!("{deed:?} was done for {row:?}")),
            Some(_) => {}
        }
    }
    let keys: BTreeSet<&str> = deeds.iter().map(|deed| deed.key.as_str()).collect();
    for row in ledger {
        let is_done = keys.contains(row.key.as_str());
        let good = match row.state.as_str() {
            "acknowledged" => is_done || row.receiver.is_none(),
            // Called off, though it may have been under way.
            "cancelled" => row.retracted || row.action == "retraction",
            _ => false,
        };
        if !good {
            wrong.push(format!("it is {} and was {}done: {row:?}", row.state, if is_done { "" } else { "not " }));
        }
    }
    wrong
}
