//! Rules that are loaded into a running cluster, and what had happened before.

use serde_json::Value;

use crate::kafka::{APPEND_TIME, produce, text};
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

/// So many events of a session, of any kind.
fn crowd(id: &str, count: u32) -> String {
    format!(
        "rules:\n- {{id: {id}, name: crowd, severity: low, suppress_for: 0s, conditions: [{{type: threshold, window: 1h, \
         event_type: any, count: '>= {count}'}}]}}\n"
    )
}

fn evidence(alert: &Value) -> Vec<&str> {
    let ids = alert["evidence"].as_array().unwrap().iter();
    ids.map(|entry| entry["id"].as_str().unwrap_or("none")).collect()
}

fn until_stored(cluster: &Cluster, events: u64) {
    wait(&format!("{events} events in the store"), || cluster.get("/v1/health").filter(|h| h["archived"] == events));
}

/// When the last checkpoint was made.
fn checkpointed(cluster: &Cluster) -> Option<String> {
    let text = text(cluster, "/metrics");
    let time = text.lines().find_map(|line| line.strip_prefix("clawdstrike_checkpoint_timestamp_seconds "))?;
    (time != "0").then(|| time.to_owned())
}

/// `store`: lines of `[store]`.
fn what_a_deleted_file_had_is_read_from(store: &str, env: &[(&str, &str)]) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("data")).unwrap();
    let path = |name: &str| folder.path().join(name);
    let config = format!(
        "[cluster]\nprocesses = 2\nstate = {:?}\n[checkpoint]\nevery = \"1s\"\n[[source]]\ntype = \"jsonl\"\n\
         name = \"events\"\npath = {:?}\n[store]\n{store}\n",
        path("state"),
        path("data")
    );
    let (first, second) = (path("data/a.jsonl"), path("data/b.jsonl"));
    // What this rule keeps of events is there when they come again.
    let keeps = theft("KEEPS", "");
    let cluster = Cluster::start(&config, &[("keeps.yaml", &keeps)], env);
    append(&first, &event("e1", "begun", 0, "file_access", "/secret", true));
    let nameless = event("", "done", 1, "file_access", "/secret", true).replacen("\"event_id\":\"\",", "", 1);
    append(&first, &nameless);
    append(&first, &event("e3", "done", 2, "network_egress", "evil.io:443", true));
    append(&second, &event("e4", "begun", 3, "network_egress", "evil.io:443", true));
    until_stored(&cluster, 4);
    std::fs::remove_file(&first).unwrap();
    let (late, three) = (theft("LATE", ""), crowd("THREE", 3));
    std::fs::write(cluster.path("rules/late.yaml"), &late).unwrap();
    let found = alert_of(&cluster, "LATE", "done");
    assert_eq!((&found["backfilled"], &found["match_count"]), (&true.into(), &1.into()), "{found}");
    // One event of a file that is gone, and one of a file that is there.
    let found = alert_of(&cluster, "LATE", "begun");
    assert_eq!((&found["backfilled"], evidence(&found)), (&true.into(), vec!["e1", "e4"]), "{found}");
    let log = cluster.log.lock().unwrap().clone();
    assert!(log.lines().any(|l| l.contains("read from the store") && l.contains("events=3")), "{log}");
    // However often and from wherever events are read again, each is one.
    std::fs::write(cluster.path("rules/three.yaml"), &three).unwrap();
    wait("the second rule", || {
        let log = cluster.log.lock().unwrap();
        (log.matches("new and changed rules have begun").count() == 2).then_some(())
    });
    append(&second, &event("e5", "begun", 4, "mcp_tool", "t", true));
    let found = alert_of(&cluster, "THREE", "begun");
    assert_eq!((evidence(&found), &found["backfilled"]), (vec!["e1", "e4", "e5"], &Value::Null), "{found}");
    assert_eq!(cluster.get("/v1/sessions/ag1/begun").unwrap()["sessions"][0]["events"], 3);
    // All of it is in the second checkpoint from now on.
    let mut made = None;
    for _ in 0..3 {
        made = Some(wait("a checkpoint", || checkpointed(&cluster).filter(|time| made.as_ref() != Some(time))));
    }
    // SIGKILL.
    drop(cluster);

    let rules = [("keeps.yaml", &*keeps), ("late.yaml", &*late), ("three.yaml", &*three)];
    let cluster = Cluster::start(&config, &rules, env);
    std::fs::write(cluster.path("rules/five.yaml"), crowd("FIVE", 5)).unwrap();
    wait("the third rule", || cluster.log.lock().unwrap().contains("new and changed rules have begun").then_some(()));
    append(&second, &event("e6", "begun", 5, "mcp_tool", "t", true));
    append(&second, &event("e7", "begun", 6, "mcp_tool", "t", true));
    let found = alert_of(&cluster, "FIVE", "begun");
    assert_eq!((evidence(&found), &found["match_count"]), (vec!["e1", "e4", "e5", "e6", "e7"], &1.into()), "{found}");
    assert_eq!(cluster.stop(), 0);
}

