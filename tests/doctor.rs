//! `doctor` from outside, against real services and against what can be wrong with them.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use clawdstrike_edr::config;
use clawdstrike_edr::store::{Postgres as PostgresStore, Store};
use clawdstrike_test_services::{Kafka, Postgres, Service as _, kafka, postgres, s3, s3_without_conditions};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_clawdstrike-edr");
const NOBODY: u32 = 65_534;
const DEADLINE: Duration = Duration::from_secs(60);

fn broker() -> &'static Kafka {
    static BROKER: OnceLock<Kafka> = OnceLock::new();
    BROKER.get_or_init(|| kafka().unwrap())
}

fn database() -> &'static Postgres {
    static DATABASE: OnceLock<Postgres> = OnceLock::new();
    DATABASE.get_or_init(|| postgres().unwrap())
}

/// What was found.
struct Told {
    code: i32,
    document: Value,
}

impl Told {
    /// The findings of a level about a part, as "seen | way out".
    fn of(&self, level: &str, part: &str) -> Vec<String> {
        let all = self.document["findings"].as_array().unwrap().iter();
        let text = |f: &Value| format!("{} | {}", f["seen"].as_str().unwrap(), f["way_out"].as_str().unwrap());
        all.filter(|f| f["level"] == level && f["part"] == part).map(text).collect()
    }

    /// Asserts that one finding says all of these.
    fn says(&self, level: &str, part: &str, words: &[&str]) {
        let found = self.of(level, part);
        let fits = |text: &String| words.iter().all(|w| text.contains(w));
        assert!(found.iter().any(fits), "{level} {part} {words:?}: {:#}", self.document);
    }

    fn levels(&self, level: &str) -> usize {
        self.document["findings"].as_array().unwrap().iter().filter(|f| f["level"] == level).count()
    }
}

/// A folder with rules; its configuration goes on with `config`.
fn folder(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("rules")).unwrap();
    std::fs::write(folder.path().join("rules/brief.yaml"), include_str!("../rules/ai-threats.yaml")).unwrap();
    let api = "[api]\nlisten = \"127.0.0.1:0\"\nallow_anonymous = true\n";
    std::fs::write(folder.path().join("workers.toml"), format!("{config}\n{api}")).unwrap();
    folder
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["doctor", "--output", "json", "--config"]).arg(folder.join("workers.toml"));
    command
}

fn told(command: &mut Command) -> Told {
    let out = command.output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let document = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    Told { code: out.status.code().unwrap(), document }
}

fn doctor(folder: &Path, env: &[(&str, &str)]) -> Told {
    told(command(folder).envs(env.iter().copied()))
}

/// A receiver that answers every request with 405, and this date if there is one.
fn receiver(date: Option<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 4096];
            let read = stream.read(&mut request).unwrap_or(0);
            assert!(request[..read].starts_with(b"HEAD "), "only a HEAD request is sent");
            let date = date.map(|d| format!("Date: {d}\r\n")).unwrap_or_default();
            // Whoever asked may have gone.
            let _gone = write!(
                stream,
                "HTTP/1.1 405 Method Not Allowed\r\n{date}Content-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
    });
    format!("http://{address}/hook/s3cret")
}

fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn kafka_source(topics: &[&str], group: &str, more: &str) -> String {
    let topics: Vec<String> = topics.iter().map(|t| format!("\"{t}\"")).collect();
    format!(
        "[[source]]\ntype = \"kafka\"\nname = \"stream\"\nbrokers = \"{}\"\ntopics = [{}]\ngroup = \"{group}\"\n{more}\n",
        broker().bootstrap(),
        topics.join(", ")
    )
}

fn produce(topic: &str, count: usize) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", broker().bootstrap()).create().unwrap();
    for n in 0..count {
        let text = n.to_string();
        producer.send(BaseRecord::<(), str>::to(topic).payload(&text)).map_err(|(e, _)| e).unwrap();
    }
    producer.flush(DEADLINE).unwrap();
}

fn commit(group: &str, topic: &str, next: i64) {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", broker().bootstrap()).set("group.id", group).create().unwrap();
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(topic, 0, Offset::Offset(next)).unwrap();
    consumer.commit(&offsets, CommitMode::Sync).unwrap();
}

