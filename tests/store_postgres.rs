//! PostgreSQL and TimescaleDB stores against the real servers, from outside.

#[path = "store/rows.rs"]
mod rows;

#[path = "store/week.rs"]
mod week;

#[path = "store/retention_postgres.rs"]
mod retention;

#[path = "store/tls_postgres.rs"]
mod tls;

use std::sync::LazyLock;
use std::time::Duration;

use clawdstrike_edr::store::{
    Batch, EventRow, Kept, Postgres, RemovedSession, SessionKey, Store, StoreError, StoreWriter,
};
use clawdstrike_test_services::{self as services, Service as _};
use tokio_postgres::types::FromSqlOwned;
use tokio_postgres::{Client, NoTls};

use rows::{
    DEADLINE, T0, action, alert, audit, event, events, handled_alert, hostile_alert, hostile_events, hostile_stored,
    session, session_row, soon, until,
};

/// The brief's schema, word for word: what a user may have set up before the engine came.
const BRIEF_SCHEMA: &str = "
CREATE EXTENSION IF NOT EXISTS timescaledb;

CREATE TABLE agent_events (
    time TIMESTAMPTZ NOT NULL,
    agent_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    target TEXT,
    allowed BOOLEAN NOT NULL,
    guard TEXT,
    severity TEXT,
    risk_score DOUBLE PRECISION,
    metadata JSONB
);

SELECT create_hypertable('agent_events', 'time');

-- Continuous aggregates for dashboards
CREATE MATERIALIZED VIEW agent_events_hourly
WITH (timescaledb.continuous) AS
SELECT
    time_bucket('1 hour', time) AS bucket,
    agent_id,
    event_type,
    COUNT(*) AS event_count,
    COUNT(*) FILTER (WHERE NOT allowed) AS violation_count,
    AVG(risk_score) AS avg_risk_score
FROM agent_events
GROUP BY bucket, agent_id, event_type;

-- Retention policy
SELECT add_retention_policy('agent_events', INTERVAL '90 days');

-- Indexes for common queries
CREATE INDEX idx_agent_events_agent ON agent_events (agent_id, time DESC);
CREATE INDEX idx_agent_events_violations ON agent_events (time DESC)
    WHERE NOT allowed;
";

/// Its compression, word for word.
const COMPRESS: &str = "SELECT compress_chunk(c)
FROM show_chunks('agent_events', older_than => INTERVAL '7 days') c;";

/// The brief's Grafana panels, word for word.
const ACTIVITY: &str = "SELECT bucket, event_count, violation_count FROM agent_events_hourly WHERE bucket > NOW() - INTERVAL '24 hours' ORDER BY bucket";
const VIOLATIONS: &str = "SELECT time, agent_id, event_type, target, guard, severity FROM agent_events WHERE NOT allowed AND time > NOW() - INTERVAL '1 hour' ORDER BY time DESC LIMIT 50";
const HEATMAP: &str = "SELECT time, agent_id, risk_score FROM agent_events WHERE time > NOW() - INTERVAL '24 hours'";
/// Its alert rule "avg(risk_score) > 80 for: 5m", with the agent as label.
const HIGH_RISK: &str = "SELECT agent_id, avg(risk_score) FROM agent_events WHERE time > NOW() - INTERVAL '5 minutes' GROUP BY agent_id HAVING avg(risk_score) > 80";

/// One server for all tests that leave it running; a database for each.
static SERVER: LazyLock<services::Postgres> = LazyLock::new(|| services::postgres().unwrap());

async fn database(name: &'static str) -> String {
    tokio::task::spawn_blocking(move || SERVER.create_database(name).unwrap()).await.unwrap()
}

async fn open(url: &str) -> Store {
    let mut store = Store::Postgres(Postgres::new(url).unwrap());
    store.connect().await.unwrap();
    store
}

