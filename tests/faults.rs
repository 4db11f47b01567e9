//! Faults (SPEC §8, Recovery): the real binary in several processes, killed, stopped, rescaled and restarted at random
//! moments while records come; afterwards the store holds, row by row, what the naive evaluator says.
//!
//! `FAULTS_RUNS=N` runs N schedules instead of [`RUNS`], `FAULTS_SEED=N` begins with another one. A failure prints its
//! seed: rules, records and the order of faults follow from it; the moments are the machine's.

use std::collections::BTreeMap;
mod wait;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clawdstrike_naive::generate::{Level, Sizes, case};
use clawdstrike_naive::{self as naive};
use clawdstrike_rules::{SourceFile, compile};
use clawdstrike_telemetry::{decode, time};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use wait::wait;

const BINARY: &str = env!("CARGO_BIN_EXE_clawdstrike-edr");
/// Schedules, if `FAULTS_RUNS` doesn't say otherwise.
const RUNS: u64 = 4;
/// Faults of a schedule.
const FAULTS: usize = 5;
/// How long the store may take until it is exact.
const EXACT: Duration = Duration::from_secs(100);

/// What happens to a running cluster.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// SIGKILL to one of its processes.
    KillProcess,
    /// SIGSTOP to one of its processes.
    StopProcess,
    /// SIGKILL to `up`, then a start in another shape.
    KillAll,
    /// SIGTERM, then a start in another shape.
    Restart,
}

const FAULT_KINDS: [Fault; 6] =
    [Fault::KillProcess, Fault::KillProcess, Fault::KillProcess, Fault::StopProcess, Fault::KillAll, Fault::Restart];

struct Cluster {
    folder: PathBuf,
    up: Child,
}

fn signal(pid: u32, name: &str) {
    // It may have ended by itself meanwhile.
    let _ended = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).stderr(Stdio::null()).status();
}

