//! Rules that are loaded into a running cluster, and what had happened before.

use serde_json::Value;

use crate::kafka::{APPEND_TIME, produce};
use crate::{BRIEF, Cluster, append, event, receiver, wait};

/// A secret is read, then something leaves. `more`: further keys.
pub fn theft(id: &str, more: &str) -> String {
    format!(
        "rules:\n- {{id: {id}, name: theft, severity: high, actions: [alert_soc], {more} conditions: [{{type: sequence, window: 1h, \
         events: [{{event_type: file_access, target_glob: /secret}}, {{event_type: network_egress}}]}}]}}\n"
    )
}

pub fn config(folder: &std::path::Path, hook: &str) -> String {
    let path = |name: &str| folder.join(name);
    format!(
        "[cluster]\nprocesses = 2\nstate = {:?}\n[checkpoint]\nevery = \"1s\"\n[response]\nsoc_webhook = \"{hook}\"\n\
         [[source]]\ntype = \"jsonl\"\nname = \"events\"\npath = {:?}\n[store]\ntype = \"sqlite\"\npath = {:?}\n",
        path("state"),
        path("data"),
        path("store.db")
    )
}

fn until_read(cluster: &Cluster, events: u64) {
    wait(&format!("{events} events"), || cluster.get("/v1/health").filter(|h| h["events"] == events));
}

pub fn alert_of(cluster: &Cluster, rule: &str, session: &str) -> Value {
    wait(&format!("the alert of {rule} in {session}"), || {
        cluster.alerts_of(rule).into_iter().find(|alert| alert["session_id"] == session)
    })
}

#[test]
fn a_rule_goes_on_with_what_had_begun_before_it_was_loaded() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("data")).unwrap();
    let (hook, got) = receiver();
    let told = || got.lock().unwrap().iter().map(|body| body["session_id"].to_string()).collect::<Vec<_>>();
    let config = config(folder.path(), &hook);
    let events = folder.path().join("data/a.jsonl");
    let (other, silent, loud) =
        (folder.path().join("data/b.jsonl"), theft("SILENT", ""), theft("LOUD", "backfill_actions: true,"));

    let cluster = Cluster::start(&config, &[("brief.yaml", BRIEF)], &[]);
    append(&events, &event("e1", "begun", 0, "file_access", "/secret", true));
    append(&events, &event("e2", "done", 1, "file_access", "/secret", true));
    append(&other, &event("e3", "done", 2, "network_egress", "evil.io:443", true));
    until_read(&cluster, 3);
    std::fs::write(cluster.path("rules/silent.yaml"), &silent).unwrap();
    // What was done before is found, and marked; nothing is done about it.
    let found = alert_of(&cluster, "SILENT", "done");
    assert_eq!((&found["backfilled"], &found["match_count"]), (&true.into(), &1.into()), "{found}");
    // What had begun before is found with its end.
    append(&events, &event("e4", "begun", 3, "network_egress", "evil.io:443", true));
    let found = alert_of(&cluster, "SILENT", "begun");
    assert_eq!(found["backfilled"], Value::Null, "{found}");
    let evidence: Vec<&str> = found["evidence"].as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap()).collect();
    assert_eq!(evidence, ["e1", "e4"]);
    wait("the webhook", || (!told().is_empty()).then_some(()));
    // What goes on is no matter of the past.
    append(&events, &event("e5", "done", 4, "network_egress", "evil.io:443", true));
    wait("the second webhook", || (told().len() == 2).then_some(()));
    assert_eq!(told(), ["\"begun\"", "\"done\""]);
    // A rule may want actions all the same.
    std::fs::write(cluster.path("rules/loud.yaml"), &loud).unwrap();
    wait("the webhooks of the other rule", || (told().len() == 4).then_some(()));
    // Whatever is read again, it happened once.
    let session = cluster.get("/v1/sessions/ag1/done").unwrap();
    assert_eq!(session["sessions"][0]["events"], 3, "{session}");
    let before = [cluster.alerts_of("SILENT"), cluster.alerts_of("LOUD")].concat();
    assert_eq!(before.len(), 4);
    // SIGKILL.
    drop(cluster);

    let cluster =
        Cluster::start(&config, &[("brief.yaml", BRIEF), ("silent.yaml", &silent), ("loud.yaml", &loud)], &[]);
    append(&events, &event("e6", "begun", 5, "network_egress", "evil.io:443", true));
    wait("the next match", || (alert_of(&cluster, "SILENT", "begun")["match_count"] == 2).then_some(()));
    wait("the next match of the other", || (alert_of(&cluster, "LOUD", "begun")["match_count"] == 2).then_some(()));
    let after = [cluster.alerts_of("SILENT"), cluster.alerts_of("LOUD")].concat();
    let marks = |alerts: &[Value]| {
        let mark = |a: &Value| (a["alert_id"].to_string(), a["backfilled"].to_string());
        alerts.iter().map(mark).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(marks(&after), marks(&before));
    assert_eq!(cluster.stop(), 0);
    assert_eq!(told().len(), 4, "no action is repeated");
}