#[test]
fn what_a_deleted_file_had_is_read_from_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    what_a_deleted_file_had_is_read_from(&format!("type = \"sqlite\"\npath = {:?}", folder.path().join("edr.db")), &[]);
}

/// It keeps what records say, and not their bytes.
#[test]
fn what_a_deleted_file_had_is_read_from_postgres() {
    let server = clawdstrike_test_services::postgres().unwrap();
    let url = server.create_database("edr").unwrap();
    what_a_deleted_file_had_is_read_from("type = \"postgres\"\nurl_env = \"EDR_DB\"", &[("EDR_DB", &url)]);
}

#[test]
fn without_events_in_a_store_rules_begin_without_what_is_gone_and_the_log_says_so() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("data")).unwrap();
    let (hook, _) = receiver();
    let config = config(folder.path(), &hook).replace("type = \"sqlite\"", "type = \"sqlite\"\nevents = false");
    let cluster = Cluster::start(&config, &[("brief.yaml", BRIEF)], &[]);
    let (first, second) = (folder.path().join("data/a.jsonl"), folder.path().join("data/b.jsonl"));
    append(&first, &event("e1", "s", 0, "file_access", "/secret", true));
    append(&second, &event("e2", "t", 1, "file_access", "/secret", true));
    until_read(&cluster, 2);
    std::fs::remove_file(&first).unwrap();
    std::fs::write(cluster.path("rules/late.yaml"), theft("LATE", "")).unwrap();
    wait("rules that have begun", || cluster.log.lock().unwrap().contains("rules have begun").then_some(()));
    append(&second, &event("e3", "s", 2, "network_egress", "evil.io:443", true));
    append(&second, &event("e4", "t", 3, "network_egress", "evil.io:443", true));
    alert_of(&cluster, "LATE", "t");
    assert_eq!(cluster.alerts_of("LATE").len(), 1);
    let log = cluster.log.lock().unwrap().clone();
    assert!(log.lines().any(|l| l.contains("WARN") && l.contains("events = true") && l.contains("events")), "{log}");
    assert_eq!(cluster.stop(), 0);
}

