//! The cluster from outside: the real binary in several processes, its API, its store, a webhook receiver, a real Kafka
//! broker, a real TimescaleDB and a real S3 server.

#[path = "cluster/allowlist.rs"]
mod allowlist;
#[path = "cluster/backfill.rs"]
mod backfill;
#[path = "cluster/handling.rs"]
mod handling;
#[path = "cluster/kafka.rs"]
mod kafka;
#[path = "cluster/metrics.rs"]
mod metrics;
#[path = "cluster/pages.rs"]
mod pages;
#[path = "cluster/storage.rs"]
mod storage;
#[path = "cluster/store.rs"]
mod store;
#[path = "cluster/traces.rs"]
mod traces;
mod wait;
#[path = "cluster/what_if.rs"]
mod what_if;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use wait::{DEADLINE, wait};

const BINARY: &str = env!("CARGO_BIN_EXE_clawdstrike-edr");

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A cluster in a folder of its own.
struct Cluster {
    folder: tempfile::TempDir,
    child: Child,
    api: String,
    log: Arc<Mutex<String>>,
}

impl Cluster {
    fn start(config: &str, rules: &[(&str, &str)], env: &[(&str, &str)]) -> Cluster {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("rules")).unwrap();
        for (name, text) in rules {
            std::fs::write(folder.path().join("rules").join(name), text).unwrap();
        }
        let port = free_port();
        let text = format!("{config}\n[api]\nlisten = \"127.0.0.1:{port}\"\nallow_anonymous = true\n");
        std::fs::write(folder.path().join("workers.toml"), text).unwrap();
        let mut child = Command::new(BINARY)
            .args(["up", "--output", "json", "--config"])
            .arg(folder.path().join("workers.toml"))
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (stderr, keep) = (child.stderr.take().unwrap(), log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                keep.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        let mut cluster = Cluster { folder, child, api: format!("http://127.0.0.1:{port}"), log };
        wait("the cluster's API", || {
            let ended = cluster.child.try_wait().unwrap();
            assert!(ended.is_none(), "the cluster has ended: {ended:?}");
            cluster.get("/v1/health")
        });
        cluster
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An answer of the API through the binary's own client.
    fn cli(&self, args: &[&str]) -> (i32, String, String) {
        let out = Command::new(BINARY).args(args).args(["--api", &self.api]).output().unwrap();
        (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    }

    fn get(&self, path: &str) -> Option<Value> {
        let url = format!("{}{path}", self.api);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let answer = reqwest::get(url).await.ok()?;
            answer.text().await.ok().and_then(|t| serde_json::from_str(&t).ok())
        })
    }

    fn alerts_of(&self, rule: &str) -> Vec<Value> {
        let answer = self.get(&format!("/v1/alerts?rule_id={rule}&limit=1000")).unwrap_or_default();
        answer["alerts"].as_array().cloned().unwrap_or_default()
    }

