//! What `top` looks at: one look is a handful of questions to the API, and what two looks differ in gives the rates.
//!
//! Knows no terminal. Every text that comes from elsewhere is escaped here, so that drawing can't forget it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::ValueEnum;
use clawdstrike_telemetry::time;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde_json::Value;

use crate::cli::client::Client;
use crate::cli::output::{escape, field};
use crate::wall_clock;

/// Sessions and alerts of a look, at most: more than a screen is high.
const ROWS: usize = 100;
/// Rules whose alerts the first look counts, and each later one: a count goes through the whole view of alerts.
const FIRST_COUNTS: usize = 256;
const COUNTS: usize = 16;
/// Rules that are kept in mind.
const RULES: usize = 1024;
/// Looks between two looks at the set of rules in force.
const RULES_EVERY: u64 = 30;
/// Questions on their way at the same time.
const AT_ONCE: usize = 4;

/// The order of sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Sort {
    #[default]
    Risk,
    Events,
    LastSeen,
}

impl Sort {
    /// As the API and people call it.
    pub(super) fn names(self) -> (&'static str, &'static str) {
        match self {
            Sort::Risk => ("risk", "riskiest"),
            Sort::Events => ("events", "busiest"),
            Sort::LastSeen => ("last_seen", "latest"),
        }
    }

    pub(super) fn next(self) -> Sort {
        match self {
            Sort::Risk => Sort::Events,
            Sort::Events => Sort::LastSeen,
            Sort::LastSeen => Sort::Risk,
        }
    }
}

/// The engine's own counters.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    pub(super) epoch: u64,
    /// Microseconds since 1970.
    pub(super) watermark: Option<i64>,
    pub(super) events: u64,
    pub(super) alert_versions: u64,
    pub(super) dead_letters: u64,
    /// Parts that don't work as they should, and why.
    pub(super) degraded: Vec<(String, String)>,
}

/// A rule with the alerts of it in the live view.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) id: String,
    pub(super) severity: String,
    pub(super) alerts: u64,
}

/// A session; times are microseconds since 1970.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) name: String,
    pub(super) risk: f64,
    pub(super) events: u64,
    pub(super) violations: u64,
    pub(super) open_alerts: u64,
    pub(super) last_seen: Option<i64>,
}

/// An alert, with the target of its last evidence.
#[derive(Clone, Debug)]
pub(super) struct Alert {
    pub(super) last_seen: Option<i64>,
    pub(super) severity: String,
    pub(super) status: String,
    pub(super) rule: String,
    pub(super) session: String,
    pub(super) target: String,
}

/// All of one look.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    /// Wall clock, microseconds since 1970.
    pub(super) taken: i64,
    pub(super) health: Health,
    /// What changed since the look before; `None` without one, and where the engine has started again since.
    pub(super) rates: Option<Rates>,
    /// Loudest first; without those that have no alert.
    pub(super) rules: Vec<Rule>,
    pub(super) sort: Sort,
    pub(super) sessions: Vec<Session>,
    pub(super) sessions_in_all: u64,
    /// Latest first.
    pub(super) alerts: Vec<Alert>,
    pub(super) alerts_in_all: u64,
}

/// Per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rates {
    pub(super) events: f64,
    pub(super) alerts: f64,
    pub(super) dead_letters: f64,
}

impl Rates {
    fn between(before: &Health, now: &Health, passed: Duration) -> Option<Rates> {
        let rate = |before: u64, now: u64| {
            let more = now.checked_sub(before)?;
            (passed > Duration::ZERO).then(|| more as f64 / passed.as_secs_f64())
        };
        Some(Rates {
            events: rate(before.events, now.events)?,
            alerts: rate(before.alert_versions, now.alert_versions)?,
            dead_letters: rate(before.dead_letters, now.dead_letters)?,
        })
    }
}

/// A rule as it is counted. Kept by its id as the API knows it, which may be hostile.
#[derive(Debug, Default)]
struct Counted {
    severity: String,
    alerts: u64,
    /// How many versions of alerts there were when it was counted: with as many now, the count still holds.
    as_of: Option<u64>,
    /// Among the latest alerts, so its count has probably changed.
    latest: bool,
}

/// Looks, and remembers what makes the next look cheaper.
pub(super) struct Looker {
    client: Client,
    looks: u64,
    before: Option<(Health, Instant)>,
    rules: BTreeMap<String, Counted>,
}

impl Looker {
    pub(super) fn new(client: Client) -> Looker {
        Looker { client, looks: 0, before: None, rules: BTreeMap::new() }
    }

    /// The engine's counters alone, for the rates of the next look.
    pub(super) async fn glance(&mut self) -> anyhow::Result<()> {
        let health = self.client.get(&["health"], &[]).await?;
        self.before = Some((read_health(&health)?, Instant::now()));
        Ok(())
    }

