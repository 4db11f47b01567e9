//! What-if in a running cluster: `rules diff` foretells what `rules load` then does.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::backfill::{alert_of, config, theft};
use crate::{BRIEF, Cluster, append, event, receiver, wait};

/// All alerts of the live view by id, as they are told but for their revisions.
fn alerts(cluster: &Cluster) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for filter in ["", "&status=retracted"] {
        let answer = cluster.get(&format!("/v1/alerts?limit=1000{filter}")).expect("alerts");
        for mut alert in answer["alerts"].as_array().expect("rows").clone() {
            alert.as_object_mut().expect("an alert").remove("revision");
            all.insert(alert["alert_id"].to_string(), alert);
        }
    }
    all
}

/// The alerts that there are to be.
fn foretold(mut now: BTreeMap<String, Value>, diff: &Value) -> BTreeMap<String, Value> {
    let rows = |kind: &str| diff[kind].as_array().expect("rows").clone();
    for pair in [rows("removed"), rows("changed")].concat() {
        let old = now.insert(pair["to"]["alert_id"].to_string(), pair["to"].clone());
        assert_eq!(old.as_ref(), Some(&pair["from"]), "as it is");
    }
    for alert in rows("added") {
        now.insert(alert["alert_id"].to_string(), alert);
    }
    now
}

fn rules_of(diff: &Value, kind: &str, way: &str) -> Vec<String> {
    let rows = diff[kind].as_array().expect("rows").iter();
    rows.map(|row| row.pointer(way).and_then(Value::as_str).expect("a rule").to_owned()).collect()
}

