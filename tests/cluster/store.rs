//! What the store has of what the cluster saw: a share of low-risk events where that is asked for, and each session's last view.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use clawdstrike_telemetry::time;
use clawdstrike_test_services as services;
use serde_json::Value;

use crate::{BINARY, BRIEF, Cluster, append, event, wait};

/// Events that no rule needs, and the share of them that is kept.
const LOW_RISK: u32 = 4_000;
const SHARE: f64 = 0.25;

/// `event_id` and `sample_share` of each row.
type Shares = BTreeMap<String, f64>;

/// A database of either kind.
trait Kept {
    /// Lines of `[store]`.
    fn config(&self) -> String;
    fn env(&self) -> Vec<(&'static str, String)>;
    fn shares(&self) -> Shares;
    /// The sum of 1 / sample_share by event type, as docs/operations.md says it.
    fn scaled(&self, event_type: &str) -> f64;
    /// Takes all events out, and what says that they were archived.
    fn forget(&self);
}

const SHARES: &str = "SELECT metadata ->> 'event_id', sample_share FROM agent_events";
const SCALED: &str = "SELECT SUM(1 / sample_share) FROM agent_events WHERE event_type = ";
const FORGET: &str = "DELETE FROM agent_events; DELETE FROM archive_positions";

struct Sqlite(std::path::PathBuf);

impl Sqlite {
    fn open(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(&self.0).unwrap()
    }
}

impl Kept for Sqlite {
    fn config(&self) -> String {
        format!("type = \"sqlite\"\npath = {:?}", self.0)
    }

    fn env(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn shares(&self) -> Shares {
        let database = self.open();
        let mut statement = database.prepare(SHARES).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    fn scaled(&self, event_type: &str) -> f64 {
        self.open().query_row(&format!("{SCALED}'{event_type}'"), [], |row| row.get(0)).unwrap()
    }

    fn forget(&self) {
        self.open().execute_batch(FORGET).unwrap();
    }
}

struct Postgres(String);

impl Postgres {
    fn query(&self, sql: &str) -> Vec<tokio_postgres::Row> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&self.0, tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            client.query(sql, &[]).await.unwrap()
        })
    }
}

impl Kept for Postgres {
    fn config(&self) -> String {
        "type = \"postgres\"\nurl_env = \"EDR_DB\"".into()
    }

    fn env(&self) -> Vec<(&'static str, String)> {
        vec![("EDR_DB", self.0.clone())]
    }

    fn shares(&self) -> Shares {
        self.query(SHARES).iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    fn scaled(&self, event_type: &str) -> f64 {
        self.query(&format!("{SCALED}'{event_type}'"))[0].get(0)
    }

    fn forget(&self) {
        for sql in FORGET.split(';') {
            self.query(sql);
        }
    }
}

/// Low-risk events, among them those that rules need and those that a guard objected to.
fn mixed(from: u32, to: u32) -> String {
    let mut text = String::new();
    for n in from..to {
        let (session, second) = (format!("s{}", n % 20), n / 2);
        text += &event(&format!("low/{n}"), &session, second, "file_write", &format!("/tmp/{n}"), true);
        if n % 100 == 0 {
            let attacked = format!("a{n}");
            text += &event(&format!("read/{n}"), &attacked, second, "file_access", "/home/u/.ssh/id_rsa", true);
            text += &event(&format!("send/{n}"), &attacked, second, "network_egress", "evil.io:443", true);
            text += &event(&format!("no/{n}"), &session, second, "file_write", "/etc/shadow", false);
            text += &event(&format!("asked/{n}"), &session, second, "prompt_injection_attempt", "mail", true);
        }
    }
    text
}

/// Waits until the archive has seen so many events since the start.
fn archived(cluster: &Cluster, events: u64) {
    wait("an archive that has caught up", || {
        let told = cluster.get("/v1/health")?;
        (told["archived"].as_u64()? + told["archive_left_out"].as_u64()? == events).then_some(())
    });
}

/// All of it on one kind of store.
fn a_share_of_low_risk_events_is_kept_in(store: &dyn Kept) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(path("data")).unwrap();
    let config = format!(
        "[cluster]\nprocesses = 2\nstate = {:?}\n[[source]]\ntype = \"jsonl\"\nname = \"events\"\npath = {:?}\n\
         [store]\n{}\n[store.sampling]\nlow_risk = {SHARE}\n",
        path("state"),
        path("data"),
        store.config()
    );
    let env = store.env();
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let start = || Cluster::start(&config, &[("ai-threats.yaml", BRIEF)], &env);
    let needed = LOW_RISK as usize / 100 * 4;
    let all = u64::from(LOW_RISK) + needed as u64;