async fn client(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn one<T: FromSqlOwned>(client: &Client, sql: &str) -> T {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_micros() as i64
}

fn full_batch() -> Batch {
    Batch {
        alerts: vec![alert("a-1", 2), alert("a-1", 1), alert("a-2", 1)],
        sessions: vec![session_row("s-1", T0, 3, 7)],
        removed_sessions: Vec::new(),
        actions: vec![action("k-1", 2), action("k-1", 1), action("k-2", 1)],
        audit: vec![audit(1), audit(2)],
        events: events("src/0", 3, T0),
        positions: vec![("src".into(), 0, 300)],
    }
}

/// Events of the last minutes: two agents, one of them with violations and a high score.
fn recent_events() -> Vec<EventRow> {
    let time = now() - 60_000_000;
    let risky = |i: i64| EventRow {
        agent_id: "risky".into(),
        allowed: false,
        risk_score: Some(90.0),
        ..event(&format!("r{i}"), time + i)
    };
    let calm = |i: i64| EventRow { agent_id: "calm".into(), ..event(&format!("c{i}"), time + i) };
    (0..4).map(risky).chain((0..6).map(calm)).collect()
}

/// Runs the brief's queries over [`recent_events`].
async fn the_briefs_queries_answer(client: &Client) {
    let activity = client.query(ACTIVITY, &[]).await.unwrap();
    let sum = |column: &str| activity.iter().map(|row| row.get::<_, i64>(column)).sum::<i64>();
    assert_eq!((sum("event_count"), sum("violation_count")), (10, 4));
    let violations = client.query(VIOLATIONS, &[]).await.unwrap();
    assert_eq!(violations.len(), 4);
    assert_eq!(violations[0].get::<_, String>("target"), "api.example:443");
    assert_eq!(client.query(HEATMAP, &[]).await.unwrap().len(), 10);
    let risky = client.query(HIGH_RISK, &[]).await.unwrap();
    assert_eq!(risky.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), ["risky"]);
}

#[tokio::test]
async fn the_same_batch_twice_changes_nothing() {
    let url = database("twice").await;
    let mut store = open(&url).await;
    let client = client(&url).await;
    for _ in 0..2 {
        store.write(&full_batch()).await.unwrap();
        assert_eq!(one::<i64>(&client, "SELECT count(*) FROM agent_events").await, 3);
        assert_eq!(one::<i64>(&client, "SELECT count(*) FROM alerts").await, 2);
        assert_eq!(one::<i64>(&client, "SELECT revision FROM alerts WHERE alert_id = 'a-1'").await, 2);
        assert_eq!(one::<i64>(&client, "SELECT events FROM sessions").await, 3);
        let audit = "SELECT string_agg(seq || (detail ->> 'code') || actor || line, ' ' ORDER BY seq) FROM audit";
        let row = format!("forbidden{0}{0}", hostile_stored());
        assert_eq!(one::<String>(&client, audit).await, format!("1{row} 2{row}"));
        assert_eq!(store.archive_positions().await.unwrap(), [("src".to_owned(), 0, 300)]);
    }
    let micros = "SELECT (extract(epoch FROM last_seen) * 1000000)::bigint FROM alerts WHERE alert_id = 'a-1'";
    assert_eq!(one::<i64>(&client, micros).await, T0 + 2);
    let json = "SELECT document ->> 'status' || (actions -> 0 ->> 'kind') || (metadata ->> 'agent_id') FROM alerts, agent_events";
    assert_eq!(
        one::<String>(&client, &format!("{json} WHERE alert_id = 'a-1' LIMIT 1")).await,
        "updatedalert_socagent-1"
    );
}

#[tokio::test]
async fn lower_versions_and_positions_never_overwrite() {
    let url = database("lower").await;
    let mut store = open(&url).await;
    store.write(&full_batch()).await.unwrap();
    let older = Batch {
        alerts: vec![alert("a-1", 1)],
        actions: vec![action("k-1", 1), action("k-2", 2)],
        sessions: vec![session_row("s-1", T0, 99, 6)],
        removed_sessions: vec![RemovedSession { key: SessionKey::of(&session("s-1", T0, 0)), epoch: 6 }],
        positions: vec![("src".into(), 0, 100)],
        ..Batch::default()
    };
    store.write(&older).await.unwrap();
    let client = client(&url).await;
    assert_eq!(
        one::<String>(&client, "SELECT revision || status FROM alerts WHERE alert_id = 'a-1'").await,
        "2updated"
    );
    let actions = "SELECT string_agg(key || state || attempts || agent_id || (params ->> 'duration'), ' ' ORDER BY key) FROM actions";
    let stored = hostile_stored();
    assert_eq!(one::<String>(&client, actions).await, format!("k-1acknowledged2{stored}1h k-2acknowledged2{stored}1h"));
    assert_eq!(one::<i64>(&client, "SELECT events FROM sessions").await, 3);
    assert_eq!(store.archive_positions().await.unwrap()[0].2, 300);
}

