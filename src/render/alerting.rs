//! From chains to alerts: which versions a change of a rule's chains in one group makes (SPEC §6).
//!
//! An alert is named after its chain's first match. A chain that begins with another match is another alert: the old one
//! is retracted, and says which one took its place; the actions of the new one don't run then.

use clawdstrike_operators::chain::{Chain, Match};
use clawdstrike_rules::plan::Field;
use clawdstrike_telemetry::{Event, TOP_LEVEL_FIELDS, decode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::field::{Fields, Place};
use super::group::Context;
use super::hit::Payload;
use super::log::{Entry, Log};
use super::matched::latest_before;
use super::rules::RuleInfo;
use super::units;
use crate::alert::{Alert, Evidence, Handling, Reason, Status};
use crate::hex;

/// Alerts of one rule in one group that may still change.
#[derive(Debug)]
pub struct Alerting {
    alerts: Vec<(Match, Box<Alert>)>,
    /// Time of the latest first match whose alert was retracted: until the watermark passes it, the alert may come back.
    retracted: i64,
    /// The largest revision so far: an alert that comes back continues from there.
    revision: u64,
}

impl Default for Alerting {
    fn default() -> Self {
        Alerting { alerts: Vec::new(), retracted: i64::MIN, revision: 0 }
    }
}

/// What is kept of [`Alerting`] in a checkpoint.
#[derive(Serialize, Deserialize)]
pub struct KeptAlerting {
    /// Alerts as JSON, with their chain's first match.
    alerts: Vec<(KeptMatch, Vec<u8>)>,
    retracted: i64,
    revision: u64,
}

/// A match as (time, time of its ending event, that event's name in the log).
pub type KeptMatch = (i64, i64, u32);

/// A match to be kept.
pub fn keep(m: &Match) -> KeptMatch {
    (m.time, m.end_time, m.end)
}

/// A match that was kept.
pub fn put_back((time, end_time, end): KeptMatch) -> Match {
    Match { time, end_time, end }
}

/// What versions are made from.
pub struct Chains2Alerts<'a> {
    /// The world.
    pub ctx: &'a Context<'a>,
    /// The rule.
    pub info: &'a RuleInfo,
    /// The group's hits.
    pub log: &'a Log,
    /// Matches of each condition, for a rule with several.
    pub parts: &'a [Vec<Match>],
    /// Matches that can still change, for a rule that was loaded after others.
    pub matches: &'a [Match],
}

impl Alerting {
    /// The first `n` chains are finished.
    pub fn finish(&mut self, n: usize) {
        self.alerts.drain(..n.min(self.alerts.len()));
    }

    /// What a checkpoint keeps.
    pub fn keep(&self) -> KeptAlerting {
        // An alert is texts and numbers: there is nothing in it that JSON can't say.
        let alerts = self.alerts.iter().map(|(m, alert)| (keep(m), serde_json::to_vec(alert).unwrap_or_default()));
        KeptAlerting { alerts: alerts.collect(), retracted: self.retracted, revision: self.revision }
    }

    /// From what a checkpoint kept.
    pub fn put_back(kept: KeptAlerting) -> Alerting {
        let alert =
            |(m, json): (KeptMatch, Vec<u8>)| Some((put_back(m), Box::new(serde_json::from_slice(&json).ok()?)));
        Alerting {
            alerts: kept.alerts.into_iter().filter_map(alert).collect(),
            retracted: kept.retracted,
            revision: kept.revision,
        }
    }

    /// Retracts alerts that `gone` says the allowlist takes out; gives the first matches of their chains.
    pub fn take_out(&mut self, epoch: u64, mut gone: impl FnMut(&Alert) -> bool, out: &mut Vec<Alert>) -> Vec<Match> {
        let revision = epoch.max(self.revision + 1);
        let mut firsts = Vec::new();
        for (first, mut alert) in self.alerts.extract_if(.., |(_, alert)| gone(alert)) {
            alert.retract(Reason::Allowlisted, revision);
            out.push(*alert);
            (self.revision, self.retracted) = (revision, self.retracted.max(first.time));
            firsts.push(first);
        }
        firsts
    }

    /// Bytes of the alerts, about.
    pub fn held(&self) -> usize {
        let held = |a: &Alert| {
            let evidence = a.evidence.iter().map(|e| size_of::<Evidence>() + e.target.len());
            size_of::<Alert>() + a.trigger_event.len() + evidence.sum::<usize>()
        };
        self.alerts.iter().map(|(_, alert)| held(alert)).sum()
    }

    /// An alert that was retracted may be opened again by an event after `watermark`.
    pub fn may_come_back(&self, watermark: i64) -> bool {
        self.retracted >= watermark
    }