    /// All of it. Errors are those of the client.
    pub(super) async fn look(&mut self, sort: Sort) -> anyhow::Result<Look> {
        let health = read_health(&self.client.get(&["health"], &[]).await?)?;
        let now = Instant::now();
        let before = self.before.replace((health.clone(), now));
        let rates = before.and_then(|(before, at)| Rates::between(&before, &health, now - at));
        let rows = Some(ROWS.to_string());
        let by = [("sort", Some(sort.names().0.to_owned())), ("limit", rows.clone())];
        let latest = [("limit", rows)];
        let (sessions, alerts) =
            tokio::try_join!(self.client.get(&["sessions"], &by), self.client.get(&["alerts"], &latest))?;
        self.remember_rules(&alerts).await?;
        self.count(health.alert_versions).await?;
        self.looks += 1;
        Ok(Look {
            taken: wall_clock::now(),
            health,
            rates,
            rules: self.loudest(),
            sort,
            sessions: rows_of(&sessions, "sessions").iter().map(read_session).collect(),
            sessions_in_all: number(&sessions, "total"),
            alerts: rows_of(&alerts, "alerts").iter().map(read_alert).collect(),
            alerts_in_all: number(&alerts, "total"),
        })
    }

    /// Rules in force, now and then, and those of the latest alerts.
    async fn remember_rules(&mut self, alerts: &Value) -> anyhow::Result<()> {
        self.rules.values_mut().for_each(|rule| rule.latest = false);
        for alert in rows_of(alerts, "alerts") {
            if let Some(rule) = self.remember(field(alert, "rule_id"), text(alert, "severity")) {
                rule.latest = true;
            }
        }
        if self.looks.is_multiple_of(RULES_EVERY) {
            let set = self.client.get(&["rules"], &[]).await?;
            for rule in rows_of(&set, "rules") {
                self.remember(field(rule, "id"), text(rule, "severity"));
            }
        }
        Ok(())
    }

    fn remember(&mut self, id: String, severity: String) -> Option<&mut Counted> {
        if self.rules.len() >= RULES && !self.rules.contains_key(&id) {
            return None;
        }
        let rule = self.rules.entry(id).or_default();
        rule.severity = severity;
        Some(rule)
    }

    /// Counts the alerts of some rules whose count may not hold any more.
    async fn count(&mut self, versions: u64) -> anyhow::Result<()> {
        let most = if self.looks == 0 { FIRST_COUNTS } else { COUNTS };
        let client = &self.client;
        let count = |id: String| async move {
            let query = [("rule_id", Some(id.clone())), ("limit", Some("0".to_owned()))];
            let answer = client.get(&["alerts"], &query).await?;
            anyhow::Ok((id, number(&answer, "total")))
        };
        let due = due(&self.rules, versions, most);
        let counts: Vec<_> = stream::iter(due).map(count).buffer_unordered(AT_ONCE).try_collect().await?;
        for (id, alerts) in counts {
            if let Some(rule) = self.rules.get_mut(&id) {
                (rule.alerts, rule.as_of) = (alerts, Some(versions));
            }
        }
        Ok(())
    }

    fn loudest(&self) -> Vec<Rule> {
        let mut loudest: Vec<_> = self.rules.iter().filter(|(_, rule)| rule.alerts > 0).collect();
        loudest.sort_by_key(|(id, rule)| (std::cmp::Reverse(rule.alerts), *id));
        let shown = |(id, rule): (&String, &Counted)| Rule {
            id: escape(id).into_owned(),
            severity: rule.severity.clone(),
            alerts: rule.alerts,
        };
        loudest.into_iter().take(ROWS).map(shown).collect()
    }
}

/// Which rules are to be counted next: those never counted, those of the latest alerts, those counted longest ago.
fn due(rules: &BTreeMap<String, Counted>, versions: u64, most: usize) -> Vec<String> {
    let mut due: Vec<_> = rules.iter().filter(|(_, rule)| rule.as_of != Some(versions)).collect();
    // Every other place is for the longest ago, or a few loud rules would keep all others waiting.
    due.sort_by_key(|(_, rule)| (rule.as_of.is_some(), !rule.latest, rule.as_of));
    let (first, rest) = due.split_at(due.len().min(most.div_ceil(2)));
    let mut rest = rest.to_vec();
    rest.sort_by_key(|(_, rule)| rule.as_of);
    first.iter().chain(&rest).take(most).map(|(id, _)| (*id).clone()).collect()
}

