//! Rules and allowlists that change under open alerts.

use serde_json::Value;

use crate::backfill::{alert_of, config, theft};
use crate::{BRIEF, Cluster, append, event, receiver, wait};

/// What takes out targets of a type of event.
fn allowing(event_type: &str, target: &str) -> String {
    format!("allowlist:\n- {{event_types: [{event_type}], target_patterns: [{target:?}], reason: ours}}\n")
}

/// Alerts of a rule, also the retracted ones, which lists leave out unless they are asked for.
fn all_of(cluster: &Cluster, rule: &str) -> Vec<Value> {
    let retracted = cluster.get(&format!("/v1/alerts?rule_id={rule}&status=retracted")).unwrap_or_default();
    let retracted = retracted["alerts"].as_array().cloned().unwrap_or_default();
    [cluster.alerts_of(rule), retracted].concat()
}

#[test]
fn what_an_allowlist_takes_out_no_longer_holds() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("data")).unwrap();
    let (hook, _) = receiver();
    let config = config(folder.path(), &hook);
    let rules = theft("THEFT", "suppress_for: 1d,");
    let files = [("brief.yaml", BRIEF), ("theft.yaml", rules.as_str())];
    let cluster = Cluster::start(&config, &files, &[]);
    let events = folder.path().join("data/a.jsonl");
    let mut second = 0;
    let mut happen = |session: &str, event_type: &str, target: &str| {
        second += 1;
        append(&events, &event(&format!("e{second}"), session, second, event_type, target, true));
    };
    let of = |session: &str| {
        let mut alerts = all_of(&cluster, "THEFT");
        alerts.retain(|alert| alert["session_id"] == session);
        alerts.sort_by_key(|alert| alert["first_seen"].to_string());
        alerts.iter().map(|a| (a["status"].clone(), a["retracted_because"].clone())).collect::<Vec<_>>()
    };
    let (open, retracted) = (("open".into(), Value::Null), (Value::from("retracted"), Value::from("allowlisted")));

    for session in ["both", "other"] {
        happen(session, "file_access", "/secret");
        happen(session, "network_egress", if session == "both" { "mirror.example:443" } else { "evil.io:443" });
    }
    happen("begun", "file_access", "/secret");
    alert_of(&cluster, "THEFT", "both");
    alert_of(&cluster, "THEFT", "other");
    std::fs::write(cluster.path("rules/mirror.yaml"), allowing("network_egress", "mirror.example")).unwrap();
    wait("the retraction", || (of("both") == [retracted.clone()]).then_some(()));
    assert_eq!(of("other"), vec![open.clone()]);
    // What the entry doesn't speak of still counts, and is another alert, however near it is to the one that was retracted.
    happen("both", "network_egress", "mirror.example:443");
    happen("both", "network_egress", "evil.io:443");
    wait("the alert of what leaves for elsewhere", || (of("both") == [retracted.clone(), open.clone()]).then_some(()));
    let again = cluster.alerts_of("THEFT").into_iter().find(|a| a["session_id"] == "both" && a["status"] == "open");
    assert_eq!(again.unwrap()["match_count"], 1);

    // A first step that is taken out is none for what comes later.
    std::fs::write(cluster.path("rules/secret.yaml"), allowing("file_access", "/secret")).unwrap();
    wait("the retractions", || (of("other") == [retracted.clone()]).then_some(()));
    wait("the other retraction", || (of("both") == [retracted.clone(), retracted.clone()]).then_some(()));
    happen("begun", "network_egress", "evil.io:443");
    happen("begun", "network_egress", "late.io:443");
    wait("the events", || cluster.get("/v1/health").filter(|h| h["events"] == second));
    assert_eq!(of("begun"), []);
    // Without the entry it is one again.
    let other = theft("OTHER", "").replace("/secret", "/other");
    std::fs::write(cluster.path("rules/secret.yaml"), other).unwrap();
    wait("the other rule", || cluster.get("/v1/rules/OTHER").filter(|answer| answer["rule"]["id"] == "OTHER"));
    second += 1;
    append(&events, &event("last", "begun", second, "network_egress", "evil.io:443", true));
    wait("the alert", || (of("begun") == [open.clone()]).then_some(()));
    let evidence = alert_of(&cluster, "THEFT", "begun")["evidence"].clone();
    assert_eq!((&evidence[0]["id"], &evidence[1]["id"]), (&"e5".into(), &"last".into()), "{evidence}");
    // SIGKILL, and another allowlist when it comes back.
    drop(cluster);
    let secret = allowing("file_access", "/secret");
    let cluster = Cluster::start(&config, &[files.as_slice(), &[("secret.yaml", &secret)]].concat(), &[]);
    wait("the retraction after the restart", || {
        let alert = all_of(&cluster, "THEFT").into_iter().find(|alert| alert["session_id"] == "begun");
        alert.filter(|alert| alert["retracted_because"] == "allowlisted")
    });
    assert_eq!(cluster.stop(), 0);
}

#[test]
fn a_rule_says_what_becomes_of_its_alerts_when_it_goes() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("data")).unwrap();
    let (hook, _) = receiver();
    let files = ["keep", "close", "retract"].map(|choice| {
        let rule = theft(&choice.to_uppercase(), &format!("on_removal: {choice},"));
        (format!("{choice}.yaml"), rule)
    });
    let all: Vec<(&str, &str)> = files.iter().map(|(name, rule)| (name.as_str(), rule.as_str())).collect();
    let cluster =
        Cluster::start(&config(folder.path(), &hook), &[&[("brief.yaml", BRIEF)], all.as_slice()].concat(), &[]);
    let events = folder.path().join("data/a.jsonl");
    append(&events, &event("e1", "s", 0, "file_access", "/secret", true));
    append(&events, &event("e2", "s", 1, "network_egress", "evil.io:443", true));
    for (rule, status, reason) in [
        ("KEEP", "open", Value::Null),
        ("CLOSE", "closed", Value::Null),
        ("RETRACT", "retracted", Value::from("rule_removed")),
    ] {
        alert_of(&cluster, rule, "s");
        std::fs::remove_file(cluster.path(&format!("rules/{}.yaml", rule.to_lowercase()))).unwrap();
        let gone = wait("the mark", || all_of(&cluster, rule).pop().filter(|alert| alert["rule_removed"] == true));
        assert_eq!((&gone["status"], &gone["retracted_because"]), (&status.into(), &reason), "{gone}");
    }
    let closed = cluster.alerts_of("CLOSE").pop().unwrap();
    assert_eq!(closed["handling"][0]["by"], "clawdstrike-edr", "{closed}");
    assert_eq!(cluster.stop(), 0);
}