#[test]
fn what_retention_took_of_a_topic_is_read_from_the_store() {
    let kafka = clawdstrike_test_services::kafka().unwrap();
    kafka.create_topic("agents", 2, &[APPEND_TIME]).unwrap();
    let config = format!(
        "[cluster]\nprocesses = 2\n[[source]]\ntype = \"kafka\"\nname = \"kafka\"\nbrokers = \"{}\"\ntopics = [\"agents\"]\n",
        kafka.bootstrap()
    );
    let cluster = Cluster::start(&config, &[("brief.yaml", BRIEF)], &[]);
    produce(&kafka, "agents", 2, "before", 0..6);
    until_stored(&cluster, 6);
    // Two of three, and all.
    kafka.delete_records("agents", 0, 2).unwrap();
    kafka.delete_records("agents", 1, 3).unwrap();
    let rule = "rules:\n- {id: SEVEN, name: seven, severity: low, by: [agent_id], suppress_for: 0s, conditions: \
                [{type: threshold, window: 1h, event_type: file_access, count: '>= 7'}]}\n";
    std::fs::write(cluster.path("rules/seven.yaml"), rule).unwrap();
    wait("the rule", || cluster.log.lock().unwrap().contains("new and changed rules have begun").then_some(()));
    assert!(cluster.alerts_of("SEVEN").is_empty());
    produce(&kafka, "agents", 2, "after", 0..1);
    let found = alert_of(&cluster, "SEVEN", "after");
    assert_eq!((&found["match_count"], &found["backfilled"]), (&1.into(), &Value::Null), "{found}");
    assert_eq!(found["evidence"].as_array().unwrap().len(), 7);
    assert_eq!(cluster.stop(), 0);
}

/// Makes a pipe; gives its path.
fn pipe(folder: &std::path::Path) -> std::path::PathBuf {
    let pipe = folder.join("events.pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    pipe
}

#[test]
fn what_a_pipe_gave_is_archived_beside_the_engine_and_read_from_the_store() {
    use std::io::Write;
    const EVENTS: u32 = 2_000;
    let folder = tempfile::tempdir().unwrap();
    let pipe = pipe(folder.path());
    let (hook, _) = receiver();
    let config =
        config(folder.path(), &hook).replace(&format!("{:?}", folder.path().join("data")), &format!("{pipe:?}"));
    let cluster = Cluster::start(&config, &[("brief.yaml", BRIEF)], &[]);
    let open = || std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    let mut writer = open();
    let mut text = event("e0", "begun", 0, "file_access", "/secret", true);
    text += &event("", "done", 0, "file_access", "/secret", true).replacen("\"event_id\":\"\",", "", 1);
    text += &event("e2", "done", 1, "network_egress", "evil.io:443", true);
    for n in 3..EVENTS {
        text += &event(&format!("e{n}"), "t", 1 + n / 100, "shell_command", "ls", true);
    }
    writer.write_all(text.as_bytes()).unwrap();
    // Each gets all of them.
    until_read(&cluster, EVENTS.into());
    until_stored(&cluster, EVENTS.into());
    let late = theft("LATE", "");
    std::fs::write(cluster.path("rules/late.yaml"), &late).unwrap();
    let found = alert_of(&cluster, "LATE", "done");
    assert_eq!((&found["backfilled"], &found["match_count"]), (&true.into(), &1.into()), "{found}");
    writer.write_all(event("n0", "begun", 30, "network_egress", "evil.io:443", true).as_bytes()).unwrap();
    let found = alert_of(&cluster, "LATE", "begun");
    assert_eq!((evidence(&found), &found["backfilled"]), (vec!["e0", "n0"], &Value::Null), "{found}");
    until_stored(&cluster, u64::from(EVENTS) + 1);
    // SIGKILL. What comes afterwards has positions of its own.
    drop(cluster);
    drop(writer);

    let cluster = Cluster::start(&config, &[("brief.yaml", BRIEF), ("late.yaml", &late)], &[]);
    let mut writer = open();
    for n in 0..2 {
        let more = event("", "begun", 31, "mcp_tool", &format!("/{n}"), true).replacen("\"event_id\":\"\",", "", 1);
        writer.write_all(more.as_bytes()).unwrap();
    }
    until_stored(&cluster, 2);
    assert_eq!(cluster.stop(), 0);
    let rows = rusqlite::Connection::open(folder.path().join("store.db")).unwrap();
    let count = "SELECT count(*), count(DISTINCT coalesce(source_position, event_key)) FROM agent_events";
    let count: (u32, u32) = rows.query_row(count, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(count, (EVENTS + 3, EVENTS + 3));
}
