//! A cluster whose checkpoints are in a bucket, and one that can't reach them.

use std::path::Path;

use clawdstrike_test_services::{S3, s3};

use crate::{BRIEF, Cluster, FILES, append, event, wait};

/// Sources and a store in a folder that outlives the cluster, whose own state folder doesn't.
fn config(folder: &Path, cluster: &str, url: &str) -> String {
    let (data, store) = (folder.join("data"), folder.join("store.db"));
    std::fs::create_dir_all(&data).unwrap();
    format!(
        "[cluster]\n{cluster}\n[checkpoint]\nevery = \"1s\"\nurl = \"{url}\"\n\
         [[source]]\ntype = \"jsonl\"\nname = \"events\"\npath = \"{}\"\n\
         [store]\ntype = \"sqlite\"\npath = \"{}\"\n",
        data.display(),
        store.display()
    )
}

fn start(config: &str, s3: &S3) -> Cluster {
    let environment = s3.environment();
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (&**name, &**value)).collect();
    Cluster::start(config, &[("brief.yaml", BRIEF)], &environment)
}

fn until_read(cluster: &Cluster, events: u64) {
    wait(&format!("{events} events"), || cluster.get("/v1/health").filter(|h| h["events"] == events));
}

fn log(cluster: &Cluster) -> String {
    cluster.log.lock().unwrap().clone()
}

#[test]
fn goes_on_from_a_bucket_after_a_stop_and_after_a_kill() {
    let s3 = s3().unwrap();
    let bucket = s3.create_bucket("edr").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (url, events) = ("s3://edr/prod/eu", folder.path().join("data/a.jsonl"));

    let cluster = start(&config(folder.path(), "processes = 2", url), &s3);
    append(&events, &event("e1", "s1", 0, "file_access", "/home/u/.ssh/id_rsa", true));
    until_read(&cluster, 1);
    assert!(!cluster.path("state/checkpoint").exists(), "there is nothing in the state folder");
    assert_eq!(cluster.stop(), 0);
    assert!(bucket.join("prod/eu/manifests").is_dir());

    // Of another shape. What it knows of the first event is from the bucket: it doesn't read it again.
    let cluster = start(&config(folder.path(), "threads = 2", url), &s3);
    append(&events, &event("e2", "s1", 5, "network_egress", "evil.io:443", true));
    wait("the alert", || (cluster.alerts_of("CREDENTIAL_EXFILTRATION").len() == 1).then_some(()));
    until_read(&cluster, 1);
    assert!(log(&cluster).contains("going on from a checkpoint"));
    let kept = || std::fs::read_dir(bucket.join("prod/eu/manifests")).unwrap().count();
    wait("its own checkpoints", || (kept() >= 2).then_some(()));
    // SIGKILL.
    drop(cluster);

    let cluster = start(&config(folder.path(), "processes = 2", url), &s3);
    append(&events, &event("e3", "s1", 6, "file_access", "/tmp/x", true));
    wait("three events in the session", || {
        let session = cluster.get("/v1/sessions/ag1/s1")?;
        let lives = session["sessions"].as_array()?.clone();
        lives.into_iter().find(|s| s["events"] == 3 && s["open_alerts"] == 1)
    });
    let said = log(&cluster);
    assert!(said.contains("going on from a checkpoint"));
    for (name, value) in s3.environment() {
        assert!(!name.contains("KEY") || !said.contains(&value), "{name} is in the log: {said}");
    }
    assert_eq!(cluster.stop(), 0);
    let rows = rusqlite::Connection::open(folder.path().join("store.db")).unwrap();
    let count = |table: &str| rows.query_row(&format!("SELECT count(*) FROM {table}"), [], |r| r.get::<_, i64>(0));
    assert_eq!((count("agent_events").unwrap(), count("alerts").unwrap()), (3, 1));
}

#[test]
fn a_storage_that_is_away_shows_in_health_and_is_used_again_once_it_is_back() {
    let every = "[checkpoint]\nevery = \"1s\"\n";
    let cluster = Cluster::start(&format!("{FILES}{every}"), &[("brief.yaml", BRIEF)], &[]);
    let events = cluster.path("data/a.jsonl");
    std::fs::create_dir_all(cluster.path("data")).unwrap();
    append(&events, &event("e1", "s1", 0, "file_access", "/home/u/.ssh/id_rsa", true));
    until_read(&cluster, 1);
    let degraded = || cluster.get("/v1/health")?["degraded"].as_object().cloned();
    assert_eq!(degraded().map(|parts| parts.len()), Some(0));

    // In its place is what is no folder, so nobody makes it anew.
    let (place, away) = (cluster.path("state/checkpoint"), cluster.path("state/away"));
    std::fs::rename(&place, &away).unwrap();
    std::fs::write(&place, "").unwrap();
    let reason = wait("the reason in health", || Some(degraded()?.get("checkpoint")?.as_str()?.to_owned()));
    assert!(reason.contains("wait") && reason.contains("state/checkpoint") && reason.contains("writing"), "{reason}");
    // Detection goes on: the alert is there to be asked for, and told once it is written down.
    append(&events, &event("e2", "s1", 5, "network_egress", "evil.io:443", true));
    wait("the alert", || (cluster.alerts_of("CREDENTIAL_EXFILTRATION").len() == 1).then_some(()));

    std::fs::remove_file(&place).unwrap();
    std::fs::rename(&away, &place).unwrap();
    wait("health as before", || degraded().filter(|parts| parts.is_empty()));
    until_read(&cluster, 2);
    let manifests = || std::fs::read_dir(place.join("manifests")).unwrap().map(|file| file.unwrap().file_name());
    let before = manifests().max();
    wait("another checkpoint", || (manifests().max() > before).then_some(()));
    assert!(!log(&cluster).contains("starts again"), "{}", log(&cluster));
    assert_eq!(cluster.stop(), 0);
}