    /// SIGTERM; the exit code.
    fn stop(mut self) -> i32 {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let status = wait("the cluster's end", || self.child.try_wait().unwrap());
        status.code().unwrap_or(-1)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the cluster's log:\n{}", self.log.lock().unwrap());
        }
        if self.child.try_wait().is_ok_and(|s| s.is_none()) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

const BRIEF: &str = include_str!("../rules/ai-threats.yaml");

const FILES: &str = r#"
[cluster]
processes = 2
threads = 1
[[source]]
type = "jsonl"
name = "events"
path = "data"
"#;

fn event(id: &str, session: &str, seconds: u32, event_type: &str, target: &str, allowed: bool) -> String {
    let now = format!("2024-05-06T10:{:02}:{:02}Z", seconds / 60, seconds % 60);
    serde_json::json!({
        "event_id": id, "agent_id": "ag1", "session_id": session, "timestamp": now, "event_type": event_type,
        "action": {"target": target}, "result": {"allowed": allowed, "guard": "g", "severity": "Info", "message": ""}, "context": {},
    })
    .to_string()
        + "\n"
}

fn append(path: &Path, text: &str) {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[test]
fn detects_shows_and_stores_what_files_say() {
    let cluster = Cluster::start(FILES, &[("ai-threats.yaml", BRIEF)], &[]);
    let data = cluster.path("data");
    wait("the data folder", || data.is_dir().then_some(()).or_else(|| std::fs::create_dir_all(&data).ok()));
    append(&data.join("a.jsonl"), &event("e1", "s1", 0, "file_access", "/home/u/.ssh/id_rsa", true));
    append(&data.join("a.jsonl"), &event("e2", "s1", 5, "network_egress", "api.openai.com:443", true));
    append(&data.join("b.jsonl"), &event("e3", "s2", 5, "file_access", "/tmp/\u{1b}[31mred", false));
    append(&data.join("b.jsonl"), "garbage\n");
    append(&data.join("a.jsonl"), &event("e4", "s1", 6, "network_egress", "evil-openai.com:443", true));
    let alerts = wait("the alert", || {
        let alerts = cluster.alerts_of("CREDENTIAL_EXFILTRATION");
        (!alerts.is_empty()).then_some(alerts)
    });
    assert_eq!(alerts.len(), 1);
    let ids: Vec<&str> = alerts[0]["evidence"].as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["e1", "e4"]);
    let session = wait("three events in the session", || {
        let session = cluster.get("/v1/sessions/ag1/s1")?;
        let lives = session["sessions"].as_array()?.clone();
        lives.into_iter().find(|s| s["events"] == 3)
    });
    assert_eq!(
        (&session["violations"], &session["unique_targets"], &session["open_alerts"]),
        (&0.into(), &3.into(), &1.into())
    );
    assert_eq!(session["risk_score"], 20.0);
    let shown = wait("the other session", || {
        let (code, shown, _) = cluster.cli(&["sessions", "show", "ag1", "s2"]);
        (code == 0).then_some(shown)
    });
    assert!(!shown.contains('\u{1b}'), "terminal escapes are shown as text: {shown}");
    let health =
        wait("the dead letter", || cluster.get("/v1/health").filter(|h| h["dead_letters"]["invalid_json"] == 1));
    assert_eq!(health["events"], 4);
    let database = cluster.path("state/clawdstrike.db");
    wait("four rows in the store", || {
        let db = rusqlite::Connection::open(&database).ok()?;
        let n: i64 = db.query_row("SELECT count(*) FROM agent_events", [], |r| r.get(0)).ok()?;
        (n == 4).then_some(())
    });
    assert_eq!(cluster.stop(), 0);
}

const ONE_RULE: &str = "rules:\n  - id: TOOL\n    name: tool\n    severity: low\n    conditions: [{type: threshold, window: 10s, event_type: mcp_tool, count: \">= 1\"}]\n";

#[test]
fn reloads_rules_at_one_epoch_and_keeps_the_old_ones_when_they_do_not_compile() {
    let cluster = Cluster::start(FILES, &[("ai-threats.yaml", BRIEF)], &[]);
    let data = cluster.path("data");
    wait("the data folder", || data.is_dir().then_some(()).or_else(|| std::fs::create_dir_all(&data).ok()));
    let file = data.join("a.jsonl");
    append(&file, &event("e1", "s1", 0, "file_access", "/home/u/.aws/credentials", true));
    append(&file, &event("e2", "s1", 1, "mcp_tool", "t", true));
    wait("two events", || cluster.get("/v1/health").filter(|h| h["events"] == 2));
    // A new file in the folder adds a rule; no restart.
    std::fs::write(cluster.path("rules/tool.yaml"), ONE_RULE).unwrap();
    wait("five rules", || {
        let rules = cluster.get("/v1/rules")?;
        (rules["rules"].as_array()?.len() == 5).then_some(())
    });
    append(&file, &event("e3", "s1", 2, "mcp_tool", "t", true));
    // The sequence that had begun before the switch still ends after it.
    append(&file, &event("e4", "s1", 3, "network_egress", "evil.io:443", true));
    wait("the new rule's alert", || (cluster.alerts_of("TOOL").len() == 1).then_some(()));
    wait("the old rule's alert", || (cluster.alerts_of("CREDENTIAL_EXFILTRATION").len() == 1).then_some(()));
    let broken = cluster.path("broken.yaml");
    std::fs::write(&broken, "rules:\n  - id: X\n    nmae: x\n    severity: high\n    conditions: []\n").unwrap();
    let (code, error, _) = cluster.cli(&["rules", "load", "--file", broken.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(error.contains("broken.yaml:3") && error.contains("name"), "names the line and a hint: {error}");
    let rules = cluster.get("/v1/rules").unwrap();
    assert_eq!(rules["rules"].as_array().unwrap().len(), 5);
    assert_eq!(cluster.stop(), 0);
}

#[test]
fn a_cluster_that_can_not_start_says_why() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("rules")).unwrap();
    std::fs::write(folder.path().join("rules/r.yaml"), "rules: [{id: X}]\n").unwrap();
    std::fs::write(folder.path().join("workers.toml"), FILES).unwrap();
    let out = Command::new(BINARY).args(["up", "--config"]).arg(folder.path().join("workers.toml")).output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    let error = String::from_utf8(out.stderr).unwrap();
    assert!(error.contains("the rules don't compile") && error.contains("r.yaml"), "{error}");
}

/// A webhook receiver; the bodies it got.
fn receiver() -> (String, Arc<Mutex<Vec<Value>>>) {
    let got: Arc<Mutex<Vec<Value>>> = Arc::default();
    let keep = got.clone();
    let take = move |body: axum::Json<Value>| {
        let keep = keep.clone();
        async move { keep.lock().unwrap().push(body.0) }
    };
    (serve(axum::Router::new().fallback(axum::routing::any(take))) + "/hook", got)
}

/// Answers on a thread of its own; the address.
fn serve(app: axum::Router) -> String {
    let (tell, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            axum::serve(listener, app).await.unwrap();
        });
    });
    format!("http://{}", address.recv().unwrap())
}

