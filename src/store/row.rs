//! Rows as both stores hold them: a batch's values, made safe for any column, one version a key.
//!
//! What is changed, so that a hostile event can neither break a batch nor hide in its failure:
//! - The NUL character, which PostgreSQL's text and jsonb can't hold, becomes U+2400 (its picture, `␀`), in SQLite too.
//! - JSON that jsonb refuses although it is valid (numbers with thousands of digits or a giant exponent) is written with
//!   its numbers as doubles; text that is no JSON at all (a lone surrogate) is kept as `{"unreadable": "<text>"}`.
//! - Event keys that an index can't hold are replaced by their SHA-256.
//! - Times outside the years 0001 to 9999 are clamped; counts past 2^63 too; a score that is no number is 0.
//!
//! Knows no database.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{ActionRow, AuditRow, Batch, EventRow, RemovedSession, SessionKey, SessionRow, StoreError};
use crate::alert::Alert;
use crate::hex;

/// Longest event key that is kept as it is. B-tree rows of PostgreSQL end at 2,704 bytes.
const KEY_BYTES: usize = 512;
/// What a key that was replaced begins with.
const HASHED_KEY: &str = "sha256:";
/// 0001-01-01 and 9999-12-31T23:59:59.999999 in microseconds since 1970: what both stores can write.
const TIMES: (i64, i64) = (-62_135_596_800_000_000, 253_402_300_799_999_999);
/// Digits in a row, outside strings, from which a JSON number is rewritten. No double needs as many.
const NUMBER_DIGITS: usize = 300;
/// Digits of an exponent from which it is rewritten. jsonb ends near 1e-16383 and 1e131072.
const EXPONENT_DIGITS: usize = 4;

/// The rows of a batch.
pub(super) struct Rows {
    pub(super) alerts: Vec<AlertColumns>,
    pub(super) sessions: Vec<SessionColumns>,
    pub(super) removed: Vec<RemovedColumns>,
    pub(super) actions: Vec<ActionColumns>,
    /// With clean texts and JSON, and clamped times.
    pub(super) audit: Vec<AuditRow>,
    pub(super) events: Vec<EventRow>,
    pub(super) positions: Vec<(String, i64, i64)>,
}

/// One row of `alerts`.
pub(super) struct AlertColumns {
    pub(super) alert_id: String,
    pub(super) revision: i64,
    pub(super) rule_id: String,
    pub(super) rule_name: String,
    pub(super) rule_version: String,
    pub(super) severity: String,
    pub(super) status: &'static str,
    pub(super) superseded_by: Option<String>,
    pub(super) tenant_id: String,
    pub(super) agent_id: String,
    pub(super) session_id: String,
    pub(super) first_seen: i64,
    pub(super) last_seen: i64,
    pub(super) match_count: i64,
    pub(super) risk_score: f64,
    pub(super) shadow: bool,
    pub(super) run_actions: bool,
    pub(super) actions: String,
    pub(super) trigger_event: String,
    pub(super) document: String,
}

/// One row of `sessions`.
pub(super) struct SessionColumns {
    pub(super) key: SessionKey,
    pub(super) epoch: i64,
    pub(super) last_seen: i64,
    pub(super) status: &'static str,
    pub(super) resumed: bool,
    pub(super) events: i64,
    pub(super) violations: i64,
    pub(super) unique_targets: i64,
    pub(super) risk_score: f64,
    pub(super) open_alerts: i64,
    pub(super) document: String,
}

/// One row of `actions`; `row` has clean texts and JSON, and clamped times.
pub(super) struct ActionColumns {
    pub(super) change: i64,
    pub(super) revision: i64,
    pub(super) row: ActionRow,
}

/// One row that leaves `sessions`.
pub(super) struct RemovedColumns {
    pub(super) key: SessionKey,
    pub(super) epoch: i64,
}

/// The last word of a batch on a life.
enum Life<'a> {
    View(&'a SessionRow),
    Removed(&'a RemovedSession),
}

impl Life<'_> {
    /// Orders versions; at one epoch the view is the last word, since a changed view is a removal and an insertion.
    fn version(&self) -> (u64, bool) {
        match self {
            Life::View(row) => (row.epoch, true),
            Life::Removed(row) => (row.epoch, false),
        }
    }
}

