//! Starts each real service, goes round it once, and breaks it on purpose. Starting times are printed
//! (`--nocapture`), never asserted.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clawdstrike_test_services::{Kafka, Postgres, Service as _, Timescale, kafka, postgres, s3, timescale};
use tokio_postgres::{Client, NoTls};

/// Far above what anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

fn timed<T>(what: &str, start: impl FnOnce() -> Result<T, String>) -> T {
    let begun = Instant::now();
    let started = start().unwrap_or_else(|e| panic!("{what}: {e}"));
    println!("{what}: {:.2} s", begun.elapsed().as_secs_f64());
    started
}

fn start_kafka() -> Kafka {
    timed("kafka start", kafka)
}

fn start_postgres() -> Postgres {
    timed("postgres start", postgres)
}

fn start_timescale() -> Timescale {
    timed("timescale start", timescale)
}

/// The `host:port` in a database's address.
fn address(url: &str) -> String {
    let authority = url.rsplit('@').next().unwrap_or_default();
    let address = authority.split('/').next().unwrap_or_default();
    address.to_owned()
}

/// Polls until `condition` holds; panics past the deadline.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < until, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

// ---- kafka

fn produce(kafka: &Kafka, topic: &str, lines: &str) {
    let bootstrap = kafka.bootstrap();
    let arguments = ["--bootstrap-server", &bootstrap, "--topic", topic];
    kafka.tool("org.apache.kafka.tools.ConsoleProducer", &arguments, lines).expect("produced");
}

fn consume(kafka: &Kafka, topic: &str, group: &str, count: usize) -> Vec<String> {
    let (bootstrap, count) = (kafka.bootstrap(), count.to_string());
    let arguments = [
        "--bootstrap-server",
        &bootstrap,
        "--topic",
        topic,
        "--group",
        group,
        "--from-beginning",
        "--max-messages",
        &count,
        "--timeout-ms",
        "60000",
        "--formatter-property",
        "print.timestamp=true",
    ];
    let class = "org.apache.kafka.tools.consumer.ConsoleConsumer";
    let told = kafka.tool(class, &arguments, "").expect("consumed");
    told.lines().map(str::to_owned).collect()
}

#[test]
fn kafka_returns_what_was_produced_and_describes_the_group() {
    let kafka = start_kafka();
    timed("kafka create_topic", || kafka.create_topic("events", 2, &[("message.timestamp.type", "LogAppendTime")]));
    let topic = kafka
        .tool(
            "org.apache.kafka.tools.TopicCommand",
            &["--bootstrap-server", &kafka.bootstrap(), "--describe", "--topic", "events"],
            "",
        )
        .expect("described");
    assert!(topic.contains("PartitionCount: 2"), "{topic}");
    assert!(topic.contains("message.timestamp.type=LogAppendTime"), "{topic}");

    produce(&kafka, "events", "one\ntwo\nthree\n");
    let mut lines = consume(&kafka, "events", "readers", 3);
    lines.sort_unstable_by_key(|line| line.split('\t').nth(1).map(str::to_owned));
    let values: Vec<&str> = lines.iter().filter_map(|line| line.split('\t').nth(1)).collect();
    assert_eq!(values, ["one", "three", "two"]);
    assert!(lines.iter().all(|line| line.starts_with("LogAppendTime:")), "{lines:?}");

    produce(&kafka, "events", "four\n");
    let group = kafka.consumer_group_describe("readers").expect("described");
    let lag: u64 = group
        .lines()
        .filter(|line| line.contains("events"))
        .filter_map(|line| line.split_whitespace().nth(5)?.parse::<u64>().ok())
        .sum();
    assert_eq!(lag, 1, "{group}");
    let missing = kafka.consumer_group_describe("nobody").expect_err("no such group");
    assert!(missing.contains("\"nobody\""), "{missing}");
}

#[test]
fn kafka_keeps_acknowledged_records_through_kill_and_stop() {
    let kafka = start_kafka();
    kafka.create_topic("events", 1, &[]).expect("created");
    produce(&kafka, "events", "one\n");
    kafka.kill().expect("killed");
    timed("kafka restart after a kill", || kafka.restart());
    produce(&kafka, "events", "two\n");
    timed("kafka stop", || kafka.stop());
    assert!(TcpStream::connect(kafka.bootstrap()).is_err(), "a stopped broker listens");
    let down = kafka.create_topic("more", 1, &[]).expect_err("the broker is down");
    assert!(down.contains("\"more\""), "{down}");
    timed("kafka restart after a stop", || kafka.restart());
    let lines = consume(&kafka, "events", "readers", 2);
    let values: Vec<&str> = lines.iter().filter_map(|line| line.split('\t').nth(1)).collect();
    assert_eq!(values, ["one", "two"]);
}