#[test]
fn all_in_order_is_told_part_by_part_and_exits_with_0() {
    broker().create_topic("in-order", 2, &[("message.timestamp.type", "LogAppendTime")]).unwrap();
    produce("in-order", 10);
    let url = database().create_database("in_order").unwrap();
    let webhook = receiver(None);
    let source = kafka_source(&["in-order"], "in-order", "");
    let folder = folder(&format!(
        "[cluster]\nprocesses = 1\naddresses = [\"127.0.0.1:{}\"]\n{source}\n\
         [store]\ntype = \"postgres\"\nurl_env = \"EDR_DB\"\n[response]\nsoc_webhook = \"{webhook}\"",
        closed_port()
    ));
    let told = doctor(folder.path(), &[("EDR_DB", &url)]);
    assert_eq!((told.code, told.levels("error"), told.levels("warning")), (0, 0, 0), "{:#}", told.document);
    assert_eq!(told.document["ok"], true);
    told.says("ok", "configuration", &["1 processes", "1 sources"]);
    told.says("ok", "state folder", &["can be made"]);
    told.says("ok", "state folder", &["of disk are free"]);
    told.says("ok", "checkpoints", &["state/checkpoint", "can be made"]);
    told.says("ok", "checkpoints", &["of disk are free"]);
    told.says("ok", "rules", &["4 rules in 1 files"]);
    told.says("ok", "source stream", &["topic \"in-order\": 2 partitions, 10 offsets to read"]);
    told.says("ok", "source stream", &["LogAppendTime"]);
    told.says("ok", "store", &["PostgreSQL 18", "no schema yet"]);
    told.says("ok", "process 0", &["free"]);
    told.says("ok", "soc_webhook", &["answers HTTP 405"]);
    told.says("ok", "api", &["free"]);
    let text = told.document.to_string();
    assert!(!text.contains("s3cret"), "no secret is shown: {text}");
    assert!(!folder.path().join("state").exists(), "nothing is made");
}

#[test]
fn closed_ports_and_missing_secrets_are_errors_with_a_way_out() {
    let closed = closed_port();
    let folder = folder(&format!(
        "[[source]]\ntype = \"kafka\"\nname = \"stream\"\nbrokers = \"127.0.0.1:{closed}\"\n\
         [[source]]\ntype = \"kafka\"\nname = \"secret\"\nbrokers = \"127.0.0.1:{closed}\"\n\
         [source.settings]\n\"sasl.password\" = \"env:NOT_SET_ANYWHERE\"\n\
         [store]\ntype = \"postgres\"\nurl_env = \"EDR_DB\"\n\
         [response]\nsoc_webhook = \"http://127.0.0.1:{closed}/s3cret\"\nagent_control_api = \"ftp://x\""
    ));
    let url = format!("postgres://edr:s3cret@127.0.0.1:{closed}/edr");
    let told = doctor(folder.path(), &[("EDR_DB", &url)]);
    assert_eq!((told.code, &told.document["ok"]), (1, &Value::Bool(false)));
    told.says("error", "source stream", &["efused", "brokers"]);
    told.says("error", "source secret", &["NOT_SET_ANYWHERE"]);
    told.says("error", "store", &["efused", "start the database"]);
    told.says("error", "soc_webhook", &["efused", "[response] soc_webhook"]);
    told.says("error", "agent_control_api", &["expected http or https"]);
    assert!(!told.document.to_string().contains("s3cret"), "{:#}", told.document);

    let told = doctor(folder.path(), &[]);
    told.says("error", "store", &["\"EDR_DB\" is not set"]);
}

#[test]
fn clocks_that_differ_are_told() {
    let webhook = receiver(Some("Mon, 06 May 2024 10:00:00 GMT"));
    let folder = folder(&format!("[store]\ntype = \"none\"\n[response]\nsoc_webhook = \"{webhook}\""));
    let told = doctor(folder.path(), &[]);
    told.says("warning", "soc_webhook", &["clock is -", "NTP"]);
    told.says("warning", "configuration", &["nothing will be read"]);
    assert_eq!(told.code, 0, "a warning is no error");
}

#[test]
fn topics_without_a_clock_and_records_that_are_gone_are_told() {
    broker().create_topic("created", 1, &[]).unwrap();
    produce("created", 100);
    commit("behind", "created", 10);
    broker().delete_records("created", 0, 30).unwrap();
    let with = |policy: &str| folder(&kafka_source(&["created", "absent"], "behind", policy));
    let told = doctor(with("").path(), &[]);
    told.says("ok", "source stream", &["topic \"created\": 1 partitions, 70 offsets to read"]);
    let consequence = "a record ahead of its time can re-time those after it";
    told.says("warning", "source stream", &["CreateTime", consequence, "kafka-configs", "LogAppendTime"]);
    told.says("warning", "source stream", &["20 offsets", "are gone", "retention.ms"]);
    told.says("warning", "source stream", &["no topic \"absent\"", "waits"]);
    assert_eq!(told.code, 0);
    let told = doctor(with("on_lost_records = \"fail\"").path(), &[]);
    told.says("error", "source stream", &["20 offsets", "won't start", "on_lost_records"]);
    assert_eq!(told.code, 1);
}

/// Gives a database its schema.
fn set_up(store: &config::Store) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Opened and closed again.
    runtime.block_on(Store::open(store)).unwrap();
}