#[tokio::test]
async fn what_analysts_did_with_an_alert_is_a_row_each() {
    let url = database("acks").await;
    let mut store = open(&url).await;
    store.write(&Batch { alerts: vec![handled_alert("a-1"), alert("a-2", 1)], ..Batch::default() }).await.unwrap();
    let acks = "SELECT string_agg(alert_id || deed || actor || (extract(epoch FROM time) * 1000000)::bigint || comment, ' ' \
                ORDER BY time) FROM acks";
    let expected = format!("a-1acknowledgeana{}{} a-1closeana{}", T0 + 1, hostile_stored(), T0 + 2);
    assert_eq!(one::<String>(&client(&url).await, acks).await, expected);
}

#[tokio::test]
async fn a_life_whose_beginning_moves_leaves_no_old_row() {
    let url = database("moved").await;
    let mut store = open(&url).await;
    store.write(&full_batch()).await.unwrap();
    let moved = Batch {
        sessions: vec![session_row("s-1", T0 - 1_000_000, 4, 8)],
        removed_sessions: vec![RemovedSession { key: SessionKey::of(&session("s-1", T0, 0)), epoch: 8 }],
        ..Batch::default()
    };
    store.write(&moved).await.unwrap();
    let client = client(&url).await;
    assert_eq!(one::<i64>(&client, "SELECT sum(events)::bigint FROM sessions").await, 4);
}

#[tokio::test]
async fn hostile_strings_are_stored_and_break_nothing() {
    let url = database("hostile").await;
    let mut store = open(&url).await;
    let hostile = hostile_events();
    let batch = Batch { alerts: vec![hostile_alert("h")], events: hostile.clone(), ..Batch::default() };
    store.write(&batch).await.unwrap();
    store.write(&batch).await.unwrap();
    let client = client(&url).await;
    assert_eq!(one::<i64>(&client, "SELECT count(*) FROM agent_events").await, hostile.len() as i64);
    let target = "SELECT target FROM agent_events WHERE event_key = 'hostile/text'";
    assert_eq!(one::<String>(&client, target).await, hostile_stored());
    assert_eq!(one::<String>(&client, "SELECT document -> 'group' ->> 'target' FROM alerts").await, hostile_stored());
    assert_eq!(one::<i32>(&client, "SELECT max(length(target)) FROM agent_events").await, 64 * 1024);
}

#[tokio::test]
async fn the_briefs_queries_answer_without_timescaledb() {
    let url = database("plain").await;
    open(&url).await.write(&Batch { events: recent_events(), ..Batch::default() }).await.unwrap();
    the_briefs_queries_answer(&client(&url).await).await;
}

