//! `export` and `migrate` from outside: the binary, a store as the engine writes it, and `openssl` as the auditor.

#[path = "store/rows.rs"]
#[expect(dead_code, reason = "tests of the stores themselves need more")]
mod rows;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clawdstrike_edr::store::{Batch, EventRow, Sqlite, Store};
use serde_json::Value;

use rows::{T0, alert, event, events, hostile_alert, hostile_events, hostile_stored, session_row};

struct Case {
    folder: tempfile::TempDir,
}

impl Case {
    fn new() -> Case {
        let folder = tempfile::tempdir().unwrap();
        let config = "[store]\ntype = \"sqlite\"\npath = \"edr.db\"\n";
        std::fs::write(folder.path().join("workers.toml"), config).unwrap();
        Case { folder }
    }

    fn filled(batch: Batch) -> Case {
        let case = Case::new();
        let mut store = Store::Sqlite(Sqlite::new(case.path("edr.db")));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(store.write(&batch)).unwrap();
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clawdstrike-edr"));
        command.args(args).current_dir(self.folder.path()).output().unwrap()
    }

    /// Standard output of a command that must succeed.
    fn says(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command says that must end with this code.
    fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        text
    }

    /// Rows of a query over files of the folder, by a program that isn't ours.
    fn duckdb(&self, sql: &str) -> Vec<Value> {
        let rows = clawdstrike_test_services::duckdb(self.folder.path(), sql).unwrap();
        serde_json::from_str(&rows).unwrap()
    }

    fn openssl(&self, args: &[&str]) -> Output {
        Command::new("openssl").args(args).current_dir(self.folder.path()).output().unwrap()
    }

