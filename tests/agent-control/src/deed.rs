//! What a request asks for: one deed, or nothing. Knows no HTTP but paths and bodies.

use serde_json::Value;

/// Something that was done, once for its idempotency key.
#[derive(Clone, Debug, PartialEq)]
pub struct Deed {
    /// The `Idempotency-Key`.
    pub key: String,
    /// The action as rules name it; `alert_soc` for what the webhook gets, retractions too.
    pub action: &'static str,
    /// The agent.
    pub agent_id: String,
    /// The session, where it is about one.
    pub session_id: Option<String>,
    /// The request's body; null if it has none.
    pub body: Value,
}

/// Why nothing is done: a status and a reason.
pub type Refusal = (u16, String);

/// The longest policy or alert that is kept whole in a line.
const LINE: usize = 200;

impl Deed {
    /// What a request to a path below the base asks for; anything but the control API's paths is the SOC's webhook.
    ///
    /// # Errors
    /// 404 for a path of the control API that there isn't, 400 for a body that it doesn't take.
    pub fn of(path: &str, key: &str, body: Option<&Value>) -> Result<Deed, Refusal> {
        let path = path.split('?').next().unwrap_or_default();
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let (action, agent, session) = match segments.as_slice() {
            ["agents", agent, "quarantine"] => ("quarantine_agent", *agent, None),
            ["agents", agent, "rate_limit"] => ("rate_limit", *agent, None),
            ["agents", agent, "logging"] => ("increase_logging", *agent, None),
            ["agents", agent, "policy"] => ("update_policy", *agent, None),
            ["agents", agent, "sessions", session, "terminate"] => ("terminate_session", *agent, Some(*session)),
            ["agents", agent, "sessions", session, "snapshot"] => ("snapshot_session", *agent, Some(*session)),
            ["agents", ..] => return Err((404, format!("there is no path {path:?}"))),
            _ => return alert(key, body),
        };
        fits(action, body).map_err(|why| (400, format!("{action}: {why}")))?;
        let decoded =
            |text: &str| decode(text).ok_or_else(|| (400, format!("{text:?} is no UTF-8 in percent-encoding")));
        Ok(Deed {
            key: key.to_owned(),
            action,
            agent_id: decoded(agent)?,
            session_id: session.map(decoded).transpose()?,
            body: body.cloned().unwrap_or_default(),
        })
    }

    /// One line for a terminal: what agents wrote is escaped and cut.
    pub fn line(&self) -> String {
        let session = self.session_id.as_ref().map(|session| format!(" session {session:?}")).unwrap_or_default();
        let what = match self.action {
            "quarantine_agent" => format!(" for {} s", self.body["duration_secs"]),
            "rate_limit" => format!(" to {} requests a minute", self.body["requests_per_minute"]),
            "increase_logging" => format!(" to {}", self.body["level"]),
            "alert_soc" => format!(" {} {} {}", self.body["status"], self.body["severity"], self.body["rule_name"]),
            "update_policy" => format!(" {}", self.body["policy_patch"]),
            _ => String::new(),
        };
        let what: String = what.chars().flat_map(char::escape_debug).take(LINE).collect();
        format!("{} agent {:?}{session}{what}", self.action, self.agent_id).replace("\\\"", "\"")
    }
}

fn alert(key: &str, body: Option<&Value>) -> Result<Deed, Refusal> {
    let body = body.ok_or((400, "an alert has a body".to_owned()))?;
    let text = |name: &str| body[name].as_str().map(str::to_owned);
    Ok(Deed {
        key: key.to_owned(),
        action: "alert_soc",
        // Bodies for chat and paging services have no such field.
        agent_id: text("agent_id").unwrap_or_default(),
        session_id: text("session_id"),
        body: body.clone(),
    })
}

/// Why a body isn't the action's.
fn fits(action: &str, body: Option<&Value>) -> Result<(), String> {
    let Some(name) = (match action {
        "quarantine_agent" => Some("duration_secs"),
        "rate_limit" => Some("requests_per_minute"),
        "increase_logging" => Some("level"),
        "update_policy" => Some("policy_patch"),
        _ => None,
    }) else {
        return if body.is_none() { Ok(()) } else { Err("it has no body".into()) };
    };
    let value = body.and_then(|body| body.get(name)).ok_or_else(|| format!("the body has no \"{name}\""))?;
    let good = match name {
        "level" => value.is_string(),
        "policy_patch" => value.is_object(),
        "requests_per_minute" => value.as_u64().is_some_and(|n| n > 0),
        _ => value.is_u64(),
    };
    if good { Ok(()) } else { Err(format!("\"{name}\" is {value}")) }
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let (byte, tail) = match (first, tail) {
            (b'%', [a, b, tail @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                (u8::try_from(digit(a)? * 16 + digit(b)?).ok()?, tail)
            }
            (b'%', _) => return None,
            _ => (*first, tail),
        };
        bytes.push(byte);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ids_come_out_as_they_were() {
        let deed = Deed::of("/agents/..%2F%C3%A9/sessions/a%2520b/terminate", "k", None).unwrap();
        assert_eq!((deed.agent_id.as_str(), deed.session_id.as_deref()), ("../é", Some("a%20b")));
        assert_eq!(Deed::of("/agents/%zz/quarantine", "k", Some(&json!({"duration_secs": 1}))).unwrap_err().0, 400);
    }

    #[test]
    fn what_the_document_does_not_have_is_refused() {
        for (path, body, status) in [
            ("/agents/a/explode", None, 404),
            ("/agents/a/quarantine", None, 400),
            ("/agents/a/quarantine", Some(json!({"duration_secs": "1h"})), 400),
            ("/agents/a/rate_limit", Some(json!({"requests_per_minute": 0})), 400),
            ("/agents/a/sessions/s/snapshot", Some(json!({})), 400),
            ("/hook", None, 400),
        ] {
            assert_eq!(Deed::of(path, "k", body.as_ref()).unwrap_err().0, status, "{path}");
        }
    }

    #[test]
    fn a_line_shows_no_escape_sequence() {
        let body =
            json!({"status": "open", "severity": "high", "rule_name": "a\u{1b}[31m\nforged", "agent_id": "x\ny"});
        let line = Deed::of("/alerts", "k", Some(&body)).unwrap().line();
        assert!(!line.contains(['\u{1b}', '\n']) && line.contains("forged"), "{line}");
    }
}