#[tokio::test]
async fn processes_that_start_together_migrate_once() {
    let url = database("together").await;
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn({
                let url = url.clone();
                async move { open(&url).await }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().write(&full_batch()).await.unwrap();
    }
    assert_eq!(one::<i64>(&client(&url).await, "SELECT count(*) FROM schema_migrations").await, 12);
}

#[tokio::test]
async fn refuses_a_database_that_cannot_hold_all_text() {
    let url = database("template").await;
    let sql = "CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0";
    client(&url).await.batch_execute(sql).await.unwrap();
    let error =
        Postgres::new(&url.replace("/template", "/ascii")).map(Store::Postgres).unwrap().connect().await.unwrap_err();
    assert!(error.to_string().contains("UTF8"), "{error}");
}

#[tokio::test]
async fn refused_rows_are_left_out_and_block_nothing() {
    let url = database("refused").await;
    let store = open(&url).await;
    let client = client(&url).await;
    client.batch_execute("ALTER TABLE agent_events ADD CHECK (agent_id <> 'bad')").await.unwrap();
    let writer = StoreWriter::start(store);
    let mut batch = events("src/0", 100, T0);
    batch[0].agent_id = "bad".into();
    batch[99].agent_id = "bad".into();
    batch[50].metadata = "no JSON".into();
    let receipt = writer.archive().send(batch, vec![("src".into(), 0, 100)]).await.unwrap();
    assert_eq!(soon(receipt).await.unwrap().refused, 3);
    assert_eq!(one::<i64>(&client, "SELECT count(*) FROM agent_events").await, 97);
    assert_eq!(one::<i64>(&client, "SELECT next_offset FROM archive_positions").await, 100);
}

#[tokio::test]
async fn a_missing_table_loses_no_rows_and_holds_no_alert() {
    let url = database("missing").await;
    let writer = StoreWriter::start(open(&url).await);
    let client = client(&url).await;
    client.batch_execute("ALTER TABLE agent_events RENAME TO hidden").await.unwrap();
    let receipt = writer.archive().send(events("src/0", 10, T0), Vec::new()).await.unwrap();
    let sender = writer.versions();
    let reason = soon(writer.status().wait_for(|s| s.failures > 1)).await.unwrap().degraded.clone().unwrap();
    assert!(reason.contains("agent_events"), "{reason}");
    sender.send(1, vec![alert("a-1", 1)], Vec::new(), Vec::new());
    let mut durable = sender.watch();
    soon(durable.wait_for(|epoch| *epoch == Some(1))).await.unwrap();
    client.batch_execute("ALTER TABLE hidden RENAME TO agent_events").await.unwrap();
    assert_eq!(soon(receipt).await.unwrap().refused, 0);
    assert_eq!(one::<i64>(&client, "SELECT count(*) FROM agent_events").await, 10);
}

/// Sessions that never stop changing, and whose rows take longer to write than the time between two writes of them.
#[tokio::test]
async fn sessions_that_take_long_to_write_leave_time_to_events() {
    let url = database("slow_sessions").await;
    let writer = StoreWriter::start(open(&url).await);
    let client = client(&url).await;
    let slow = "CREATE TABLE writes (); \
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN INSERT INTO writes DEFAULT VALUES; PERFORM pg_sleep(1.2); RETURN NULL; END $$; \
        CREATE TRIGGER slow AFTER INSERT ON sessions FOR EACH STATEMENT EXECUTE FUNCTION slow()";
    client.batch_execute(slow).await.unwrap();
    let (sender, archive) = (writer.versions(), writer.archive());
    for n in 1..=20 {
        sender.send(n, Vec::new(), vec![session("s-1", T0, n)], Vec::new());
        let receipt = archive.send(events(&format!("src/{n}"), 1, T0), Vec::new()).await.unwrap();
        assert_eq!(soon(receipt).await.unwrap().refused, 0);
    }
    let writes = one::<i64>(&client, "SELECT count(*) FROM writes").await;
    assert!((1..10).contains(&writes), "{writes} writes of sessions, and 20 of events");
}

#[tokio::test]
async fn a_killed_server_that_comes_back_ends_exact() {
    let server = tokio::task::spawn_blocking(|| services::postgres().unwrap()).await.unwrap();
    let url = server.url();
    let writer = StoreWriter::start(open(&url).await);
    let (sender, archive) = (writer.versions(), writer.archive());
    sender.send(1, vec![alert("a-1", 1)], vec![session("s-1", T0, 1)], Vec::new());
    archive.send(events("src/0", 50, T0), vec![("src".into(), 0, 50)]).await.unwrap().await.unwrap();
    writer.flush(DEADLINE).await.unwrap();
    assert_eq!(sender.durable(), Some(1));

    server.kill().unwrap();
    let receipt = archive.send(events("src/1", 50, T0), vec![("src".into(), 0, 100)]).await.unwrap();
    for epoch in 2..=300 {
        sender.send(epoch, vec![alert("a-1", epoch)], vec![session("s-1", T0, epoch)], Vec::new());
    }
    soon(writer.status().wait_for(|s| s.failures > 0)).await.unwrap();
    until("the versions coalesce", || async { writer.waiting() == (1, 1) }).await;
    assert_eq!(sender.durable(), Some(1));

    let server = tokio::task::spawn_blocking(move || server.restart().map(|()| server)).await.unwrap().unwrap();
    assert_eq!(soon(receipt).await.unwrap().refused, 0);
    soon(sender.watch().wait_for(|epoch| *epoch == Some(300))).await.unwrap();
    let client = client(&url).await;
    assert_eq!(one::<i64>(&client, "SELECT revision FROM alerts").await, 300);
    assert_eq!(one::<i64>(&client, "SELECT events FROM sessions").await, 300);
    assert_eq!(one::<i64>(&client, "SELECT count(*) FROM agent_events").await, 100);
    assert_eq!(archive.positions().await.unwrap(), [("src".to_owned(), 0, 100)]);
    drop(server);
}

#[tokio::test]
async fn a_server_that_holds_a_lock_for_ever_is_given_up() {
    let url = database("locked").await;
    let mut postgres = Postgres::new(&url).unwrap();
    postgres.set_deadline(Duration::from_millis(300));
    let mut store = Store::Postgres(postgres);
    store.connect().await.unwrap();
    let mut other = client(&url).await;
    let lock = other.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE alerts IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let error = store.write(&full_batch()).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains("no answer within 300ms")), "{error}");
    lock.rollback().await.unwrap();
    if let Store::Postgres(postgres) = &mut store {
        postgres.set_deadline(DEADLINE);
    }
    store.write(&full_batch()).await.unwrap();
}