    // A restart in the middle.
    let cluster = start();
    append(&path("data/a.jsonl"), &mixed(0, LOW_RISK / 2));
    archived(&cluster, all / 2);
    assert_eq!(cluster.stop(), 0);
    let cluster = start();
    append(&path("data/a.jsonl"), &mixed(LOW_RISK / 2, LOW_RISK));
    archived(&cluster, all / 2);
    // Detection sees all of them.
    wait("all events of a session", || {
        let answer = cluster.get("/v1/sessions/ag1/s1")?;
        (answer["sessions"][0]["events"] == LOW_RISK / 20).then_some(())
    });
    let alerts = wait("all alerts", || {
        let alerts = cluster.alerts_of("CREDENTIAL_EXFILTRATION");
        (alerts.len() == LOW_RISK as usize / 100).then_some(alerts)
    });
    assert_eq!(cluster.stop(), 0);

    let shares = store.shares();
    let evidence = alerts.iter().flat_map(|alert| alert["evidence"].as_array().unwrap());
    for entry in evidence {
        assert_eq!(shares.get(entry["id"].as_str().unwrap()), Some(&1.0), "{entry}");
    }
    let whole: Vec<_> = shares.iter().filter(|(_, share)| **share == 1.0).collect();
    assert!(whole.iter().all(|(id, _)| !id.starts_with("low/")), "{whole:?}");
    assert_eq!(whole.len(), needed);
    let sample = shares.len() - needed;
    // More than five standard deviations: the cluster's secret decides which.
    assert!((850..1_150).contains(&sample), "{sample}");
    assert_eq!(store.scaled("file_write"), sample as f64 / SHARE + needed as f64 / 4.0);

    // Archived anew, by a process that was started anew: the same rows.
    store.forget();
    let cluster = start();
    archived(&cluster, all);
    assert_eq!(cluster.stop(), 0);
    assert_eq!(store.shares(), shares);

    // Who looks for something else in them is told.
    let rules = path("any.yaml");
    let other = "rules: [{id: W, name: n, severity: low, conditions: [{type: threshold, window: 1m, count: 5, event_type: file_write}]}]";
    std::fs::write(&rules, other).unwrap();
    std::fs::write(path("workers.toml"), &config).unwrap();
    let span = ["--from", "2024-05-06T10:00:00Z", "--to", "2024-05-06T11:00:00Z"];
    let mut backtest = Command::new(BINARY);
    backtest.args(["rules", "backtest"]).arg(&rules).args(span).arg("--config").arg(path("workers.toml"));
    let told = backtest.envs(env.iter().copied()).output().unwrap();
    assert!(String::from_utf8_lossy(&told.stderr).contains("[store.sampling]"), "{told:?}");
}

#[test]
fn a_share_of_low_risk_events_is_kept_in_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    a_share_of_low_risk_events_is_kept_in(&Sqlite(folder.path().join("edr.db")));
}

#[test]
fn a_share_of_low_risk_events_is_kept_in_postgres() {
    let server = services::postgres().unwrap();
    a_share_of_low_risk_events_is_kept_in(&Postgres(server.create_database("edr").unwrap()));
}

/// 2024-05-06T00:00:00Z
const MONDAY: i64 = 1_714_953_600_000_000;
const MINUTE: i64 = 60_000_000;
/// From one session's beginning to the next one's: longer than a session lasts and takes to be idle.
const APART: i64 = 42;
const SESSIONS: i64 = 7 * 24 * 60 / APART;
const EVENTS_EACH: i64 = 21;

/// A week of sessions of ten minutes, an event every half minute.
fn week() -> String {
    let mut text = String::new();
    for session in 0..SESSIONS {
        for n in 0..EVENTS_EACH {
            let at = time::format(MONDAY + session * APART * MINUTE + n * MINUTE / 2);
            let (agent, allowed) = (session % 5, n % 7 != session % 9);
            let event_type = ["file_write", "mcp_tool", "file_access"][(n % 3) as usize];
            text += &serde_json::json!({
                "event_id": format!("{session}/{n}"), "agent_id": format!("agent-{agent}"), "session_id": format!("session-{session}"),
                "timestamp": at, "event_type": event_type,
                "action": {"target": format!("/tmp/{}", n % 11)},
                "result": {"allowed": allowed, "guard": "g", "severity": "low", "message": ""},
            })
            .to_string();
            text.push('\n');
        }
    }
    text
}

/// Views of sessions by id.
fn by_id(views: impl IntoIterator<Item = Value>) -> BTreeMap<String, Value> {
    views.into_iter().map(|view| (view["session_id"].as_str().unwrap().to_owned(), view)).collect()
}