impl Rows {
    /// Keyed rows are in order of their keys, so that two writers can't deadlock.
    pub(super) fn of(batch: &Batch) -> Result<Rows, StoreError> {
        let mut alerts: BTreeMap<&str, &Alert> = BTreeMap::new();
        for alert in &batch.alerts {
            let kept = alerts.entry(&alert.alert_id).or_insert(alert);
            if alert.revision >= kept.revision {
                *kept = alert;
            }
        }
        let (sessions, removed) = lives(batch);
        Ok(Rows {
            alerts: alerts.into_values().map(alert_columns).collect(),
            sessions,
            removed,
            actions: actions(batch),
            audit: batch.audit.iter().map(clean_audit).collect(),
            events: batch.events.iter().map(clean_event).collect(),
            positions: positions(batch)?,
        })
    }
}

fn actions(batch: &Batch) -> Vec<ActionColumns> {
    let mut last: BTreeMap<&str, &ActionRow> = BTreeMap::new();
    for row in &batch.actions {
        let kept = last.entry(&row.key).or_insert(row);
        if row.change >= kept.change {
            *kept = row;
        }
    }
    last.into_values().map(action_columns).collect()
}

fn action_columns(row: &ActionRow) -> ActionColumns {
    let clean = ActionRow {
        key: text(&row.key),
        change: row.change,
        alert_id: text(&row.alert_id),
        revision: row.revision,
        rule_id: text(&row.rule_id),
        severity: text(&row.severity),
        tenant_id: text(&row.tenant_id),
        agent_id: text(&row.agent_id),
        session_id: text(&row.session_id),
        action: text(&row.action),
        params: json_text(&row.params).into_owned(),
        receiver: row.receiver.as_deref().map(text),
        state: row.state,
        reason: row.reason.as_deref().map(text),
        decided_by: row.decided_by.as_deref().map(text),
        attempts: row.attempts,
        alert_retracted: row.alert_retracted,
        superseded_by: row.superseded_by.as_deref().map(text),
        created_at: clamp(row.created_at),
        updated_at: clamp(row.updated_at),
    };
    ActionColumns { change: count(row.change), revision: count(row.revision), row: clean }
}

fn clean_audit(row: &AuditRow) -> AuditRow {
    AuditRow {
        hash: row.hash.clone(),
        seq: row.seq,
        time: clamp(row.time),
        actor: text(&row.actor),
        actor_kind: text(&row.actor_kind),
        address: row.address.as_deref().map(text),
        action: text(&row.action),
        outcome: row.outcome,
        detail: json_text(&row.detail).into_owned(),
        line: text(&row.line),
    }
}

fn lives(batch: &Batch) -> (Vec<SessionColumns>, Vec<RemovedColumns>) {
    let removed = batch.removed_sessions.iter().map(|r| (r.key.clone(), Life::Removed(r)));
    let views = batch.sessions.iter().map(|r| (SessionKey::of(&r.view), Life::View(r)));
    let mut lives: BTreeMap<SessionKey, Life<'_>> = BTreeMap::new();
    for (key, life) in removed.chain(views) {
        match lives.get(&key) {
            Some(kept) if kept.version() > life.version() => {}
            _ => {
                lives.insert(key, life);
            }
        }
    }
    let mut out = (Vec::new(), Vec::new());
    for (key, life) in lives {
        let key = clean_key(key);
        match life {
            Life::View(row) => out.0.push(session_columns(key, row)),
            Life::Removed(row) => out.1.push(RemovedColumns { key, epoch: count(row.epoch) }),
        }
    }
    out
}

fn positions(batch: &Batch) -> Result<Vec<(String, i64, i64)>, StoreError> {
    let mut last: BTreeMap<(&str, u32), u64> = BTreeMap::new();
    for (source, partition, next) in &batch.positions {
        let kept = last.entry((source, *partition)).or_insert(*next);
        *kept = (*kept).max(*next);
    }
    last.into_iter()
        .map(|((source, partition), next)| {
            let next = i64::try_from(next).map_err(|_| {
                StoreError::Refused(format!(
                    "position {next} of source {source:?}, partition {partition}: expected at most 2^63 - 1"
                ))
            })?;
            Ok((text(source), i64::from(partition), next))
        })
        .collect()
}

/// A stored position, as the caller counts it.
pub(super) fn position((source, partition, next): (String, i64, i64)) -> Result<(String, u32, u64), StoreError> {
    match (u32::try_from(partition), u64::try_from(next)) {
        (Ok(partition), Ok(next)) => Ok((source, partition, next)),
        _ => Err(StoreError::Refused(format!(
            "table \"archive_positions\" holds partition {partition}, offset {next} for source {source:?}: expected both to be \
             positive; delete the row to archive that partition from its beginning"
        ))),
    }
}