#[test]
fn old_and_foreign_schemas_of_sqlite_are_told_and_left_alone() {
    let folder = folder("");
    let path = folder.path().join("state/clawdstrike.db");
    set_up(&config::Store::Sqlite {
        path: path.clone(),
        events: true,
        retention: Default::default(),
        sampling: Default::default(),
    });
    doctor(folder.path(), &[]).says("ok", "store", &["SQLite", "schema version 10"]);
    let change = |sql: &str| rusqlite::Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    change("DELETE FROM schema_migrations WHERE version = 10");
    let told = doctor(folder.path(), &[]);
    told.says("warning", "store", &["schema version 9", "this program's is 10", "back it up"]);
    assert_eq!(told.code, 0);
    doctor(folder.path(), &[]).says("warning", "store", &["schema version 9"]);
    change("INSERT INTO schema_migrations VALUES (10, '010_other', 'x', 'now')");
    let told = doctor(folder.path(), &[]);
    told.says("error", "store", &["010_other", "another version"]);
    assert_eq!(told.code, 1);
}

#[test]
fn an_old_schema_of_postgres_is_told() {
    let url = database().create_database("old_schema").unwrap();
    let folder = folder("[store]\ntype = \"postgres\"\nurl_env = \"EDR_DB\"");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let table = "CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL, \
                     checksum TEXT NOT NULL, applied_at TIMESTAMPTZ NOT NULL DEFAULT now())";
        client.batch_execute(table).await.unwrap();
        let first = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/postgres/001_agent_events.sql")).unwrap();
        let sum: String = <sha2::Sha256 as sha2::Digest>::digest(&first).iter().map(|b| format!("{b:02x}")).collect();
        let row = "INSERT INTO schema_migrations (version, name, checksum) VALUES (1, '001_agent_events', $1)";
        client.execute(row, &[&sum]).await.unwrap();
    });
    let told = doctor(folder.path(), &[("EDR_DB", &url)]);
    told.says("warning", "store", &["PostgreSQL", "schema version 1", "brings it up to date"]);
}

#[test]
fn what_a_database_lacks_is_told_with_the_way_out() {
    let url = database().create_database("lacks").unwrap();
    let folder = folder("[store]\ntype = \"postgres\"\nurl_env = \"EDR_DB\"");
    // Connections end with their runtime: TimescaleDB here takes one at a time.
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let change = |url: &str, sql: &str| {
        runtime().block_on(async {
            let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            client.batch_execute(sql).await.unwrap();
        });
    };
    let open = |url: &str| {
        runtime().block_on(async { Store::Postgres(PostgresStore::new(url).unwrap()).connect().await.unwrap() });
    };
    open(&url);
    let told = doctor(folder.path(), &[("EDR_DB", &url)]);
    told.says("ok", "store", &["no TimescaleDB", "install the extension"]);
    assert_eq!(told.code, 0, "{:#}", told.document);
    change(&url, "DROP VIEW agent_events_hourly");
    let told = doctor(folder.path(), &[("EDR_DB", &url)]);
    told.says("error", "store", &["missing: agent_events_hourly", "sql/postgres"]);
    assert_eq!(told.code, 1);
    // A user of its own, who may do a part of it.
    change(
        &url,
        "CREATE ROLE doctor_guest LOGIN PASSWORD 'guest'; GRANT CREATE ON SCHEMA public TO doctor_guest; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON alerts, sessions, actions, audit TO doctor_guest; \
         GRANT SELECT ON schema_migrations, agent_events, archive_positions TO doctor_guest",
    );
    let (_, rest) = url.split_once('@').unwrap();
    let guest = format!("postgres://doctor_guest:guest@{rest}");
    let told = doctor(folder.path(), &[("EDR_DB", &guest)]);
    told.says("error", "store", &["may not read and write agent_events, archive_positions", "GRANT"]);
    told.says("error", "store", &["agent_events isn't this user's", "OWNER"]);

    let server = clawdstrike_test_services::timescale().unwrap();
    let url = server.url();
    open(&url);
    let told = doctor(folder.path(), &[("EDR_DB", &url)]);
    told.says("ok", "store", &["with TimescaleDB"]);
    let store: Vec<_> = told.document["findings"].as_array().unwrap().iter().filter(|f| f["part"] == "store").collect();
    assert_eq!(store.len(), 1, "{store:?}");
    change(
        &url,
        "SELECT remove_compression_policy('agent_events'); SELECT alter_job(job_id, scheduled => false) \
         FROM timescaledb_information.jobs WHERE proc_name = 'policy_refresh_continuous_aggregate'",
    );
    let told = doctor(folder.path(), &[("EDR_DB", &url)]);
    told.says("warning", "store", &["agent_events has no policy_compression", "add_compression_policy"]);
    told.says("warning", "store", &["policy_refresh_continuous_aggregate of agent_events_hourly is switched off"]);
    assert_eq!(told.code, 0, "{:#}", told.document);
}