#[test]
fn kafka_to_webhook_and_timescaledb() {
    let kafka = clawdstrike_test_services::kafka().unwrap();
    let timescale = clawdstrike_test_services::timescale().unwrap();
    kafka.create_topic("agent.events", 6, &[("message.timestamp.type", "LogAppendTime")]).unwrap();
    kafka.create_topic("agent.violations", 6, &[("message.timestamp.type", "LogAppendTime")]).unwrap();
    let (hook, got) = receiver();
    let config = format!(
        "[cluster]\nprocesses = 2\nthreads = 2\n[[source]]\ntype = \"kafka\"\nname = \"kafka\"\nbrokers = \"{}\"\n[store]\ntype = \"postgres\"\nurl_env = \"TEST_STORE\"\n[response]\nsoc_webhook = \"{hook}\"\n",
        kafka.bootstrap()
    );
    let url = timescale.url();
    let cluster = Cluster::start(&config, &[("ai-threats.yaml", BRIEF)], &[("TEST_STORE", &url)]);
    let truth = cluster.path("truth.jsonl");
    let simulated = Command::new(BINARY)
        .args(["simulate", "--kafka", &kafka.bootstrap(), "--events", "4000", "--rate", "2000", "--seed", "7"])
        .args(["--attack-every", "400", "--agents", "20", "--truth"])
        .arg(&truth)
        .output()
        .unwrap();
    assert!(simulated.status.success(), "{}", String::from_utf8_lossy(&simulated.stderr));
    let attacks: Vec<Value> =
        std::fs::read_to_string(&truth).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(attacks.len() >= 4, "{attacks:?}");
    let events = wait("all events", || {
        let health = cluster.get("/v1/health")?;
        let n = health["events"].as_u64()?;
        (n >= 4000).then_some(n)
    });
    let found = wait("an alert for every attack", || {
        let answer = cluster.get("/v1/alerts?limit=1000")?;
        let alerts = answer["alerts"].as_array()?.clone();
        (alerts.len() >= attacks.len()).then_some(alerts)
    });
    let key = |v: &Value| (v["agent_id"].to_string(), v["session_id"].to_string());
    let mut expected: Vec<_> = attacks.iter().map(key).collect();
    let mut alerted: Vec<_> = found.iter().map(key).collect();
    expected.sort();
    alerted.sort();
    assert_eq!(alerted, expected);
    let with_soc = found.iter().filter(|a| a["rule_id"] != "RAPID_FILE_ENUMERATION").count();
    wait("the webhooks", || (got.lock().unwrap().len() >= with_soc).then_some(()));
    wait("committed offsets", || {
        let lag = kafka.consumer_group_describe("clawdstrike-edr").ok()?;
        let lags: Option<Vec<u64>> = lag
            .lines()
            .filter(|l| l.contains("agent."))
            .map(|l| l.split_whitespace().nth(5).and_then(|n| n.parse().ok()))
            .collect();
        lags.filter(|l| !l.is_empty() && l.iter().sum::<u64>() == 0).map(|_| ())
    });
    wait("an archive that has caught up", || cluster.get("/v1/health").filter(|h| h["archived"] == events));
    assert_eq!(cluster.stop(), 0);
    assert_eq!(got.lock().unwrap().len(), with_soc, "no alert is sent twice");
    the_briefs_queries_answer(&url, events, found.len());
}

