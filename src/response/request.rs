//! What each action asks of which receiver over HTTP (SPEC §7, BRIEF "Response Orchestrator").
//! Sends nothing, and knows nothing of queues and retries. Ids come from agents, so they may be made to mislead.

use clawdstrike_rules::plan::{Action, ActionKind};
use clawdstrike_telemetry::time;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Url;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::hex;

/// How long an agent is quarantined if the rule doesn't say.
const QUARANTINE_SECONDS: u64 = 3_600;
/// What an agent is limited to if the rule doesn't say.
const REQUESTS_PER_MINUTE: u64 = 10;
/// The logging level if the rule doesn't say.
const LOGGING_LEVEL: &str = "debug";

/// All but RFC 3986's unreserved characters.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Who carries an action out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// `[response] soc_webhook`.
    SocWebhook,
    /// `[response] agent_control_api`.
    AgentControl,
}

impl Destination {
    /// Its key in the configuration, which is also its name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Destination::SocWebhook => "soc_webhook",
            Destination::AgentControl => "agent_control_api",
        }
    }

    /// Who carries this action out; `None` for a log line, which needs nobody.
    pub(super) fn of(kind: ActionKind) -> Option<Destination> {
        match kind {
            ActionKind::Alert => None,
            ActionKind::AlertSoc => Some(Destination::SocWebhook),
            ActionKind::TerminateSession
            | ActionKind::QuarantineAgent
            | ActionKind::RateLimit
            | ActionKind::IncreaseLogging
            | ActionKind::SnapshotSession
            | ActionKind::UpdatePolicy => Some(Destination::AgentControl),
        }
    }
}

/// What the ledger and the key call it that the SOC is told that an alert doesn't hold.
pub(super) const RETRACTION: &str = "retraction";

/// A POST request, ready to be sent any number of times.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    /// Where to.
    pub(super) url: Url,
    /// JSON; `None` where the path says all.
    pub(super) body: Option<Vec<u8>>,
}

/// SHA-256 over alert id, action name and parameters (canonical JSON: a sorted map), each ended by a zero byte. Its hex
/// form is the `Idempotency-Key`: the same action of the same alert has the same one in every process and every run.
pub(super) fn idempotency_key(alert_id: &str, action: &str, params: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [alert_id.as_bytes(), action.as_bytes(), params] {
        hash.update(part);
        hash.update([0]);
    }
    hash.finalize().into()
}

/// The `Idempotency-Key` of a request for several: SHA-256 over their keys, each ended by a zero byte, in hex.
pub(super) fn key_of_all(keys: &[&str]) -> String {
    let mut hash = Sha256::new();
    for key in keys {
        hash.update(key.as_bytes());
        hash.update([0]);
    }
    hex::encode(hash.finalize())
}

/// Checks a configured URL. The error doesn't repeat it: webhook URLs hold secrets.
pub(super) fn base_url(destination: Destination, text: &str) -> Result<Url, String> {
    let key = destination.name();
    let url = Url::parse(text)
        .map_err(|e| format!("[response] \"{key}\" is not a URL ({e}): write one such as \"https://host/path\""))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(format!("[response] \"{key}\" has scheme \"{}\": expected http or https and a host", url.scheme()));
    }
    if destination == Destination::AgentControl && (url.query().is_some() || url.fragment().is_some()) {
        return Err(format!(
            "[response] \"{key}\" has a query or a fragment: give a base URL that paths can be added to"
        ));
    }
    Ok(url)
}

/// A request to the agents' control API. The error says why this action can't be asked for.
pub(super) fn control(base: &Url, agent: &str, session: &str, action: &Action) -> Result<Request, String> {
    let (path, body) = match action.kind {
        ActionKind::TerminateSession => (vec!["agents", agent, "sessions", session, "terminate"], None),
        ActionKind::SnapshotSession => (vec!["agents", agent, "sessions", session, "snapshot"], None),
        ActionKind::QuarantineAgent => {
            (vec!["agents", agent, "quarantine"], Some(json!({"duration_secs": quarantine_seconds(action)?})))
        }
        ActionKind::RateLimit => {
            (vec!["agents", agent, "rate_limit"], Some(json!({"requests_per_minute": requests_per_minute(action)?})))
        }
        ActionKind::IncreaseLogging => {
            let level = action.params.get("level").cloned().unwrap_or_else(|| json!(LOGGING_LEVEL));
            (vec!["agents", agent, "logging"], Some(json!({"level": level})))
        }
        ActionKind::UpdatePolicy => {
            let patch = action
                .params
                .get("policy_patch")
                .ok_or("\"update_policy\" has no \"policy_patch\": add it to the rule")?;
            (vec!["agents", agent, "policy"], Some(json!({"policy_patch": patch})))
        }
        ActionKind::AlertSoc | ActionKind::Alert => {
            return Err(format!("\"{}\" is not for the agent control API", action.kind.name()));
        }
    };
    let body = body.map(|b: Value| b.to_string().into_bytes());
    Ok(Request { url: join(base, &path)?, body })
}

