//! What a cluster of processes tells Prometheus. (`tests/api.sh` has Prometheus' own tool judge it.)

use std::collections::BTreeMap;

use super::*;

fn text(cluster: &Cluster) -> String {
    let url = format!("{}/metrics", cluster.api);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move { reqwest::get(url).await.unwrap().text().await.unwrap() })
}

/// Values by name and labels as they are written.
fn values(text: &str) -> BTreeMap<&str, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap()).map(|(name, value)| (name, value.parse().unwrap())).collect()
}

#[test]
fn metrics_hold_for_all_processes() {
    let config = format!("{FILES}[checkpoint]\nevery = \"1s\"\n");
    let cluster = Cluster::start(&config, &[("tool.yaml", ONE_RULE)], &[]);
    let data = cluster.path("data");
    wait("the data folder", || data.is_dir().then_some(()).or_else(|| std::fs::create_dir_all(&data).ok()));
    for n in 0..20 {
        let line = event(&format!("e{n}"), &format!("s{n}"), n, "mcp_tool", "t", true);
        append(&data.join(format!("{}.jsonl", n % 2)), &line);
    }
    append(&data.join("0.jsonl"), "no JSON\n");
    wait("the dead letter", || cluster.get("/v1/health").filter(|h| h["dead_letters"]["invalid_json"] == 1));
    let last = wait("what all of it makes", || {
        let text = text(&cluster);
        let values = values(&text);
        let at = |name: &str| values.get(name).copied().unwrap_or_default();
        let done = at("clawdstrike_events_total") == 20.0
            && at("clawdstrike_dead_letters_total{reason=\"invalid_json\"}") == 1.0
            && at("clawdstrike_alert_versions_total") >= 20.0
            && at("clawdstrike_checkpoint_timestamp_seconds") > 0.0
            && at("clawdstrike_checkpoint_size_bytes") > 0.0
            && at("clawdstrike_sink_write_seconds_count{sink=\"store_versions\"}") >= 1.0
            && at("clawdstrike_sink_write_seconds_count{sink=\"store_events\"}") >= 1.0
            && values.keys().filter(|name| name.starts_with("clawdstrike_source_position{")).count() == 2
            && values.iter().filter(|(name, lag)| name.starts_with("clawdstrike_source_lag{") && **lag == 0.0).count()
                == 2;
        done.then(|| text.clone())
    });
    let values = values(&last);
    let at = |name: &str| *values.get(name).unwrap_or_else(|| panic!("no {name} in {last}"));
    assert!((0.0..30.0).contains(&at("clawdstrike_epoch_delay_seconds")), "{last}");
    assert!(at("clawdstrike_watermark_delay_seconds") > 0.0 && at("clawdstrike_checkpoint_duration_seconds") > 0.0);
    for name in ["requests", "exports", "store_alerts", "store_sessions"] {
        at(&format!("clawdstrike_queue_depth{{queue=\"{name}\"}}"));
    }
    // They are asked for now and then: the first look may have been before there was anything.
    for name in ["classifier", "groups", "ended_sessions", "alerts", "spool"] {
        at(&format!("clawdstrike_state_bytes{{operator=\"{name}\"}}"));
        at(&format!("clawdstrike_state_rows{{operator=\"{name}\"}}"));
    }
    at("clawdstrike_hits_total");
    assert!(at("clawdstrike_peek_seconds_count{question=\"state\"}") >= 1.0, "{last}");
    assert_eq!(cluster.stop(), 0);
}