#[tokio::test]
async fn a_port_that_answers_nothing_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = format!("postgres://u:secret@127.0.0.1:{port}/edr?connect_timeout=1");
    let error = Store::Postgres(Postgres::new(&url).unwrap()).connect().await.unwrap_err();
    assert!(error.to_string().contains("no answer within 1s") && !error.to_string().contains("secret"), "{error}");
    drop(listener);
}

#[tokio::test]
async fn timescaledb_aggregates_compresses_and_stays_exact() {
    let server = tokio::task::spawn_blocking(|| services::timescale().unwrap()).await.unwrap();
    let url = server.url();
    let old = events("old", 5, now() - 20 * 86_400_000_000);
    let mut batch = full_batch();
    batch.events = recent_events().into_iter().chain(old).collect();
    let mut store = open(&url).await;
    store.write(&batch).await.unwrap();
    store.write(&batch).await.unwrap();
    drop(store);

    // The server takes one connection at a time.
    let reader = client(&url).await;
    assert_eq!(one::<i64>(&reader, "SELECT count(*) FROM timescaledb_information.hypertables").await, 1);
    let policies = "SELECT string_agg(proc_name, ' ' ORDER BY proc_name) FROM timescaledb_information.jobs WHERE proc_name LIKE 'policy_%' \
                    AND hypertable_name IS NOT NULL";
    let policies: String = one(&reader, policies).await;
    for policy in ["policy_compression", "policy_refresh_continuous_aggregate", "policy_retention"] {
        assert!(policies.contains(policy), "{policies}");
    }
    the_briefs_queries_answer(&reader).await;
    let total = "SELECT sum(event_count)::bigint FROM agent_events_hourly";
    assert_eq!(one::<i64>(&reader, total).await, 15);
    let job = "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = 'policy_refresh_continuous_aggregate'";
    let job: i32 = one(&reader, job).await;
    reader.batch_execute(&format!("CALL run_job({job})")).await.unwrap();
    assert_eq!(one::<i64>(&reader, total).await, 15);
    assert!(!reader.query(COMPRESS, &[]).await.unwrap().is_empty());
    drop(reader);

    // A replay meets the compressed rows too, and what is new since the refresh shows at once.
    let mut store = open(&url).await;
    batch.events.push(event("new", now()));
    store.write(&batch).await.unwrap();
    assert_eq!(store.archive_positions().await.unwrap(), [("src".to_owned(), 0, 300)]);
    drop(store);
    let reader = client(&url).await;
    assert_eq!(one::<i64>(&reader, "SELECT count(*) FROM agent_events").await, 16);
    assert_eq!(one::<i64>(&reader, total).await, 16);
    assert_eq!(one::<i64>(&reader, "SELECT count(*) FROM alerts").await, 2);
}