/// How long the agent is in quarantine that this action asks for, in microseconds; `None`: it asks for none.
pub(super) fn quarantine_micros(action: &Action) -> Option<i64> {
    let seconds = (action.kind == ActionKind::QuarantineAgent).then(|| quarantine_seconds(action).ok()).flatten()?;
    Some(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000))
}

fn quarantine_seconds(action: &Action) -> Result<u64, String> {
    let Some(value) = action.params.get("duration") else { return Ok(QUARANTINE_SECONDS) };
    let micros = value.as_str().and_then(time::parse_duration);
    micros.and_then(|micros| u64::try_from(micros / 1_000_000).ok()).ok_or_else(|| {
        format!("\"quarantine_agent.duration\" is {value}: expected a whole number and s, m, h or d, such as \"1h\"")
    })
}

fn requests_per_minute(action: &Action) -> Result<u64, String> {
    let Some(value) = action.params.get("requests_per_minute") else { return Ok(REQUESTS_PER_MINUTE) };
    value
        .as_u64()
        .or_else(|| value.as_f64().filter(|n| n.fract() == 0.0 && (0.0..1e15).contains(n)).map(|n| n as u64))
        .ok_or_else(|| format!("\"rate_limit.requests_per_minute\" is {value}: expected a whole number"))
}

/// Adds path segments to the base. Whatever an id holds, it stays one segment.
fn join(base: &Url, segments: &[&str]) -> Result<Url, String> {
    let mut text = base.as_str().trim_end_matches('/').to_owned();
    for segment in segments {
        // Every URL parser takes these out of a path, encoded or not (RFC 3986, 5.2.4; WHATWG URL): the request would
        // reach somebody else's resource.
        if matches!(*segment, "" | "." | "..") {
            return Err(format!("the id \"{segment}\" can't stand in a URL's path: act on it by hand"));
        }
        text.push('/');
        text.extend(utf8_percent_encode(segment, SEGMENT));
    }
    Url::parse(&text).map_err(|e| format!("the request's URL can't be built: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(base: &str, id: &str) -> Result<String, String> {
        let base = base_url(Destination::AgentControl, base).expect("a base URL");
        join(&base, &["agents", id, "quarantine"]).map(|url| url.to_string())
    }

    #[test]
    fn an_id_stays_one_segment_whatever_it_holds() {
        for (id, segment) in [
            ("agent-1", "agent-1"),
            ("a/b", "a%2Fb"),
            ("../../admin", "..%2F..%2Fadmin"),
            ("..\\x", "..%5Cx"),
            ("a?force=1#x", "a%3Fforce%3D1%23x"),
            ("%2e%2e", "%252e%252e"),
            ("a b\t\r\nc", "a%20b%09%0D%0Ac"),
            ("é:@;,", "%C3%A9%3A%40%3B%2C"),
            ("...", "..."),
        ] {
            assert_eq!(
                joined("http://h:1/base/", id),
                Ok(format!("http://h:1/base/agents/{segment}/quarantine")),
                "{id:?}"
            );
        }
    }

    #[test]
    fn an_id_that_would_leave_the_path_is_refused() {
        for id in ["", ".", ".."] {
            assert!(joined("http://h:1", id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn only_http_urls_are_receivers_and_errors_keep_them_secret() {
        assert!(base_url(Destination::SocWebhook, "https://h/x?token=1").is_ok());
        for text in ["hooks/s3cret", "ftp://h/s3cret", "file:///s3cret"] {
            let error = base_url(Destination::SocWebhook, text).expect_err(text);
            assert!(error.contains("soc_webhook") && !error.contains("s3cret"), "{error}");
        }
        assert!(base_url(Destination::AgentControl, "http://h/?x=1").is_err());
    }

    #[test]
    fn parameters_have_the_briefs_defaults() {
        let action = |kind, params: Value| Action { kind, params: serde_json::from_value(params).expect("an object") };
        let quarantine = |params| quarantine_seconds(&action(ActionKind::QuarantineAgent, params));
        assert_eq!(quarantine(json!({})), Ok(3_600));
        assert_eq!(quarantine(json!({"duration": "2m"})), Ok(120));
        assert!(quarantine(json!({"duration": true})).is_err());
        let limit = |params| requests_per_minute(&action(ActionKind::RateLimit, params));
        assert_eq!(limit(json!({})), Ok(10));
        assert_eq!(limit(json!({"requests_per_minute": 3.0})), Ok(3));
        assert!(limit(json!({"requests_per_minute": -1})).is_err());
    }

    #[test]
    fn the_idempotency_key_is_fixed_for_ever() {
        let hex = hex::encode(idempotency_key("a", "alert_soc", b"{}"));
        // printf 'a\0alert_soc\0{}\0' | sha256sum
        assert_eq!(hex, "5106da8e85907fa6f1759f829e714636bd04f674861ef84c76cb11495981e1ac");
    }
}