fn stored(path: &Path) -> BTreeMap<String, Value> {
    let database = rusqlite::Connection::open(path).unwrap();
    let mut statement = database.prepare("SELECT document FROM sessions").unwrap();
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
    by_id(rows.map(|document| serde_json::from_str(&document.unwrap()).unwrap()))
}

#[test]
fn the_store_has_the_last_view_of_each_session_of_a_week() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edr.db");
    let config = format!("{}[store]\ntype = \"sqlite\"\npath = {database:?}\n", crate::FILES);
    let cluster = Cluster::start(&config, &[("ai-threats.yaml", BRIEF)], &[]);
    let data = cluster.path("data");
    wait("the data folder", || data.is_dir().then_some(()).or_else(|| std::fs::create_dir_all(&data).ok()));
    let week_file = data.join("week.jsonl");
    append(&week_file, &week());
    archived(&cluster, (SESSIONS * EVENTS_EACH) as u64);
    // Those of the last day; the others have left.
    let live = wait("the last session", || {
        let answer = cluster.get("/v1/sessions?limit=1000")?;
        let live = by_id(answer["sessions"].as_array()?.iter().cloned());
        let last = live.get(&format!("session-{}", SESSIONS - 1))?;
        (last["events"] == EVENTS_EACH).then_some(live)
    });
    let day = 24 * 60 / APART;
    assert!((day..day + 3).contains(&(live.len() as i64)), "{}", live.len());
    let last = SESSIONS - 1;
    let page = cluster.get(&format!("/v1/sessions/agent-{}/session-{last}", last % 5)).unwrap();
    assert_eq!(page["sessions"][0], live[&format!("session-{last}")]);

    // What those that have left were at last is what they are at the end of the same events, offline.
    let replay = Command::new(BINARY)
        .args(["replay", "--emit", "sessions", "--output", "json", "--rules"])
        .arg(cluster.path("rules"))
        .arg(&week_file)
        .output()
        .unwrap();
    assert!(replay.status.success(), "{replay:?}");
    let lines = String::from_utf8(replay.stdout).unwrap();
    let replayed = by_id(lines.lines().map(|line| {
        let mut view: Value = serde_json::from_str(line).unwrap();
        assert_eq!(view.as_object_mut().unwrap().shift_remove("kind"), Some("session".into()));
        view
    }));
    assert_eq!(cluster.stop(), 0);
    let stored = stored(&database);
    assert_eq!(stored.len() as i64, SESSIONS);
    for (id, view) in &stored {
        assert_eq!(live.get(id).unwrap_or(view), view, "{id} as it was last seen live");
        assert_eq!(&replayed[id], view, "{id} as it is offline");
    }
}

/// How far each thread of a process gives way (proc_pid_stat(5): `nice`), with its name.
fn threads(pid: u32) -> Vec<(String, i32)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // One that has ended meanwhile has no files any more.
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).ok());
    let thread = |stat: String| {
        let (before, after) = stat.rsplit_once(") ").unwrap();
        let name = before.split_once('(').unwrap().1.to_owned();
        // The third field comes first behind the name, and this is the 19th.
        (name, after.split_whitespace().nth(16).unwrap().parse().unwrap())
    };
    stats.map(thread).collect()
}

#[test]
fn what_reads_for_the_store_and_writes_to_it_gives_way_to_detection() {
    let config = format!("{}[store]\ntype = \"sqlite\"\npath = \"edr.db\"\n", crate::FILES);
    let cluster = Cluster::start(&config, &[("ai-threats.yaml", BRIEF)], &[]);
    let data = cluster.path("data");
    wait("the data folder", || data.is_dir().then_some(()).or_else(|| std::fs::create_dir_all(&data).ok()));
    append(&data.join("events.jsonl"), &event("e", "s", 0, "mcp_tool", "t", true));
    archived(&cluster, 1);
    let processes = services::children(cluster.child.id());
    let found: Vec<Vec<(String, i32)>> = processes.into_iter().map(threads).collect();
    let of = |name: &str| {
        let named = |all: &Vec<(String, i32)>| {
            let mut nice: Vec<i32> = all.iter().filter(|(n, _)| n.starts_with(name)).map(|(_, nice)| *nice).collect();
            nice.sort_unstable();
            nice
        };
        found.iter().map(named).max_by_key(Vec::len).unwrap()
    };
    assert_eq!(of("timely:work"), [0], "{found:?}");
    assert_eq!(of("source-events"), [0, 5], "detection's and the archive's: {found:?}");
    assert!(of("store").len() >= 2 && of("store").iter().all(|nice| *nice == 5), "{found:?}");
    assert!(of("tokio").iter().all(|nice| *nice == 0), "the API: {found:?}");
    assert_eq!(cluster.stop(), 0);
}
