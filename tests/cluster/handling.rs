//! What analysts do with alerts, in a cluster that is killed.

use serde_json::json;

use crate::{BRIEF, Cluster, append, event, wait};

#[test]
fn what_an_analyst_did_outlives_a_kill_and_a_further_match_opens_what_was_closed() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(path("data")).unwrap();
    // No checkpoint holds it: only what was written down before it was told.
    let config = format!(
        "[cluster]\nprocesses = 2\nstate = {:?}\n[checkpoint]\nevery = \"1h\"\n\
         [[source]]\ntype = \"jsonl\"\nname = \"events\"\npath = {:?}\n[store]\ntype = \"sqlite\"\npath = {:?}\n",
        path("state"),
        path("data"),
        path("store.db")
    );
    let start = || Cluster::start(&config, &[("brief.yaml", BRIEF)], &[]);
    let events = path("data").join("a.jsonl");
    let alert = |cluster: &Cluster| cluster.alerts_of("CREDENTIAL_EXFILTRATION").pop();

    let cluster = start();
    append(&events, &event("e1", "s1", 0, "file_access", "/home/u/.ssh/id_rsa", true));
    append(&events, &event("e2", "s1", 5, "network_egress", "evil.io:443", true));
    let opened = wait("the alert", || alert(&cluster));
    let id = opened["alert_id"].as_str().unwrap();
    let (code, out, err) = cluster.cli(&["alerts", "ack", id, "--comment", "mine"]);
    assert_eq!((code, out.trim_end()), (0, &*format!("{id} is acknowledged")), "{err}");
    let (code, out, err) = cluster.cli(&["alerts", "close", id, "--comment", "a test of ours"]);
    assert_eq!((code, out.trim_end()), (0, &*format!("{id} is closed")), "{err}");
    // SIGKILL.
    drop(cluster);

    let cluster = start();
    let closed = wait("the alert, closed", || alert(&cluster).filter(|a| a["status"] == "closed"));
    let said = |alert: &serde_json::Value| json!([alert["handling"][0]["comment"], alert["handling"][1]["comment"]]);
    assert_eq!((&closed["alert_id"], said(&closed)), (&opened["alert_id"], json!(["mine", "a test of ours"])));
    assert!(closed["revision"].as_u64() > opened["revision"].as_u64());
    let (code, out, _) = cluster.cli(&["alerts", "show", id]);
    assert!(code == 0 && out.contains("a test of ours"), "{out}");
    append(&events, &event("e3", "s1", 6, "network_egress", "evil.io:443", true));
    wait("the alert, open again", || alert(&cluster).filter(|a| a["status"] == "updated" && a["match_count"] == 2));
    assert_eq!(cluster.stop(), 0);
    let rows = rusqlite::Connection::open(path("store.db")).unwrap();
    let kept = rows.query_row("SELECT status, document FROM alerts", [], |r| Ok((r.get(0)?, r.get(1)?)));
    let (status, document): (String, String) = kept.unwrap();
    assert_eq!(status, "updated");
    assert!(document.contains("a test of ours"), "{document}");
}