#[test]
fn folders_and_files_without_permission_are_errors() {
    let folder = folder("[[source]]\ntype = \"jsonl\"\nname = \"events\"\npath = \"data\"");
    let path = |name: &str| folder.path().join(name);
    for name in ["state", "data"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    std::fs::write(path("data/a.jsonl"), "").unwrap();
    doctor(folder.path(), &[]).says("ok", "source events", &["1 files can be read"]);
    let mode = |name: &str, mode| std::fs::set_permissions(path(name), PermissionsExt::from_mode(mode)).unwrap();
    mode("", 0o755);
    mode("state", 0o555);
    mode("data/a.jsonl", 0o000);
    mode("rules/brief.yaml", 0o000);
    let mut command = command(folder.path());
    if folder.path().metadata().unwrap().uid() == 0 {
        // Nothing is forbidden to root: ask as somebody else, who may not be let to where the binary is.
        let copy = path("edr");
        std::fs::copy(BINARY, &copy).unwrap();
        command = Command::new(copy);
        command.args(["doctor", "--output", "json", "--config"]).arg(path("workers.toml")).current_dir(folder.path());
        command.uid(NOBODY).gid(NOBODY);
    }
    let told = told(&mut command);
    told.says("error", "state folder", &["state", "ermission denied", "[cluster] state"]);
    told.says("error", "checkpoints", &["state", "ermission denied", "[cluster] state"]);
    told.says("error", "rules", &["brief.yaml", "ermission denied"]);
    told.says("error", "source events", &["a.jsonl", "ermission denied"]);
    told.says("error", "store", &["ermission denied"]);
    assert_eq!(told.code, 1);
}

#[test]
fn the_checkpoint_folder_is_tried_out_and_left_as_it_was() {
    let folder = folder("");
    let place = folder.path().join("state/checkpoint");
    std::fs::create_dir_all(&place).unwrap();
    let names = || std::fs::read_dir(&place).unwrap().count();
    doctor(folder.path(), &[]).says("ok", "checkpoints", &["state/checkpoint", "creates nothing twice"]);
    assert_eq!(names(), 0);
    std::fs::remove_dir(&place).unwrap();
    std::fs::write(&place, "").unwrap();
    let told = doctor(folder.path(), &[]);
    told.says("error", "checkpoints", &["is not a folder", "[cluster] state"]);
    assert_eq!(told.code, 1);
}

#[test]
fn a_bucket_is_tried_out_and_one_that_creates_twice_is_an_error() {
    let folder = folder("[checkpoint]\nurl = \"s3://edr/prod\"");
    let server = s3().unwrap();
    let with = |changes: &[(&str, &str)]| {
        told(command(folder.path()).envs(server.environment()).envs(changes.iter().copied()))
    };
    let missing = with(&[]);
    missing.says("error", "checkpoints", &["s3://edr/prod", "NoSuchBucket", "[checkpoint] url"]);
    assert_eq!(missing.code, 1);
    let bucket = server.create_bucket("edr").unwrap();
    let well = with(&[]);
    well.says("ok", "checkpoints", &["s3://edr/prod", "creates nothing twice"]);
    assert_eq!(well.code, 0, "{:#}", well.document);
    let left: Vec<_> = std::fs::read_dir(bucket.join("prod")).into_iter().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    let wrong = with(&[("AWS_SECRET_ACCESS_KEY", "wr0ng-one")]);
    wrong.says("error", "checkpoints", &["SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"]);
    assert!(!wrong.document.to_string().contains("wr0ng-one"));
    server.stop().unwrap();
    with(&[]).says("error", "checkpoints", &["efused", "AWS_ENDPOINT"]);

    let careless = s3_without_conditions().unwrap();
    careless.create_bucket("edr").unwrap();
    let twice = told(command(folder.path()).envs(careless.environment()));
    twice.says("error", "checkpoints", &["creates twice", "If-None-Match"]);
    assert_eq!(twice.code, 1);
}

#[test]
fn a_wrong_configuration_and_a_taken_api_address_are_errors() {
    let folder = folder("[cluster]\nprocceses = 2");
    let told = doctor(folder.path(), &[]);
    told.says("error", "configuration", &["procceses"]);
    assert_eq!((told.code, told.document["findings"].as_array().unwrap().len()), (1, 1));

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = format!("[api]\nlisten = \"{}\"\n[store]\ntype = \"none\"", taken.local_addr().unwrap());
    std::fs::write(folder.path().join("workers.toml"), config).unwrap();
    let out =
        Command::new(BINARY).args(["doctor", "--config"]).arg(folder.path().join("workers.toml")).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains("not by an engine that answers") && text.contains("way out: choose another"), "{text}");
}