    /// Brings the alerts up to the chains. `late`: what proves matches from this time on may have changed.
    pub fn update(&mut self, group: &Chains2Alerts<'_>, chains: &[Chain], late: Option<i64>, out: &mut Vec<Alert>) {
        let mut old = std::mem::take(&mut self.alerts);
        // Epochs only grow, also over restarts, so they make revisions that never go back.
        let revision = group.ctx.epoch.max(self.revision + 1);
        let before = out.len();
        let mut opened = Vec::new();
        for chain in chains {
            let same = old.iter().position(|(first, _)| *first == chain.first);
            match same.map(|at| old.remove(at)) {
                Some((first, mut alert)) => {
                    if group.bring_up(&mut alert, chain, late) {
                        alert.revision = revision;
                        out.push((*alert).clone());
                    }
                    self.alerts.push((first, alert));
                }
                None => {
                    if let Some(alert) = group.open(chain, revision) {
                        opened.push(self.alerts.len());
                        self.alerts.push((chain.first, Box::new(alert)));
                    }
                }
            }
        }
        for (first, mut gone) in old {
            let heir = chains.iter().position(|c| c.first.time <= first.time && first.time <= c.last);
            let heir = heir.and_then(|at| self.alerts.iter_mut().find(|(f, _)| *f == chains[at].first));
            gone.superseded_by = heir.as_ref().map(|(_, a)| a.alert_id.clone());
            if let Some((_, heir)) = heir {
                heir.run_actions = false;
            }
            gone.retract(Reason::LateEvent, revision);
            self.retracted = self.retracted.max(first.time);
            out.push(*gone);
        }
        out.extend(opened.into_iter().map(|at| (*self.alerts[at].1).clone()));
        if out.len() > before {
            self.revision = revision;
        }
    }
}