#[test]
fn a_cluster_that_is_killed_while_events_are_read_again_reads_them_again() {
    const EVENTS: u32 = 200_000;
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("data")).unwrap();
    let (hook, _) = receiver();
    let config = config(folder.path(), &hook);
    let events = folder.path().join("data/a.jsonl");
    let mut text = event("e0", "s", 0, "file_access", "/secret", true);
    for n in 1..EVENTS {
        let session = format!("t{}", n % 1_000);
        text += &event(&format!("e{n}"), &session, n / 200, "shell_command", "ls", true);
    }
    append(&events, &text);
    let cluster = Cluster::start(&config, &[("brief.yaml", BRIEF)], &[]);
    until_read(&cluster, EVENTS.into());
    let late = theft("LATE", "");
    std::fs::write(cluster.path("rules/late.yaml"), &late).unwrap();
    wait("the rule", || cluster.get("/v1/rules/LATE").filter(|answer| answer["rule"]["id"] == "LATE"));
    // SIGKILL. Whether the rule has begun by then or not, it begins.
    drop(cluster);

    let cluster = Cluster::start(&config, &[("brief.yaml", BRIEF), ("late.yaml", &late)], &[]);
    append(&events, &event("end", "s", EVENTS / 200, "network_egress", "evil.io:443", true));
    let found = alert_of(&cluster, "LATE", "s");
    assert_eq!((&found["backfilled"], &found["match_count"]), (&Value::Null, &1.into()), "{found}");
    assert_eq!(found["evidence"][0]["id"], "e0");
    assert_eq!(cluster.stop(), 0);
}

#[test]
fn open_alerts_stay_when_their_rule_goes_and_say_so() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("data")).unwrap();
    let (hook, _) = receiver();
    let rule = theft("GOES", "");
    let cluster = Cluster::start(&config(folder.path(), &hook), &[("brief.yaml", BRIEF), ("goes.yaml", &rule)], &[]);
    let events = folder.path().join("data/a.jsonl");
    append(&events, &event("e1", "s", 0, "file_access", "/secret", true));
    append(&events, &event("e2", "s", 1, "network_egress", "evil.io:443", true));
    let opened = alert_of(&cluster, "GOES", "s");
    assert_eq!(opened["rule_removed"], Value::Null);
    std::fs::remove_file(cluster.path("rules/goes.yaml")).unwrap();
    let marked = wait("the mark", || cluster.alerts_of("GOES").pop().filter(|alert| alert["rule_removed"] == true));
    assert_eq!((&marked["alert_id"], &marked["status"]), (&opened["alert_id"], &opened["status"]));
    std::fs::write(cluster.path("rules/goes.yaml"), &rule).unwrap();
    wait("no mark", || cluster.alerts_of("GOES").pop().filter(|alert| alert["rule_removed"].is_null()));
    assert_eq!(cluster.stop(), 0);
}

#[test]
fn a_topic_is_read_again_by_time() {
    let kafka = clawdstrike_test_services::kafka().unwrap();
    kafka.create_topic("agents", 3, &[APPEND_TIME]).unwrap();
    let config = format!(
        "[cluster]\nprocesses = 2\n[[source]]\ntype = \"kafka\"\nname = \"kafka\"\nbrokers = \"{}\"\ntopics = [\"agents\"]\n",
        kafka.bootstrap()
    );
    let cluster = Cluster::start(&config, &[("brief.yaml", BRIEF)], &[]);
    produce(&kafka, "agents", 2, "before", 0..4);
    until_read(&cluster, 4);
    // Where a session's events lie in several partitions, they are one group's all the same.
    let rule = "rules:\n- {id: FIVE, name: five, severity: low, by: [agent_id], suppress_for: 0s, conditions: \
                [{type: threshold, window: 1h, event_type: file_access, count: '>= 5'}]}\n";
    std::fs::write(cluster.path("rules/five.yaml"), rule).unwrap();
    wait("the rule", || cluster.get("/v1/rules/FIVE").filter(|answer| answer["rule"]["id"] == "FIVE"));
    assert!(cluster.alerts_of("FIVE").is_empty());
    produce(&kafka, "agents", 3, "after", 0..1);
    let found = alert_of(&cluster, "FIVE", "after");
    assert_eq!((&found["match_count"], &found["backfilled"]), (&1.into(), &Value::Null), "{found}");
    assert_eq!(found["evidence"].as_array().unwrap().len(), 5);
    assert_eq!(cluster.stop(), 0);
}
