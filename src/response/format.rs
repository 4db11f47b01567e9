//! What the SOC's webhook gets, in the form that its receiver reads: the brief's JSON, Slack, PagerDuty or Teams.
//! Texts come from agents: none of them may become a link, a mention or markup, and all are cut to what receivers take.

use clawdstrike_rules::plan::Severity;
use clawdstrike_telemetry::time;
use serde_json::{Value, json};

use crate::alert::{Alert, Status};
use crate::config::SocFormat;

/// Characters of a heading, of a fact's value and of a summary: Slack takes 150, 2,000 and more, PagerDuty 1,024, Teams 28 KiB in all.
const HEADING: usize = 150;
const VALUE: usize = 300;
const SUMMARY: usize = 1_000;

/// A body; `routing_key` is PagerDuty's.
pub(super) fn body(format: SocFormat, routing_key: Option<&str>, alert: &Alert) -> Value {
    match format {
        SocFormat::Json => plain(alert),
        SocFormat::Slack => slack(alert),
        SocFormat::Pagerduty => pagerduty(routing_key.unwrap_or_default(), alert),
        SocFormat::Teams => teams(alert),
    }
}

/// The brief's fields, `status`, and the rest of the alert's JSON form (SPEC §6).
fn plain(alert: &Alert) -> Value {
    let trigger = serde_json::from_str(&alert.trigger_event).unwrap_or_else(|_| json!(alert.trigger_event));
    let mut body = alert.to_json();
    body["timestamp"] = json!(time::format(alert.last_seen));
    body["context"] = json!({"trigger_event": trigger, "session_risk_score": alert.risk_score});
    body
}

fn heading(alert: &Alert) -> String {
    let severity = format!("{:?}", alert.severity).to_lowercase();
    match alert.status {
        Status::Retracted => format!("[retracted] {}", alert.rule_name),
        _ => format!("[{severity}] {}", alert.rule_name),
    }
}

/// Names and values, the same for all who show them to people.
fn facts(alert: &Alert) -> Vec<(&'static str, String)> {
    vec![
        ("Rule", alert.rule_id.clone()),
        ("Status", alert.status.name().to_owned()),
        ("Agent", alert.agent_id.clone()),
        ("Session", alert.session_id.clone()),
        ("Risk", format!("{:.1}", alert.risk_score)),
        ("Matches", alert.match_count.to_string()),
        ("Last seen", time::format(alert.last_seen)),
        ("Alert", alert.alert_id.clone()),
    ]
}

/// At most so many characters on one line.
fn cut(text: &str, most: usize) -> String {
    let line = |c: char| if c.is_control() { ' ' } else { c };
    match text.chars().nth(most) {
        None => text.chars().map(line).collect(),
        Some(_) => text.chars().take(most - 1).map(line).chain(['…']).collect(),
    }
}

/// Plain text throughout: there is no markup in it, and no mention.
fn slack(alert: &Alert) -> Value {
    let plain = |text: String| json!({"type": "plain_text", "text": text, "emoji": false});
    let fields: Vec<Value> =
        facts(alert).into_iter().map(|(name, value)| plain(format!("{name}: {}", cut(&value, VALUE)))).collect();
    let heading = cut(&heading(alert), HEADING);
    // The notification's text is read as markup: these three are its whole escaping.
    let text = heading.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    json!({"text": text, "blocks": [{"type": "header", "text": plain(heading)}, {"type": "section", "fields": fields}]})
}

/// Events API v2. The alert's id joins its versions, so that a retraction resolves what the alert triggered.
fn pagerduty(routing_key: &str, alert: &Alert) -> Value {
    let severity = match alert.severity {
        Severity::Critical => "critical",
        Severity::High => "error",
        Severity::Medium => "warning",
        Severity::Low | Severity::Info => "info",
    };
    let details: serde_json::Map<String, Value> = facts(alert)
        .into_iter()
        .map(|(name, value)| (name.to_lowercase().replace(' ', "_"), json!(cut(&value, VALUE))))
        .collect();
    json!({
        "routing_key": routing_key,
        "event_action": if alert.status == Status::Retracted { "resolve" } else { "trigger" },
        "dedup_key": alert.alert_id,
        "client": "clawdstrike-edr",
        "payload": {
            "summary": cut(&format!("{}: agent {}", heading(alert), alert.agent_id), SUMMARY),
            "source": cut(&alert.agent_id, VALUE),
            "severity": severity,
            "timestamp": time::format(alert.last_seen),
            "component": cut(&alert.session_id, VALUE),
            "group": alert.rule_id,
            "custom_details": details,
        },
    })
}

/// An adaptive card for a workflow's webhook.
fn teams(alert: &Alert) -> Value {
    let facts: Vec<Value> = facts(alert)
        .into_iter()
        .map(|(name, value)| json!({"title": name, "value": unmarked(&cut(&value, VALUE))}))
        .collect();
    json!({"type": "message", "attachments": [{
        "contentType": "application/vnd.microsoft.card.adaptive",
        "content": {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "body": [
                {"type": "TextBlock", "text": unmarked(&cut(&heading(alert), HEADING)), "weight": "Bolder", "wrap": true},
                {"type": "FactSet", "facts": facts},
            ],
        },
    }]})
}

/// Cards read a little Markdown everywhere.
fn unmarked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '\\' | '`' | '*' | '_' | '[' | ']' | '(' | ')' | '#' | '!' | '<' | '>' | '~') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(agent: &str, status: Status) -> Alert {
        Alert {
            rule_name: "Reads <keys>".into(),
            status,
            agent_id: agent.into(),
            match_count: 2,
            risk_score: 42.0,
            ..Alert::sample()
        }
    }

    #[test]
    fn slack_gets_plain_text_that_mentions_nobody() {
        let body = body(SocFormat::Slack, None, &alert("<!channel>\nx", Status::Open));
        assert_eq!(body["text"], "[high] Reads &lt;keys&gt;");
        assert_eq!(body["blocks"][0]["text"]["text"], "[high] Reads <keys>");
        let fields = body["blocks"][1]["fields"].as_array().expect("fields");
        assert!(fields.iter().all(|field| field["type"] == "plain_text"));
        assert_eq!(fields[2]["text"], "Agent: <!channel> x");
    }

    #[test]
    fn a_retraction_resolves_what_the_alert_triggered() {
        let event = |status| body(SocFormat::Pagerduty, Some("key"), &alert("agent", status));
        let (trigger, resolve) = (event(Status::Open), event(Status::Retracted));
        assert_eq!((&trigger["event_action"], &resolve["event_action"]), (&json!("trigger"), &json!("resolve")));
        assert_eq!(trigger["dedup_key"], resolve["dedup_key"]);
        assert_eq!((&trigger["routing_key"], &trigger["payload"]["severity"]), (&json!("key"), &json!("error")));
    }

    #[test]
    fn teams_gets_a_card_without_links_of_agents() {
        let body = body(SocFormat::Teams, None, &alert("[click](http://x)", Status::Open));
        let card = &body["attachments"][0]["content"];
        assert_eq!(card["type"], "AdaptiveCard");
        assert_eq!(card["body"][1]["facts"][2], json!({"title": "Agent", "value": "\\[click\\]\\(http://x\\)"}));
    }

    #[test]
    fn long_texts_are_cut() {
        for format in [SocFormat::Slack, SocFormat::Pagerduty, SocFormat::Teams] {
            let body = body(format, None, &alert(&"ä".repeat(100_000), Status::Open)).to_string();
            assert!(body.len() < 8_000, "{format:?}: {}", body.len());
        }
    }
}