fn alert_columns(alert: &Alert) -> AlertColumns {
    AlertColumns {
        alert_id: text(&alert.alert_id),
        revision: count(alert.revision),
        rule_id: text(&alert.rule_id),
        rule_name: text(&alert.rule_name),
        rule_version: text(&alert.rule_version),
        severity: alert.severity.name().to_owned(),
        status: alert.status.name(),
        superseded_by: alert.superseded_by.as_deref().map(text),
        tenant_id: text(&alert.tenant_id),
        agent_id: text(&alert.agent_id),
        session_id: text(&alert.session_id),
        first_seen: clamp(alert.first_seen),
        last_seen: clamp(alert.last_seen),
        match_count: count(alert.match_count),
        risk_score: score(alert.risk_score),
        shadow: alert.shadow,
        run_actions: alert.run_actions,
        actions: document(serde_json::json!(alert.actions)),
        trigger_event: text(&alert.trigger_event),
        document: document(alert.to_json()),
    }
}

fn session_columns(key: SessionKey, row: &SessionRow) -> SessionColumns {
    let view = &row.view;
    SessionColumns {
        key,
        epoch: count(row.epoch),
        last_seen: clamp(view.last_seen),
        status: if view.idle { "idle" } else { "active" },
        resumed: view.resumed,
        events: count(view.events),
        violations: count(view.violations),
        unique_targets: count(view.unique_targets),
        risk_score: score(view.risk_score),
        open_alerts: count(view.open_alerts),
        document: document(view.to_json()),
    }
}

fn clean_key(key: SessionKey) -> SessionKey {
    SessionKey {
        tenant_id: text(&key.tenant_id),
        agent_id: text(&key.agent_id),
        session_id: text(&key.session_id),
        first_seen: clamp(key.first_seen),
    }
}

fn clean_event(event: &EventRow) -> EventRow {
    EventRow {
        key: event_key(&event.key),
        time: clamp(event.time),
        tenant_id: text(&event.tenant_id),
        agent_id: text(&event.agent_id),
        session_id: text(&event.session_id),
        event_type: event.event_type,
        target: event.target.as_deref().map(text),
        allowed: event.allowed,
        guard: text(&event.guard),
        severity: text(&event.severity),
        risk_score: event.risk_score.map(score),
        metadata: json_text(&event.metadata).into_owned(),
        sample_share: event.sample_share,
        source_position: event.source_position.as_deref().map(text),
    }
}

/// Replaced keys must not meet others: so a key that looks replaced is replaced too, and NUL isn't just pictured.
fn event_key(key: &str) -> String {
    if key.len() <= KEY_BYTES && !key.contains('\0') && !key.starts_with(HASHED_KEY) {
        return key.to_owned();
    }
    HASHED_KEY.to_owned() + &hex::encode(Sha256::digest(key.as_bytes()))
}

fn text(text: &str) -> String {
    text.replace('\0', "\u{2400}")
}

fn document(value: Value) -> String {
    let text = value.to_string();
    match json_text(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(changed) => changed,
    }
}

pub(super) fn clamp(time: i64) -> i64 {
    time.clamp(TIMES.0, TIMES.1)
}

pub(super) fn count(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn score(score: f64) -> f64 {
    if score.is_finite() { score } else { 0.0 }
}

/// JSON text that jsonb takes: as it is, or rewritten.
fn json_text(json: &str) -> Cow<'_, str> {
    if !needs_rewriting(json) {
        return Cow::Borrowed(json);
    }
    let value = match serde_json::from_str::<Value>(json) {
        Ok(value) => clean_value(value),
        Err(_) => serde_json::json!({ "unreadable": text(json) }),
    };
    Cow::Owned(value.to_string())
}

fn clean_value(value: Value) -> Value {
    match value {
        Value::String(s) => Value::String(text(&s)),
        Value::Array(items) => Value::Array(items.into_iter().map(clean_value).collect()),
        Value::Object(members) => {
            Value::Object(members.into_iter().map(|(k, v)| (text(&k), clean_value(v))).collect::<Map<_, _>>())
        }
        other => other,
    }
}