impl Chains2Alerts<'_> {
    /// Changes an alert to what its chain says now; says whether anything changed.
    fn bring_up(&self, alert: &mut Alert, chain: &Chain, late: Option<i64>) -> bool {
        let mut changed = (alert.last_seen, alert.match_count) != (chain.last, chain.count);
        (alert.last_seen, alert.match_count) = (chain.last, chain.count);
        alert.status = status(chain);
        if alert.backfilled && !alert.run_actions && self.may_act(chain) {
            (alert.run_actions, changed) = (true, true);
        }
        if late.is_some_and(|from| chain.first.time >= from) {
            let evidence = self.evidence(&chain.first);
            changed |= evidence != alert.evidence;
            alert.evidence = evidence;
        }
        changed
    }

    /// Whether a match was found by back-fill.
    fn is_before(&self, found: &Match) -> bool {
        let since = &self.info.since;
        let end = || self.log.find(found.end_time, found.end).map(|at| self.log.entries()[at].payload().position());
        since.has_before() && end().is_some_and(|end| since.is_before(found, end))
    }

    /// Whether the rule wants actions for a chain: once one of its matches was found live.
    fn may_act(&self, chain: &Chain) -> bool {
        let within = |m: &&Match| chain.first.time <= m.time && m.time <= chain.last;
        let rule = &self.info.rule;
        !rule.shadow && (rule.backfill_actions || self.matches.iter().filter(within).any(|m| !self.is_before(m)))
    }

    fn open(&self, chain: &Chain, revision: u64) -> Option<Alert> {
        let rule = &self.info.rule;
        let at = self.log.find(chain.first.end_time, chain.first.end)?;
        let end = self.log.entries()[at].payload();
        // It was valid when it was read.
        let event = decode(end.raw()).ok()?;
        let group = group_values(&event, &rule.by);
        let backfilled = self.is_before(&chain.first);
        Some(Alert {
            alert_id: self.alert_id(&group, &chain.first, end),
            revision,
            rule_id: rule.id.clone(),
            rule_name: rule.name.clone(),
            rule_version: rule.version.clone(),
            severity: rule.severity,
            status: status(chain),
            superseded_by: None,
            tenant_id: end.tenant_id().to_owned(),
            group,
            agent_id: end.agent_id().to_owned(),
            session_id: end.session_id().to_owned(),
            first_seen: chain.first.time,
            last_seen: chain.last,
            match_count: chain.count,
            risk_score: 0.0,
            evidence: self.evidence(&chain.first),
            attack: rule.attack.clone(),
            actions: rule.actions.clone(),
            run_actions: if backfilled { self.may_act(chain) } else { !rule.shadow },
            shadow: rule.shadow,
            backfilled,
            rule_removed: false,
            on_removal: rule.on_removal,
            retracted_because: None,
            trigger_event: String::from_utf8_lossy(end.raw()).into_owned(),
            handling: Handling::default(),
        })
    }

    /// The first match's events: of its own condition, and of each other condition's latest match not after it.
    fn evidence(&self, first: &Match) -> Vec<Evidence> {
        let mut found: Vec<(usize, u32)> = Vec::new();
        if self.parts.is_empty() {
            found = self.of_unit(0, first);
        }
        for (n, part) in self.parts.iter().enumerate() {
            if let Some(m) = latest_before(self.log, part, first) {
                found.extend(self.of_unit(n, m));
            }
        }
        found.sort_unstable();
        found.dedup_by_key(|(at, _)| *at);
        let limit = self.ctx.settings.evidence_limit;
        if found.len() > limit {
            found.drain(1..found.len() - (limit - 1));
        }
        found.into_iter().map(|(at, step)| self.show(&self.log.entries()[at], step)).collect()
    }

    fn of_unit(&self, n: usize, m: &Match) -> Vec<(usize, u32)> {
        let unit = self.info.units.get(n).and_then(|id| self.ctx.rules.units.get(id));
        match (unit, self.log.find(m.end_time, m.end)) {
            (Some(unit), Some(at)) => {
                units::evidence(unit, &self.log.entries()[..=at], |e| self.ctx.classes.get(e.class))
            }
            _ => Vec::new(),
        }
    }

    fn show(&self, entry: &Entry, step: u32) -> Evidence {
        let payload = entry.payload();
        let position = || {
            let p = payload.position();
            format!("{}/{}/{}", self.ctx.settings.name_of_rank(p.source), p.partition, p.offset)
        };
        Evidence {
            id: payload.event_id().map_or_else(position, str::to_owned),
            step,
            time: entry.time,
            event_type: payload.event_type(),
            target: payload.target().to_owned(),
            allowed: payload.allowed(),
        }
    }

    /// A UUID (version 8) from SHA-256 over these parts, each behind its length as 8 bytes, big-endian: the text
    /// `clawdstrike-alert-1`, the rule id, the tenant, for each group field its name and its value as JSON, the first
    /// match's time (8 bytes, big-endian), and the ending event's identity: `id`, agent, session and event_id, or
    /// `position`, source name, and partition and offset in decimal.
    fn alert_id(&self, group: &[(String, Value)], first: &Match, end: Payload<'_>) -> String {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        part(b"clawdstrike-alert-1");
        part(self.info.rule.id.as_bytes());
        part(end.tenant_id().as_bytes());
        for (name, value) in group {
            part(name.as_bytes());
            part(value.to_string().as_bytes());
        }
        part(&first.time.to_be_bytes());
        match end.event_id() {
            Some(id) => [b"id".as_slice(), end.agent_id().as_bytes(), end.session_id().as_bytes(), id.as_bytes()]
                .into_iter()
                .for_each(&mut part),
            None => {
                let p = end.position();
                part(b"position");
                part(self.ctx.settings.name_of_rank(p.source).as_bytes());
                part(p.partition.to_string().as_bytes());
                part(p.offset.to_string().as_bytes());
            }
        }
        let digest = hash.finalize();
        let mut bytes = [0u8; 16];
        bytes.copy_from_slice(&digest[..16]);
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex = hex::encode(bytes);
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

fn status(chain: &Chain) -> Status {
    if chain.count > 1 { Status::Updated } else { Status::Open }
}

/// Names, as the rule gives them, and values of the `by` fields of an event.
fn group_values(event: &Event<'_>, by: &[Field]) -> Vec<(String, Value)> {
    let mut fields = Fields::new(event);
    by.iter()
        .map(|field| {
            let name = match field {
                Field::Target => "target".to_owned(),
                Field::Path(path) if path.first().is_some_and(|p| TOP_LEVEL_FIELDS.contains(&p.as_str())) => {
                    path.join(".")
                }
                Field::Path(path) => format!("extra.{}", path.join(".")),
            };
            let value = fields.with(&Place::in_group(field), |v| v.cloned()).unwrap_or(Value::Null);
            (name, canonical(value))
        })
        .collect()
}

/// One JSON text for equal values: 1 and 1.0 are one group.
fn canonical(value: Value) -> Value {
    match &value {
        Value::Number(n) => match n.as_f64() {
            Some(f) if f.fract() == 0.0 && f.abs() < 9e15 => Value::from(f as i64),
            Some(f) => serde_json::Number::from_f64(f).map_or(value, Value::Number),
            None => value,
        },
        _ => value,
    }
}