/// The brief's aggregate and panels, over what the cluster wrote.
fn the_briefs_queries_answer(url: &str, events: u64, alerts: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let n: i64 = client.query_one("SELECT count(*) FROM agent_events", &[]).await.unwrap().get(0);
        assert_eq!(n as u64, events);
        let n: i64 = client.query_one("SELECT count(*) FROM alerts", &[]).await.unwrap().get(0);
        assert_eq!(n as usize, alerts);
        let hourly = "SELECT bucket, event_count, violation_count FROM agent_events_hourly WHERE bucket > NOW() - INTERVAL '24 hours' ORDER BY bucket";
        let rows = client.query(hourly, &[]).await.unwrap();
        let counted: i64 = rows.iter().map(|r| r.get::<_, i64>(1)).sum();
        assert_eq!(counted as u64, events);
        let panel = "SELECT time, agent_id, event_type, target, guard, severity FROM agent_events WHERE NOT allowed AND time > NOW() - INTERVAL '1 hour' ORDER BY time DESC LIMIT 50";
        assert!(!client.query(panel, &[]).await.unwrap().is_empty());
        let heat = "SELECT time, agent_id, risk_score FROM agent_events WHERE time > NOW() - INTERVAL '24 hours'";
        assert_eq!(client.query(heat, &[]).await.unwrap().len() as u64, events);
    });
}

/// A session and a target of its own for each event, but for one in a thousand: of a session that does what it always did.
fn invented(path: &Path, events: u32) {
    use std::io::Write;
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    for n in 0..events {
        let at = clawdstrike_telemetry::time::format(1_714_989_600_000_000 + i64::from(n) * 250);
        let (session, target) = match (n % 1_000, n / 1_000 % 2) {
            (0, 0) => ("steady".to_owned(), "/first".to_owned()),
            (0, _) => ("steady".to_owned(), "/second".to_owned()),
            _ => (format!("one-off-{n}"), format!("/tmp/{n}")),
        };
        writeln!(
            file,
            r#"{{"event_id":"e{n}","agent_id":"ag1","session_id":"{session}","timestamp":"{at}","event_type":"file_access","action":{{"target":"{target}"}},"result":{{"allowed":true}}}}"#
        )
        .unwrap();
    }
    file.flush().unwrap();
}

/// The most memory that any process of a cluster has had, in MiB.
fn peak_mib(cluster: &Cluster) -> u64 {
    let children = Command::new("pgrep").args(["-P", &cluster.child.id().to_string()]).output().unwrap();
    let pids = String::from_utf8(children.stdout).unwrap();
    let peak = |pid: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    };
    pids.split_whitespace().map(peak).max().expect("a worker process")
}

#[test]
fn a_million_invented_sessions_and_targets_stay_within_their_memory() {
    const EVENTS: u32 = 1_000_000;
    const STATE_MIB: u64 = 256;
    let folder = tempfile::tempdir().unwrap();
    let events = folder.path().join("events.jsonl");
    invented(&events, EVENTS);
    let config = format!(
        "[limits]\nstate_memory = \"{STATE_MIB}MiB\"\n[store]\ntype = \"none\"\n\
         [[source]]\ntype = \"jsonl\"\nname = \"events\"\npath = \"{}\"\n",
        events.display()
    );
    let rules = "rules:
- {id: BY_TARGET, name: n, severity: low, by: [action.target], conditions: [
    {type: threshold, window: 1h, event_type: file_access, count: '>= 3', unique_targets: '>= 2'}]}
- {id: STEADY, name: n, severity: low, suppress_for: 0s, conditions: [{type: sequence, window: 30s, events: [
    {event_type: file_access, target_pattern: /first}, {event_type: file_access, target_pattern: /second}]}]}
";
    let cluster = Cluster::start(&config, &[("r.yaml", rules)], &[]);
    let health = wait("all events", || cluster.get("/v1/health").filter(|h| h["events"] == EVENTS));
    assert!(health["groups_shed"].as_u64() > Some(0), "{health}");
    // Nobody else notices.
    let steady = wait("the steady session", || {
        let answer = cluster.get("/v1/sessions?session_id=steady")?;
        answer["sessions"].as_array()?.first().filter(|s| s["events"] == EVENTS / 1_000).cloned()
    });
    assert_eq!(steady["resumed"], false);
    wait("all of its alerts", || (cluster.alerts_of("STEADY").len() == EVENTS as usize / 2_000).then_some(()));
    // The state, what a checkpoint puts aside of it, the epochs under way and the program itself; without a bound it is many
    // times as much.
    let peak = peak_mib(&cluster);
    assert!(peak < 2 * STATE_MIB + 640, "{peak} MiB");
    assert_eq!(cluster.stop(), 0);
}