fn read_health(health: &Value) -> anyhow::Result<Health> {
    ensure!(health["as_of"].is_u64(), "/v1/health says no epoch: is it an engine's API? check --api");
    let parts = health["degraded"].as_object().into_iter().flatten();
    let reasons = health["dead_letters"].as_object().into_iter().flatten();
    Ok(Health {
        epoch: number(health, "as_of"),
        watermark: instant(health, "watermark"),
        events: number(health, "events"),
        alert_versions: number(health, "alert_versions"),
        dead_letters: reasons.filter_map(|(_, n)| n.as_u64()).sum(),
        degraded: parts.map(|(part, _)| (escape(part).into_owned(), text(&health["degraded"], part))).collect(),
    })
}

fn read_session(session: &Value) -> Session {
    Session {
        name: name(session),
        risk: session["risk_score"].as_f64().unwrap_or_default(),
        events: number(session, "events"),
        violations: number(session, "violations"),
        open_alerts: number(session, "open_alerts"),
        last_seen: instant(session, "last_seen"),
    }
}

fn read_alert(alert: &Value) -> Alert {
    let evidence = alert["evidence"].as_array().and_then(|all| all.last()).unwrap_or(&Value::Null);
    Alert {
        last_seen: instant(alert, "last_seen"),
        severity: text(alert, "severity"),
        status: text(alert, "status"),
        rule: text(alert, "rule_id"),
        session: name(alert),
        target: text(evidence, "target"),
    }
}

/// Whose session: agent and session, after the tenant where there is one.
fn name(object: &Value) -> String {
    let [tenant, agent, session] = ["tenant_id", "agent_id", "session_id"].map(|name| text(object, name));
    match tenant.is_empty() {
        true => format!("{agent} / {session}"),
        false => format!("{tenant}: {agent} / {session}"),
    }
}

fn rows_of<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(object: &Value, name: &str) -> String {
    escape(&field(object, name)).into_owned()
}

fn number(object: &Value, name: &str) -> u64 {
    object[name].as_u64().unwrap_or_default()
}

fn instant(object: &Value, name: &str) -> Option<i64> {
    object[name].as_str().and_then(time::parse)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn health(events: u64, alert_versions: u64) -> Health {
        Health { events, alert_versions, ..Health::default() }
    }

    #[test]
    fn rates_are_differences_of_two_looks() {
        let rates = Rates::between(&health(100, 4), &health(400, 5), Duration::from_secs(2));
        assert_eq!(rates, Some(Rates { events: 150.0, alerts: 0.5, dead_letters: 0.0 }));
        assert_eq!(Rates::between(&health(400, 5), &health(3, 0), Duration::from_secs(2)), None, "started again");
        assert_eq!(Rates::between(&health(1, 1), &health(2, 2), Duration::ZERO), None);
    }

    #[test]
    fn what_agents_and_errors_say_is_escaped() {
        let evil = "x\u{1b}[2J\u{202e}\n";
        let alert = read_alert(&json!({
            "last_seen": "2024-05-01T12:00:00Z", "severity": evil, "status": evil, "rule_id": evil, "agent_id": evil,
            "session_id": evil, "tenant_id": evil, "evidence": [{"target": "first"}, {"target": evil}],
        }));
        let health = read_health(&json!({"as_of": 1, "degraded": {evil: evil}})).expect("a health");
        let session = read_session(&json!({"agent_id": evil, "session_id": evil}));
        let (part, why) = &health.degraded[0];
        let Alert { severity, status, rule, target, .. } = &alert;
        for shown in [severity, status, rule, &alert.session, target, &session.name, part, why] {
            assert!(shown.contains("x\\u{1b}[2J\\u{202e}\\u{a}"), "{shown:?}");
            assert!(!shown.contains(|c: char| c.is_control() || c == '\u{202e}'), "{shown:?}");
        }
    }

    #[test]
    fn what_lacks_or_has_another_type_is_nothing_rather_than_an_end() {
        let session = read_session(&json!({"risk_score": "high", "events": -1, "last_seen": 3}));
        assert_eq!((session.risk, session.events, session.last_seen), (0.0, 0, None));
        assert_eq!(read_alert(&json!([])).target, "");
        assert!(read_health(&json!({"ok": true})).is_err(), "not an engine");
    }

    #[test]
    fn every_rule_is_counted_in_its_turn_however_loud_others_are() {
        let mut rules = BTreeMap::new();
        for i in 0..100u64 {
            rules.insert(format!("r{i:02}"), Counted { as_of: Some(i), latest: i >= 90, ..Counted::default() });
        }
        rules.insert("new".to_owned(), Counted::default());
        let due_now = due(&rules, 100, 4);
        assert_eq!(due_now, ["new", "r90", "r00", "r01"]);
        assert!(due(&rules, 42, 1000).iter().all(|id| id != "r42"), "its count still holds");
    }
}