#[test]
fn kafka_tells_why_a_topic_is_refused() {
    let kafka = start_kafka();
    kafka.create_topic("events", 1, &[]).expect("created");
    kafka.add_partitions("events", 3).expect("added");
    let exists = kafka.create_topic("events", 1, &[]).expect_err("exists");
    assert!(exists.contains("already exists"), "{exists}");
    let fewer = kafka.add_partitions("events", 2).expect_err("fewer");
    assert!(fewer.contains("\"events\""), "{fewer}");
    let unknown = kafka.create_topic("odd", 1, &[("message.timestamp.type", "Sundial")]).expect_err("no such type");
    assert!(unknown.contains("Sundial"), "{unknown}");
    kafka.add_partitions("absent", 2).expect_err("no such topic");
}

// ---- postgres and timescale

/// Connects as the engine does; the connection ends with the client.
async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move {
        if let Err(e) = connection.await {
            println!("connection ended: {e}");
        }
    });
    Ok(client)
}

#[tokio::test]
async fn postgres_databases_are_apart_and_survive_kill_and_stop() {
    let postgres = start_postgres();
    let one = postgres.create_database("one").expect("created");
    let two = postgres.create_database("two").expect("created");
    let client = connect(&one).await.expect("connected");
    let row = client.query_one("SHOW server_version_num", &[]).await.expect("version");
    assert!(row.get::<_, &str>(0).starts_with("18"), "{row:?}");
    client.batch_execute("CREATE TABLE t (v int); INSERT INTO t VALUES (7)").await.expect("written");
    let other = connect(&two).await.expect("connected");
    other.query("SELECT v FROM t", &[]).await.expect_err("another database");

    postgres.kill().expect("killed");
    timed("postgres restart after a kill", || postgres.restart());
    timed("postgres stop", || postgres.stop());
    connect(&one).await.map(drop).expect_err("a stopped server");
    timed("postgres restart after a stop", || postgres.restart());
    let client = connect(&one).await.expect("connected");
    let row = client.query_one("SELECT v FROM t", &[]).await.expect("read");
    assert_eq!(row.get::<_, i32>(0), 7);
}

#[test]
fn postgres_refuses_odd_and_taken_database_names() {
    let postgres = start_postgres();
    for odd in ["", "a\"b", "a b", &"x".repeat(64)] {
        let told = postgres.create_database(odd).expect_err("odd");
        assert!(told.contains("no name for a database"), "{told}");
    }
    postgres.create_database("taken").expect("created");
    let taken = postgres.create_database("taken").expect_err("taken");
    assert!(taken.contains("already exists"), "{taken}");
}

const TABLES: [&str; 2] = [
    "CREATE TABLE events (at timestamptz NOT NULL, agent text NOT NULL, n int8 NOT NULL, UNIQUE (at, agent));
     SELECT create_hypertable('events', 'at')",
    "CREATE MATERIALIZED VIEW hourly WITH (timescaledb.continuous, timescaledb.materialized_only = true) AS
     SELECT time_bucket('1 hour', at) AS hour, agent, sum(n)::int8 AS total FROM events GROUP BY 1, 2
     WITH NO DATA",
];

/// Writes two hours of one event a minute, each with this `n`, over what is there.
async fn upsert(client: &Client, n: i64) {
    let sql = "INSERT INTO events SELECT timestamptz '2026-01-01' + make_interval(mins => m), a, n
               FROM UNNEST($1::int4[], $2::text[], $3::int8[]) AS new (m, a, n)
               ON CONFLICT (at, agent) DO UPDATE SET n = EXCLUDED.n";
    let minutes: Vec<i32> = (0..120).collect();
    let (agents, counts) = (vec!["agent-1"; 120], vec![n; 120]);
    let written = client.execute(sql, &[&minutes, &agents, &counts]).await;
    assert_eq!(written.expect("upserted"), 120);
}

