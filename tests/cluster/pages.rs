//! Lists of a cluster of processes, page by page, while what is listed changes.

use std::collections::BTreeSet;

use super::*;

#[test]
fn pages_are_merged_over_processes_and_show_what_stays_once() {
    const SESSIONS: usize = 40;
    let cluster = Cluster::start(FILES, &[("tool.yaml", ONE_RULE)], &[]);
    let data = cluster.path("data");
    wait("the data folder", || data.is_dir().then_some(()).or_else(|| std::fs::create_dir_all(&data).ok()));
    let session = |n: usize| format!("s{n:02}");
    let begin: String =
        (0..SESSIONS).map(|n| event(&format!("b{n}"), &session(n), n as u32 / 2, "mcp_tool", "t", true)).collect();
    append(&data.join("a.jsonl"), &begin);
    wait("all alerts", || (cluster.alerts_of("TOOL").len() == SESSIONS).then_some(()));
    let rows = |answer: &Value, list: &str, id: &str| -> Vec<String> {
        let rows = answer[list].as_array().unwrap().iter();
        rows.map(|row| row[id].as_str().unwrap().to_owned()).collect()
    };
    for (list, id) in [("sessions?sort=first_seen", "session_id"), ("alerts?sort=first_seen", "alert_id")] {
        let whole = cluster.get(&format!("/v1/{list}")).unwrap();
        let name = list.split('?').next().unwrap();
        let whole = rows(&whole, name, id);
        assert!(whole.len() >= SESSIONS, "{whole:?}");
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        for turn in 0.. {
            let page = cluster.get(&format!("/v1/{list}&limit=7{cursor}")).unwrap();
            assert!(page["total"].as_u64().unwrap() >= SESSIONS as u64);
            seen.extend(rows(&page, name, id));
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
            // A new one comes before all pages, or between them.
            let event_id = format!("{name}{turn}");
            append(&data.join("a.jsonl"), &event(&event_id, &event_id, turn % 20, "mcp_tool", "t", true));
            wait("the new session", || {
                let answer = cluster.get(&format!("/v1/alerts?session_id={event_id}&limit=0"))?;
                (answer["total"] == 1 && answer["alerts"] == serde_json::json!([])).then_some(())
            });
        }
        let kept: Vec<String> = seen.iter().filter(|id| whole.contains(id)).cloned().collect();
        assert_eq!(kept, whole, "{name}: each once, in order");
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len(), "{name}: nothing twice");
    }
    assert_eq!(cluster.stop(), 0);
}