#[tokio::test]
async fn a_schema_that_was_set_up_by_hand_is_adopted() {
    let server = tokio::task::spawn_blocking(|| services::timescale().unwrap()).await.unwrap();
    let url = server.url();
    let user = client(&url).await;
    // As psql does it: an aggregate can't be filled in the transaction of several statements.
    for statement in BRIEF_SCHEMA.split_inclusive(';').filter(|text| text.trim().ends_with(';')) {
        user.batch_execute(statement).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
    }
    let row = "INSERT INTO agent_events VALUES (now(), 'by hand', 's', 'mcp_tool', 't', true, 'g', 'low', 1, '{}')";
    user.batch_execute(row).await.unwrap();
    drop(user);
    let mut store = open(&url).await;
    let mut rows = recent_events();
    rows.extend(events("old", 5, now() - 20 * 86_400_000_000));
    let hostile = hostile_events();
    let count = rows.len() + hostile.len();
    let batch = Batch {
        alerts: vec![hostile_alert("h")],
        events: rows.into_iter().chain(hostile).collect(),
        ..Batch::default()
    };
    store.write(&batch).await.unwrap();
    store.write(&batch).await.unwrap();
    drop(store);
    let reader = client(&url).await;
    let total = "SELECT sum(event_count)::bigint FROM agent_events_hourly";
    assert_eq!(one::<i64>(&reader, total).await, 1 + count as i64);
    // Its own row and a hostile one of the last hour aren't among those that the panels are asked about here.
    reader
        .batch_execute("DELETE FROM agent_events WHERE agent_id = 'by hand' OR time > now() + INTERVAL '1 day'")
        .await
        .unwrap();
    the_briefs_queries_answer(&reader).await;
    assert!(!reader.query(COMPRESS, &[]).await.unwrap().is_empty());
    the_briefs_queries_answer(&reader).await;
    let retention = "SELECT count(*) FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention' \
                     AND hypertable_name = 'agent_events' AND config ->> 'drop_after' = '90 days'";
    assert_eq!(one::<i64>(&reader, retention).await, 1);
}

#[tokio::test]
async fn events_are_read_back_in_the_order_of_their_times() {
    let url = database("read_back").await;
    let mut store = open(&url).await;
    let mut written = events("src/0", 25_000, T0);
    written.reverse();
    for rows in written.chunks(5_000) {
        store.write(&Batch { events: rows.to_vec(), ..Batch::default() }).await.unwrap();
    }
    written.reverse();
    let mut read = Vec::new();
    let (from, to) = (written[10].time, written[24_990].time);
    let all = store.past_events(from, to, |event| {
        read.push(event);
        true
    });
    all.await.unwrap();
    let expected: Vec<_> = written[10..=24_990].iter().map(|row| (row.time, row.key.as_str())).collect();
    assert_eq!(read.iter().map(|e| (e.time, e.key.as_str())).collect::<Vec<_>>(), expected);
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(json(&read[0].record), json(&written[10].metadata));
}

#[tokio::test]
async fn rows_of_a_span_are_exported_in_order_with_all_their_columns() {
    let url = database("export").await;
    let mut store = open(&url).await;
    let mut rows = events("e", 1_000, T0);
    rows.reverse();
    let batch = Batch {
        events: rows.into_iter().chain(hostile_events()).collect(),
        alerts: vec![alert("a-2", 1), alert("a-1", 2), hostile_alert("h")],
        sessions: vec![session_row("s-1", T0, 3, 7), session_row("s-2", T0 + 1, 3, 7)],
        ..Batch::default()
    };
    store.write(&batch).await.unwrap();
    let mut read = async |kept: Kept, from: i64, to: i64| {
        let mut rows: Vec<Vec<Option<String>>> = Vec::new();
        let all = store.export(kept, from, to, |row| {
            rows.push(row);
            true
        });
        all.await.unwrap();
        rows
    };
    let place = |kept: Kept, name: &str| kept.columns().iter().position(|c| c.name == name).unwrap();
    let got = read(Kept::Events, T0 + 10, T0 + 900).await;
    let key = place(Kept::Events, "event_key");
    let keys: Vec<_> = got.iter().map(|row| row[key].clone().unwrap()).collect();
    assert_eq!(keys, (10..900).map(|i| format!("e/{i}")).collect::<Vec<_>>());
    let row = |name: &str| got[0][place(Kept::Events, name)].as_deref();
    assert_eq!(
        (row("time"), row("allowed"), row("risk_score"), row("metadata")),
        (Some("2026-01-05T10:00:00.000010Z"), Some("true"), Some("10"), Some("{\"agent_id\": \"agent-1\"}"))
    );
    // Every hostile row comes too, and all values of alerts and sessions.
    assert_eq!(read(Kept::Events, i64::MIN / 2, i64::MAX).await.len(), 1_000 + hostile_events().len() - 1);
    let alerts = read(Kept::Alerts, T0, T0 + 1).await;
    let ids: Vec<_> = alerts.iter().map(|row| row[place(Kept::Alerts, "alert_id")].as_deref().unwrap()).collect();
    assert_eq!(ids, ["a-1", "a-2", "h"]);
    assert_eq!(alerts[0][place(Kept::Alerts, "superseded_by")], None);
    assert_eq!(read(Kept::Sessions, T0, T0 + 1).await.len(), 1);
}