/// The totals by hour, after a refresh of the continuous aggregate.
async fn totals(client: &Client) -> Vec<i64> {
    client.batch_execute("CALL refresh_continuous_aggregate('hourly', NULL, NULL)").await.expect("refreshed");
    let rows = client.query("SELECT total FROM hourly ORDER BY hour", &[]).await.expect("read");
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn timescale_aggregates_and_upserts_also_after_kill_and_stop() {
    let timescale = start_timescale();
    let client = connect(&timescale.url()).await.expect("connected");
    for table in TABLES {
        client.batch_execute(table).await.expect("created");
    }
    upsert(&client, 5).await;
    upsert(&client, 1).await;
    assert_eq!(totals(&client).await, [60, 60]);
    timescale.kill().expect("killed");
    timed("timescale restart after a kill", || timescale.restart());
    let client = connect(&timescale.url()).await.expect("connected");
    upsert(&client, 2).await;
    assert_eq!(totals(&client).await, [120, 120]);
    drop(client);
    timed("timescale stop", || timescale.stop());
    connect(&timescale.url()).await.map(drop).expect_err("a stopped server");
    timed("timescale restart after a stop", || timescale.restart());
    let client = connect(&timescale.url()).await.expect("connected");
    upsert(&client, 3).await;
    assert_eq!(totals(&client).await, [180, 180]);
}

#[tokio::test]
async fn timescale_serves_one_client_and_then_the_next() {
    let timescale = start_timescale();
    let first = connect(&timescale.url()).await.expect("connected");
    let refused = connect(&timescale.url()).await.map(drop).expect_err("two at a time");
    let told = refused.as_db_error().map(|e| e.message().to_owned()).unwrap_or_default();
    assert!(told.contains("one client at a time"), "{refused:?}");
    drop(first);
    // Each leaves a named prepared statement and an open transaction behind.
    for _ in 0..20 {
        let client = connect(&timescale.url()).await.expect("connected");
        client.batch_execute("PREPARE mine AS SELECT 1; BEGIN").await.expect("prepared");
    }
}

#[tokio::test]
async fn timescale_outlives_clients_that_break_off() {
    let timescale = start_timescale();
    let address = address(&timescale.url());
    for _ in 0..5 {
        let mut stream = TcpStream::connect(&address).expect("connected");
        let body = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0";
        let length = (body.len() as u32 + 4).to_be_bytes();
        stream.write_all(&[&length, &body[..]].concat()).expect("written");
        stream.read_exact(&mut [0]).expect("answered");
        // Dropped with the rest of the answer unread: the server sees a reset.
    }
    let client = connect(&timescale.url()).await.expect("connected");
    client.query_one("SELECT 1", &[]).await.expect("answered");
}

// ---- s3

#[test]
fn s3_asks_for_a_signature_also_after_kill_and_stop() {
    let s3 = timed("s3 start", s3);
    let bucket = s3.create_bucket("bucket").expect("created");
    std::fs::write(bucket.join("object"), "x").expect("written");
    s3.create_bucket("bucket").expect_err("taken");
    s3.create_bucket("Odd_Name").expect_err("odd");
    let unsigned = || {
        let mut stream = TcpStream::connect(s3.endpoint().trim_start_matches("http://"))?;
        write!(stream, "GET /bucket/object HTTP/1.1\r\nHost: s3\r\nConnection: close\r\n\r\n")?;
        let mut told = String::new();
        stream.read_to_string(&mut told).map(|_| told)
    };
    assert!(unsigned().expect("answered").starts_with("HTTP/1.1 403"));
    s3.kill().expect("killed");
    timed("s3 restart after a kill", || s3.restart());
    assert!(unsigned().expect("answered").starts_with("HTTP/1.1 403"));
    timed("s3 stop", || s3.stop());
    unsigned().expect_err("a stopped server");
    timed("s3 restart after a stop", || s3.restart());
    assert!(unsigned().expect("answered").starts_with("HTTP/1.1 403"));
}

// ---- leftovers

/// The run folders that the process of this id made.
fn run_folders(of: u32) -> Vec<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the workspace");
    std::fs::read_dir(workspace.join("target/services/run"))
        .expect("the folder of running services")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.to_string_lossy().contains(&format!("-{of}-")))
        .collect()
}

/// Set in the process that the next test starts and kills: the same test of the same binary.
const HOLDER: &str = "CLAWDSTRIKE_TEST_HOLDER";

#[test]
fn services_end_with_a_test_process_that_is_killed() {
    let name = "services_end_with_a_test_process_that_is_killed";
    if std::env::var_os(HOLDER).is_some() {
        let timescale = start_timescale();
        println!("holding {}", timescale.url());
        std::thread::park_timeout(DEADLINE);
        return;
    }
    let mut holder = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", name, "--nocapture"])
        .env(HOLDER, "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut output = BufReader::new(holder.stdout.take().expect("piped")).lines();
    let told = output
        .find(|line| line.as_ref().is_ok_and(|line| line.contains("holding")))
        .expect("the holder holds")
        .expect("a line");
    let address = address(told.trim());
    let folders = run_folders(holder.id());
    assert_eq!(folders.len(), 1, "{folders:?}");
    TcpStream::connect(&address).expect("it serves");
    holder.kill().expect("killed");
    holder.wait().expect("gone");
    eventually("the server's end", || TcpStream::connect(&address).is_err());
    eventually("the folder's end", || run_folders(holder.id()).is_empty());
}

#[test]
fn a_dropped_service_is_gone_at_once() {
    let timescale = start_timescale();
    let address = address(&timescale.url());
    TcpStream::connect(&address).expect("it serves");
    drop(timescale);
    assert!(TcpStream::connect(&address).is_err(), "it still listens");
}