    fn keys(&self) {
        for name in ["key", "other"] {
            let (key, public) = (format!("{name}.pem"), format!("{name}.pub.pem"));
            assert!(self.openssl(&["genpkey", "-algorithm", "ed25519", "-out", &key]).status.success());
            assert!(self.openssl(&["pkey", "-in", &key, "-pubout", "-out", &public]).status.success());
        }
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

fn batch() -> Batch {
    Batch {
        events: events("e", 2_000, T0),
        alerts: vec![alert("a-1", 2), hostile_alert("h")],
        sessions: vec![session_row("s-1", T0, 3, 7)],
        ..Batch::default()
    }
}

#[test]
fn a_span_of_events_is_written_in_order_and_its_end_is_left_to_the_next() {
    let case = Case::filled(batch());
    let (from, middle, to) = ("2026-01-05T10:00:00.000010Z", "2026-01-05T10:00:00.001Z", "2026-01-05T10:00:00.001999Z");
    let first = lines(&case.says(&["export", "--table", "events", "--from", from, "--to", middle]));
    let second = lines(&case.says(&["export", "--table", "events", "--from", middle, "--to", to]));
    assert_eq!((first.len(), second.len()), (990, 999));
    let keys: Vec<_> = first.iter().chain(&second).map(|row| row["event_key"].as_str().unwrap().to_owned()).collect();
    assert_eq!(keys, (10..1_999).map(|i| format!("e/{i}")).collect::<Vec<_>>());
    let row = &first[0];
    assert_eq!((&row["time"], &row["allowed"], &row["risk_score"]), (&from.into(), &true.into(), &10.0.into()));
    assert_eq!(row["metadata"]["agent_id"], "agent-1");
}

#[test]
fn hostile_rows_of_all_tables_stay_one_line_each_and_the_same_text() {
    let hostile = hostile_events();
    let count = hostile.len();
    let case = Case::filled(Batch { events: hostile, ..batch() });
    let rows = lines(&case.says(&["export", "--table", "events", "--to", "9999-12-31T00:00:00Z"]));
    // The last one's time is the last that there is.
    assert_eq!(rows.len(), count - 1);
    let text = rows.iter().find(|row| row["event_key"] == "hostile/text").unwrap();
    assert_eq!(text["target"], hostile_stored());
    let alerts = lines(&case.says(&["export", "--table", "alerts"]));
    assert_eq!(alerts.iter().map(|a| a["alert_id"].as_str().unwrap()).collect::<Vec<_>>(), ["a-1", "h"]);
    assert_eq!(alerts[0]["document"]["status"], "updated");
    assert_eq!(lines(&case.says(&["export", "--table", "sessions"]))[0]["events"], 3);
}

#[test]
fn csv_is_safe_for_spreadsheets() {
    let formula = EventRow { target: Some("=HYPERLINK(\"http://evil.example\",\"x\")".into()), ..event("e", T0) };
    let case = Case::filled(Batch { events: vec![formula], ..Batch::default() });
    let text = case.says(&["export", "--table", "events", "--format", "csv"]);
    let mut lines = text.split("\r\n");
    assert!(lines.next().unwrap().starts_with("time,event_key,tenant_id,agent_id,"));
    let row = lines.next().unwrap();
    assert!(row.contains(",\"'=HYPERLINK(\"\"http://evil.example\"\",\"\"x\"\")\",true,"), "{row}");
}

#[test]
fn others_read_parquet_with_its_types_and_every_row_as_it_is() {
    let hostile = hostile_events();
    let count = hostile.len();
    let mut events = hostile;
    events.extend(batch().events);
    events.push(EventRow { allowed: false, risk_score: None, target: None, ..event("last", T0 + 3_600_000_000) });
    let case = Case::filled(Batch { events, ..batch() });
    for table in ["events", "alerts", "sessions"] {
        let told = case.run(&["export", "--table", table, "--format", "parquet", "--out", &format!("{table}.parquet")]);
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        case.says(&["export", "--table", table, "--out", &format!("{table}.jsonl")]);
    }
    // As standard output has it, it is the same file.
    let piped = case.run(&["export", "--table", "sessions", "--format", "parquet"]).stdout;
    assert_eq!(piped, std::fs::read(case.path("sessions.parquet")).unwrap());

    let types = |table: &str| {
        let rows = case.duckdb(&format!("DESCRIBE FROM '{table}.parquet'"));
        let text = |row: &Value, member: &str| row[member].as_str().unwrap().to_owned();
        rows.iter().map(|row| format!("{} {}", text(row, "column_name"), text(row, "column_type"))).collect::<Vec<_>>()
    };
    assert_eq!(
        types("events").join(", "),
        "time TIMESTAMP WITH TIME ZONE, event_key VARCHAR, tenant_id VARCHAR, agent_id VARCHAR, session_id VARCHAR, \
         event_type VARCHAR, target VARCHAR, allowed BOOLEAN, guard VARCHAR, severity VARCHAR, risk_score DOUBLE, metadata JSON, sample_share DOUBLE, \
         source_position VARCHAR"
    );
    let alerts = types("alerts").join(", ");
    assert!(alerts.contains("revision BIGINT") && alerts.contains("shadow BOOLEAN, run_actions BOOLEAN, actions JSON"));

    // Written in two ways, and read by a program that isn't ours: both are right, or they differ.
    for (table, rows) in [("events", count + 2_000), ("alerts", 2), ("sessions", 1)] {
        let text = lines(&std::fs::read_to_string(case.path(&format!("{table}.jsonl"))).unwrap());
        assert_eq!(text.len(), rows, "{table}");
        let mut read = case.duckdb(&format!("FROM '{table}.parquet'"));
        for (read, text) in read.iter_mut().zip(&text) {
            for (name, value) in read.as_object_mut().unwrap() {
                *value = as_in_json_lines(std::mem::take(value), &text[name]);
            }
            assert_eq!(read, text, "{table}");
        }
        assert_eq!(read.len(), rows, "{table}");
    }
    let violation = "SELECT event_key, metadata ->> '$.agent_id' AS agent FROM 'events.parquet' WHERE NOT allowed AND \
                     time = TIMESTAMPTZ '2026-01-05 11:00:00+00' AND risk_score IS NULL AND target IS NULL";
    assert_eq!(case.duckdb(violation), [serde_json::json!({"event_key": "last", "agent": "agent-1"})]);

    // Also where it is signed.
    case.keys();
    case.says(&["export", "bundle", "audit", "--key", "key.pem", "--format", "parquet"]);
    assert!(case.says(&["export", "verify", "audit", "--key", "key.pub.pem"]).contains("alerts.parquet: 2 rows"));
    assert_eq!(case.duckdb("SELECT count(*)::int AS n FROM 'audit/events.parquet'")[0]["n"], count + 2_000);
}

/// Here DuckDB tells 64-bit numbers, times and JSON as texts, and doubles that are whole as whole numbers.
fn as_in_json_lines(read: Value, text: &Value) -> Value {
    match (&read, text) {
        (Value::Number(number), Value::Number(text)) if number.as_f64() == text.as_f64() => Value::Number(text.clone()),
        (Value::String(number), Value::Number(_)) => serde_json::from_str(number).unwrap(),
        (Value::String(json), Value::Object(_) | Value::Array(_)) => serde_json::from_str(json).unwrap(),
        (Value::String(time), Value::String(text)) if text.ends_with('Z') && time.ends_with("+00") => {
            let (seconds, rest) = time[..time.len() - 3].split_at(19);
            format!("{}.{:0<6}Z", seconds.replace(' ', "T"), rest.trim_start_matches('.')).into()
        }
        _ => read,
    }
}

#[test]
fn a_file_is_whole_private_and_never_overwritten() {
    use std::os::unix::fs::PermissionsExt;
    let case = Case::filled(batch());
    let args = ["export", "--table", "events", "--out", "events.jsonl"];
    case.says(&args);
    assert_eq!(lines(&std::fs::read_to_string(case.path("events.jsonl")).unwrap()).len(), 2_000);
    assert_eq!(std::fs::metadata(case.path("events.jsonl")).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!case.path("events.jsonl.part").exists());
    assert!(case.fails(1, &args).contains("there already"));
}

#[test]
fn wrong_usage_and_missing_stores_are_told() {
    let case = Case::new();
    case.fails(2, &["export"]);
    let (late, early) = ("2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z");
    assert!(case.fails(2, &["export", "--table", "events", "--from", late, "--to", early]).contains("--from"));
    assert!(case.fails(1, &["export", "--table", "events"]).contains("edr.db"));
    assert!(!case.path("edr.db").exists());
    // What failed leaves no file that looks whole.
    case.fails(1, &["export", "--table", "events", "--out", "x.jsonl"]);
    assert!(!case.path("x.jsonl").exists() && !case.path("x.jsonl.part").exists());
}

#[test]
fn a_bundle_is_what_was_signed_or_says_what_is_not() {
    let case = Case::filled(batch());
    case.keys();
    let span = ["--from", "2026-01-01T00:00:00Z", "--to", "2026-02-01T00:00:00Z"];
    case.says(&[&["export", "bundle", "audit", "--key", "key.pem"], &span[..]].concat());
    let verify = ["export", "verify", "audit", "--key", "key.pub.pem"];
    let told = case.says(&verify);
    assert!(told.contains("events.jsonl: 2000 rows") && told.contains("2026-01-01T00:00:00.000000Z"), "{told}");
    let manifest: Value = serde_json::from_slice(&std::fs::read(case.path("audit/manifest.json")).unwrap()).unwrap();
    let counts: Vec<_> =
        manifest["files"].as_array().unwrap().iter().map(|f| (f["name"].clone(), f["rows"].clone())).collect();
    assert_eq!(
        counts,
        [("events.jsonl".into(), 2_000.into()), ("alerts.jsonl".into(), 2.into()), ("sessions.jsonl".into(), 1.into())]
    );

    // Others can check it without this program.
    let signature = [
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        "key.pub.pem",
        "-rawin",
        "-in",
        "audit/manifest.json",
        "-sigfile",
        "audit/manifest.json.sig",
    ];
    assert!(case.openssl(&signature).status.success());

    assert!(case.fails(1, &["export", "verify", "audit", "--key", "other.pub.pem"]).contains("another key"));
    let json = case.fails(1, &["export", "verify", "audit", "--key", "other.pub.pem", "--output", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["ok"], false);
    let broken = |what: &str, change: &dyn Fn(&Path), word: &str| {
        let copy = case.path("copy");
        std::fs::create_dir(&copy).unwrap();
        for entry in std::fs::read_dir(case.path("audit")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
        change(&copy);
        let told = case.fails(1, &["export", "verify", "copy", "--key", "key.pub.pem"]);
        assert!(told.contains(word), "{what}: {told}");
        std::fs::remove_dir_all(copy).unwrap();
    };
    let edit = |path: PathBuf, from: &str, to: &str| {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from));
        std::fs::write(path, text.replacen(from, to, 1)).unwrap();
    };
    broken("a row changed", &|b| edit(b.join("events.jsonl"), "agent-1", "agent-2"), "\"events.jsonl\" has");
    broken("a file gone", &|b| std::fs::remove_file(b.join("alerts.jsonl")).unwrap(), "\"alerts.jsonl\"");
    broken("a file more", &|b| std::fs::write(b.join("more.jsonl"), "").unwrap(), "was added");
    broken("a count changed", &|b| edit(b.join("manifest.json"), "2000", "1999"), "isn't what key");
    broken("no signature", &|b| std::fs::remove_file(b.join("manifest.json.sig")).unwrap(), "manifest.json.sig");

    assert!(case.fails(1, &["export", "bundle", "audit", "--key", "key.pem"]).contains("isn't empty"));
    assert!(case.fails(1, &["export", "bundle", "b", "--key", "key.pub.pem"]).contains("genpkey"));
    assert!(case.fails(1, &["export", "verify", "audit", "--key", "key.pem"]).contains("pubout"));
}

#[test]
fn a_migration_is_told_before_it_is_done_and_an_altered_one_is_refused() {
    let case = Case::new();
    let told = case.says(&["migrate", "--dry-run"]);
    assert!(
        told.contains("to be applied") && told.contains("  001_agent_events") && told.contains("  006_rollup"),
        "{told}"
    );
    assert!(!case.path("edr.db").exists());
    assert!(case.says(&["migrate"]).contains("001_agent_events"));
    let told: Value = serde_json::from_str(&case.says(&["migrate", "--dry-run", "--output", "json"])).unwrap();
    assert_eq!(told["migrations"], Value::Array(Vec::new()));
    let database = rusqlite::Connection::open(case.path("edr.db")).unwrap();
    database.execute("UPDATE schema_migrations SET checksum = 'x' WHERE version = 2", []).unwrap();
    for args in [&["migrate", "--dry-run"][..], &["migrate"]] {
        let told = case.fails(1, args);
        assert!(told.contains("002_alerts") && told.contains("checksum"), "{told}");
    }
}