impl Cluster {
    fn start(folder: &Path, settings: &str, processes: usize, threads: usize) -> Cluster {
        let config = format!(
            "[cluster]\nprocesses = {processes}\nthreads = {threads}\n[api]\nlisten = \"127.0.0.1:0\"\nallow_anonymous = true\n{settings}"
        );
        std::fs::write(folder.join("workers.toml"), config).unwrap();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).unwrap();
        let up = Command::new(BINARY)
            .args(["up", "--config"])
            .arg(folder.join("workers.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Cluster { folder: folder.to_owned(), up }
    }

    /// Its processes that run now.
    fn processes(&self) -> Vec<u32> {
        let pid = self.up.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    fn kill_all(mut self) {
        let processes = self.processes();
        signal(self.up.id(), "KILL");
        self.up.wait().unwrap();
        for pid in processes {
            wait("the end of an orphan", || (!runs(pid)).then_some(()));
        }
    }

    fn terminate(mut self) {
        signal(self.up.id(), "TERM");
        let status = wait("the end of the cluster", || self.up.try_wait().unwrap());
        assert!(status.success(), "{status}; the log:\n{}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

/// A process that is neither gone nor a zombie.
fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// An alert or session as both sides can say it.
type Row = BTreeMap<&'static str, Value>;

fn alert_row(alert: &naive::Alert) -> Row {
    let group: serde_json::Map<String, Value> = alert.group.iter().cloned().collect();
    let evidence: Vec<Value> = alert.evidence.iter().map(|(id, step)| json!([id, step])).collect();
    BTreeMap::from([
        ("rule_id", json!(alert.rule_id)),
        ("tenant_id", json!(alert.tenant_id)),
        ("group", Value::Object(group)),
        ("agent_id", json!(alert.agent_id)),
        ("session_id", json!(alert.session_id)),
        ("first_seen", json!(time::format(alert.first_seen))),
        ("last_seen", json!(time::format(alert.last_seen))),
        ("match_count", json!(alert.match_count)),
        ("evidence", json!(evidence)),
    ])
}

fn stored_alert(document: &str) -> Row {
    let alert: Value = serde_json::from_str(document).unwrap();
    let names = ["rule_id", "tenant_id", "group", "agent_id", "session_id", "first_seen", "last_seen", "match_count"];
    let mut row: Row = names.into_iter().map(|name| (name, alert[name].clone())).collect();
    let evidence = alert["evidence"].as_array().unwrap().iter().map(|e| json!([e["id"], e["step"]]));
    row.insert("evidence", evidence.collect());
    row
}

fn session_row(life: &naive::Session) -> Row {
    BTreeMap::from([
        ("tenant_id", json!(life.tenant_id)),
        ("agent_id", json!(life.agent_id)),
        ("session_id", json!(life.session_id)),
        ("first_seen", json!(time::format(life.first_seen))),
        ("last_seen", json!(time::format(life.last_seen))),
        ("resumed", json!(life.resumed)),
        ("events", json!(life.events)),
        ("violations", json!(life.violations)),
        ("unique_targets", json!(life.unique_targets)),
        ("risk_score", json!(life.risk_score)),
    ])
}

/// What the store holds; `None`: it can't be read just now.
struct Stored {
    alerts: Vec<Row>,
    sessions: Vec<Row>,
    events: u64,
}

fn stored(database: &Path) -> rusqlite::Result<Stored> {
    let db = rusqlite::Connection::open_with_flags(database, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    db.busy_timeout(Duration::from_secs(5))?;
    let mut alerts = db.prepare("SELECT document FROM alerts WHERE status <> 'retracted'")?;
    let alerts = alerts.query_map([], |row| Ok(stored_alert(&row.get::<_, String>(0)?)))?.collect::<Result<_, _>>()?;
    let mut sessions = db.prepare(
        "SELECT tenant_id, agent_id, session_id, first_seen, last_seen, resumed, events, violations, unique_targets,
            CAST(risk_score AS INTEGER) FROM sessions",
    )?;
    let session = |row: &rusqlite::Row<'_>| -> rusqlite::Result<Row> {
        let text = |n: usize| row.get::<_, String>(n).map(Value::from);
        let number = |n: usize| row.get::<_, i64>(n).map(Value::from);
        Ok(BTreeMap::from([
            ("tenant_id", text(0)?),
            ("agent_id", text(1)?),
            ("session_id", text(2)?),
            ("first_seen", text(3)?),
            ("last_seen", text(4)?),
            ("resumed", json!(row.get::<_, bool>(5)?)),
            ("events", number(6)?),
            ("violations", number(7)?),
            ("unique_targets", number(8)?),
            ("risk_score", number(9)?),
        ]))
    };
    let sessions = sessions.query_map([], session)?.collect::<Result<_, _>>()?;
    let events = db.query_row("SELECT count(*) FROM agent_events", [], |row| row.get::<_, i64>(0))?;
    Ok(Stored { alerts, sessions, events: events.unsigned_abs() })
}

fn differences(what: &str, judge: &[Row], store: &[Row]) -> String {
    let missing = judge.iter().filter(|one| !store.contains(one)).map(|one| format!("missing {what}: {one:?}\n"));
    let extra = store.iter().filter(|one| !judge.contains(one)).map(|one| format!("unexpected {what}: {one:?}\n"));
    let found: Vec<String> = missing.chain(extra).collect();
    let more = found.len().saturating_sub(5);
    let more = if more > 0 { format!("and {more} more\n") } else { String::new() };
    found.into_iter().take(5).chain([more]).collect()
}

fn differ(judge: &naive::Outcome, store: &Stored) -> String {
    let alerts: Vec<Row> = judge.alerts.iter().map(alert_row).collect();
    let sessions: Vec<Row> = judge.sessions.iter().map(session_row).collect();
    let mut found = differences("alert", &alerts, &store.alerts) + &differences("session", &sessions, &store.sessions);
    if judge.events != store.events {
        found += &format!("{} events where {} are right\n", store.events, judge.events);
    }
    found
}

/// Moves the event-time bound of its file beyond everything: what waits for it is told.
fn last_line(files: &[Vec<u8>], n: usize) -> String {
    let lines = files.iter().flat_map(|file| file.split(|b| *b == b'\n'));
    let latest = lines.filter_map(|line| decode(line).ok().map(|event| event.timestamp)).max().unwrap_or(0);
    let after = time::format(latest + 3_600_000_000);
    json!({
        "event_id": format!("last-{n}"), "agent_id": "last", "session_id": "last", "timestamp": after,
        "event_type": "file_access", "action": {"target": "/last"},
        "result": {"allowed": true, "guard": "g", "severity": "info", "message": ""}, "context": {},
    })
    .to_string()
        + "\n"
}

fn run(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    // One file: of several, one that nobody writes to just now holds nothing back, so what comes there next may be too late.
    let sizes = Sizes { rules: 6, records: 600, files: 1, anonymous: false, disorder: true, untimely: 0 };
    let mut case = case(seed, Level::Full, &sizes);
    let ends: Vec<String> = (0..case.files.len()).map(|n| last_line(&case.files, n)).collect();
    for (file, end) in case.files.iter_mut().zip(&ends) {
        if !file.ends_with(b"\n") {
            file.push(b'\n');
        }
        file.extend_from_slice(end.as_bytes());
    }
    let file = SourceFile { name: "generated.yaml".to_owned(), text: case.rules.clone() };
    let rules = compile(&[file]).unwrap_or_else(|errors| panic!("{errors}\n{}", case.rules)).set;
    let judge = naive::evaluate(&rules, &case.files, &case.options);

    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::create_dir_all(folder.path().join("rules")).unwrap();
    std::fs::write(folder.path().join("rules/generated.yaml"), &case.rules).unwrap();
    let seconds = |micros: i64| format!("{}s", micros / 1_000_000);
    let settings = format!(
        "[checkpoint]\nevery = \"1s\"\n[limits]\nmax_lateness = \"{}\"\nmax_skew = \"{}\"\ndedup_window = \"{}\"\nsession_retention = \"{}\"\nevidence_limit = {}\n[store]\ntype = \"sqlite\"\npath = \"store.db\"\n[[source]]\ntype = \"jsonl\"\nname = \"events\"\npath = \"data\"\n",
        seconds(case.options.max_lateness),
        seconds(case.options.max_skew),
        seconds(case.options.dedup_window.max(case.options.max_lateness)),
        seconds(case.options.session_retention),
        case.options.evidence_limit,
    );
    let mut shape = || (rng.random_range(1..=3), rng.random_range(1..=2));
    let shapes: Vec<(usize, usize)> = (0..=FAULTS).map(|_| shape()).collect();
    let mut cluster = Cluster::start(folder.path(), &settings, shapes[0].0, shapes[0].1);
    let mut written = vec![0; case.files.len()];
    let mut faults = Vec::new();
    for n in 0..=FAULTS {
        for (at, file) in case.files.iter().enumerate() {
            // Cut anywhere, also within a line.
            let to = if n == FAULTS { file.len() } else { (file.len() * (n + 1) / (FAULTS + 1)).max(written[at]) };
            let path = data.join(format!("{at}.jsonl"));
            let mut out = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
            out.write_all(&file[written[at]..to]).unwrap();
            written[at] = to;
        }
        if n == FAULTS {
            break;
        }
        // A moment of the fault, not a wait for anything.
        std::thread::sleep(Duration::from_millis(rng.random_range(50..2_500)));
        let fault = FAULT_KINDS[rng.random_range(0..FAULT_KINDS.len())];
        faults.push(fault);
        let victim: usize = rng.random_range(0..8);
        let processes = cluster.processes();
        match fault {
            Fault::KillProcess | Fault::StopProcess => {
                if let Some(pid) = processes.get(victim % processes.len().max(1)) {
                    signal(*pid, if matches!(fault, Fault::KillProcess) { "KILL" } else { "STOP" });
                }
            }
            Fault::KillAll => {
                cluster.kill_all();
                cluster = Cluster::start(folder.path(), &settings, shapes[n + 1].0, shapes[n + 1].1);
            }
            Fault::Restart => {
                cluster.terminate();
                cluster = Cluster::start(folder.path(), &settings, shapes[n + 1].0, shapes[n + 1].1);
            }
        }
    }
    let database = folder.path().join("store.db");
    let deadline = Instant::now() + EXACT;
    let mut found = "nothing was stored".to_owned();
    while Instant::now() < deadline && !found.is_empty() {
        if let Ok(store) = stored(&database) {
            found = differ(&judge, &store);
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
    let kept = if found.is_empty() { None } else { Some(folder.keep()) };
    assert!(
        found.is_empty(),
        "FAULTS_SEED={seed}, {faults:?}, {shapes:?}; all of it is in {kept:?}\n{found}\n{}\nthe log:\n{}",
        case.rules,
        cluster.log()
    );
    // What is left to say at the end changes nothing.
    cluster.terminate();
    let found = differ(&judge, &stored(&database).unwrap());
    assert!(found.is_empty(), "FAULTS_SEED={seed}, after the end: {found}");
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is not a number")))
}

#[test]
fn whatever_is_killed_the_store_ends_as_the_judge_says() {
    let first = number("FAULTS_SEED").unwrap_or(1);
    for seed in first..first + number("FAULTS_RUNS").unwrap_or(RUNS) {
        let began = Instant::now();
        run(seed);
        eprintln!("seed {seed}: exact after {FAULTS} faults, {:?}", began.elapsed());
    }
}