/// One pass over the text: does a string hold an escaped NUL or surrogate, or is a number out of bounds? (A pair of
/// surrogates is fine, and rewriting it does no harm.)
fn needs_rewriting(json: &str) -> bool {
    let bytes = json.as_bytes();
    let (mut i, mut in_string, mut digits) = (0, false, 0);
    while let Some(&byte) = bytes.get(i) {
        match byte {
            0 => return true,
            b'"' => (in_string, digits) = (!in_string, 0),
            b'\\' if in_string => {
                match bytes.get(i + 1..i + 6) {
                    Some([b'u', b'0', b'0', b'0', b'0'])
                    | Some([b'u', b'd' | b'D', b'8'..=b'9' | b'a'..=b'f' | b'A'..=b'F', ..]) => {
                        return true;
                    }
                    _ => {}
                }
                i += 1;
            }
            _ if in_string => {}
            b'0'..=b'9' => {
                digits += 1;
                if digits > NUMBER_DIGITS {
                    return true;
                }
            }
            b'e' | b'E' if giant_exponent(&bytes[i + 1..]) => return true,
            _ => digits = 0,
        }
        i += 1;
    }
    false
}

fn giant_exponent(rest: &[u8]) -> bool {
    let rest = rest.strip_prefix(b"-").or(rest.strip_prefix(b"+")).unwrap_or(rest);
    rest.iter().take(EXPONENT_DIGITS).filter(|b| b.is_ascii_digit()).count() == EXPONENT_DIGITS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_ordinary_json_alone() {
        for json in [
            r#"{"a":"\\u0000 is two characters","b":1e300,"c":[1.5,-2],"hash":"e12345e9999","d":true}"#,
            r#"{"a":"quote \" and \n \u00e9"}"#,
        ] {
            assert_eq!(json_text(json), json);
            assert!(matches!(json_text(json), Cow::Borrowed(_)), "{json}");
        }
    }

    #[test]
    fn pictures_nul_in_values_and_keys() {
        assert_eq!(json_text(r#"{"a\u0000":["x\u0000y"]}"#), "{\"a\u{2400}\":[\"x\u{2400}y\"]}");
        assert_eq!(json_text(r#"{"a":"\\\u0000"}"#), "{\"a\":\"\\\\\u{2400}\"}");
    }

    #[test]
    fn writes_numbers_that_jsonb_refuses_as_doubles() {
        assert_eq!(json_text(r#"{"a":1e-20000}"#), r#"{"a":0.0}"#);
        assert_eq!(json_text(&format!(r#"{{"a":0.{}}}"#, "3".repeat(20_000))), r#"{"a":0.3333333333333333}"#);
    }

    #[test]
    fn keeps_a_lone_surrogate_as_unreadable_text() {
        let json = json_text(r#"{"a":"\ud800"}"#);
        let value: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["unreadable"], r#"{"a":"\ud800"}"#);
    }

    #[test]
    fn keeps_a_pair_of_surrogates() {
        assert_eq!(json_text(r#"{"a":"\ud83d\ude00"}"#), "{\"a\":\"\u{1f600}\"}");
    }

    #[test]
    fn long_keys_and_forged_hashes_stay_apart() {
        let long = "x".repeat(KEY_BYTES + 1);
        let hashed = event_key(&long);
        assert!(hashed.len() < KEY_BYTES && hashed.starts_with(HASHED_KEY));
        assert_ne!(event_key(&hashed), hashed);
        assert_ne!(event_key("a\0"), event_key("a\u{2400}"));
        assert_eq!(event_key("tenant/agent/1"), "tenant/agent/1");
    }

    #[test]
    fn the_view_is_the_last_word_of_its_epoch() {
        let view = test_view(1_000);
        let key = SessionKey::of(&view);
        let removed = |epoch| RemovedSession { key: key.clone(), epoch };
        let batch = |epoch, removed| Batch {
            sessions: vec![SessionRow { view: view.clone(), epoch }],
            removed_sessions: vec![removed],
            ..Batch::default()
        };
        let rows = Rows::of(&batch(7, removed(7))).unwrap();
        assert_eq!((rows.sessions.len(), rows.removed.len()), (1, 0));
        let rows = Rows::of(&batch(7, removed(8))).unwrap();
        assert_eq!((rows.sessions.len(), rows.removed.len()), (0, 1));
    }

    fn test_view(first_seen: i64) -> crate::session::SessionView {
        crate::session::SessionView {
            tenant_id: String::new(),
            agent_id: "a".into(),
            session_id: "s".into(),
            resumed: false,
            idle: false,
            events: 1,
            violations: 0,
            by_type: [0; 7],
            unique_targets: 1,
            unique_targets_exact: true,
            first_seen,
            last_seen: first_seen,
            risk_score: 0.0,
            open_alerts: 0,
            last_events: Vec::new(),
            flags: Vec::new(),
        }
    }
}