#[test]
fn what_rules_diff_tells_is_what_rules_load_then_does() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("data")).unwrap();
    let (hook, got) = receiver();
    let stays = theft("STAYS", "");
    let current = [
        ("brief.yaml", BRIEF),
        ("stays.yaml", &stays),
        ("goes.yaml", &theft("GOES", "")),
        ("retracts.yaml", &theft("RETRACTS", "on_removal: retract,")),
        ("changes.yaml", &theft("CHANGES", "suppress_for: 0s,")),
    ];
    let cluster = Cluster::start(&config(folder.path(), &hook), &current, &[]);
    let (one, other) = (folder.path().join("data/a.jsonl"), folder.path().join("data/b.jsonl"));
    append(&one, &event("e1", "s", 0, "file_access", "/secret", true));
    append(&one, &event("e2", "s", 1, "network_egress", "evil.io:443", true));
    append(&other, &event("e3", "s", 2, "shell_command", "rm -rf /", true));
    append(&one, &event("e4", "s", 3, "file_access", "/other", true));
    for rule in ["STAYS", "GOES", "RETRACTS", "CHANGES"] {
        alert_of(&cluster, rule, "s");
    }
    wait("all events", || cluster.get("/v1/health").filter(|health| health["events"] == 4));
    let told = wait("the webhooks", || Some(got.lock().unwrap().len()).filter(|told| *told >= 4));

    let proposed = folder.path().join("proposed");
    std::fs::create_dir_all(&proposed).unwrap();
    let new = theft("NEW", "").replace("network_egress", "shell_command");
    let files = [
        ("brief.yaml", BRIEF),
        ("stays.yaml", &stays),
        ("changes.yaml", &theft("CHANGES", "suppress_for: 0s,").replace("severity: high", "severity: critical")),
        ("new.yaml", &new),
    ];
    for (name, text) in files {
        std::fs::write(proposed.join(name), text).unwrap();
    }
    let proposed = proposed.to_str().unwrap();
    let before = (alerts(&cluster), cluster.get("/v1/rules").unwrap()["epoch"].clone());
    let (code, out, err) = cluster.cli(&["rules", "diff", proposed, "--output", "json"]);
    let diff: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}"));
    assert_eq!((code, err.as_str(), &diff["incomplete"]), (1, "", &json!([])));
    assert_eq!(rules_of(&diff, "added", "/rule_id"), ["NEW"]);
    assert_eq!(rules_of(&diff, "removed", "/to/rule_id"), ["RETRACTS"]);
    assert_eq!(diff["removed"][0]["to"]["retracted_because"], "rule_removed");
    let mut changed = rules_of(&diff, "changed", "/to/rule_id");
    changed.sort();
    assert_eq!(changed, ["CHANGES", "GOES"]);
    let evidence: Vec<&str> =
        diff["added"][0]["evidence"].as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap()).collect();
    assert_eq!(evidence, ["e1", "e3"]);
    assert_eq!(diff["added"][0]["backfilled"], true);
    let (code, out, err) = cluster.cli(&["rules", "diff", proposed]);
    assert_eq!(code, 1, "{err}");
    for part in
        ["added", "NEW", "/secret, rm -rf /", "retracted: rule_removed", "rule_removed true", "severity critical"]
    {
        assert!(out.contains(part), "no {part:?} in\n{out}");
    }
    assert!(out.contains("1 added, 1 removed, 2 changed, 1 as before"), "{out}");
    // Nothing was done.
    assert_eq!((alerts(&cluster), cluster.get("/v1/rules").unwrap()["epoch"].clone()), before);

    let expected = foretold(before.0, &diff);
    let (code, _, err) = cluster.cli(&["rules", "load", "--file", proposed]);
    assert_eq!(code, 0, "{err}");
    alert_of(&cluster, "NEW", "s");
    assert_eq!(alerts(&cluster), expected);
    let (code, out, err) = cluster.cli(&["rules", "diff", proposed]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("0 added, 0 removed, 0 changed, 4 as before"), "{out}");
    assert_eq!(got.lock().unwrap().iter().filter(|body| body["rule_id"] == "NEW").count(), 0, "{told} before");

    // What can't be read again is read from the store.
    wait("all rows", || cluster.get("/v1/health").filter(|health| health["archived"] == 4));
    std::fs::remove_file(&one).unwrap();
    std::fs::remove_file(&other).unwrap();
    std::fs::write(folder.path().join("proposed/more.yaml"), theft("MORE", "")).unwrap();
    let (code, out, err) = cluster.cli(&["rules", "diff", proposed]);
    assert!(code == 1 && out.contains("MORE") && err.is_empty(), "{out}{err}");
    // And what doesn't compile, as by a load.
    std::fs::write(folder.path().join("proposed/more.yaml"), theft("MORE", "severitty: high,")).unwrap();
    let (code, out, err) = cluster.cli(&["rules", "diff", proposed]);
    assert!(code == 1 && out.contains("more.yaml:"), "{out}{err}");
    assert_eq!(cluster.stop(), 0);
}

#[test]
fn what_neither_a_source_nor_a_store_has_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("data")).unwrap();
    let (hook, _) = receiver();
    let config = config(folder.path(), &hook) + "events = false\n";
    let cluster = Cluster::start(&config, &[("brief.yaml", BRIEF)], &[]);
    let file = folder.path().join("data/a.jsonl");
    append(&file, &event("e1", "s", 0, "file_access", "/secret", true));
    append(&file, &event("e2", "s", 1, "network_egress", "evil.io:443", true));
    wait("both events", || cluster.get("/v1/health").filter(|health| health["events"] == 2));
    let proposed = folder.path().join("more.yaml");
    std::fs::write(&proposed, theft("MORE", "")).unwrap();
    let diff = || {
        let (_, out, err) = cluster.cli(&["rules", "diff", proposed.to_str().unwrap(), "--output", "json"]);
        serde_json::from_str::<Value>(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}"))
    };
    assert_eq!((rules_of(&diff(), "added", "/rule_id"), &diff()["incomplete"]), (vec!["MORE".to_owned()], &json!([])));
    std::fs::remove_file(&file).unwrap();
    let told = diff();
    assert_eq!(told["added"], json!([]));
    let said = told["incomplete"][0].as_str().expect("a reason");
    assert!(said.contains("events") && said.contains("events = true"), "{said}");
    assert_eq!(cluster.stop(), 0);
}
