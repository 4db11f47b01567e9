//! Retention in PostgreSQL, alone and with TimescaleDB: what is due goes, and nothing else.

use clawdstrike_edr::config::{Duration, Retention};
use clawdstrike_edr::store::{Postgres, Removed, Store};

use super::rows::{action, alert, event, events, session_row};
use super::{Batch, EventRow, client, database, now, one, services, week};

const DAY: i64 = 86_400_000_000;

fn days(n: i64) -> Duration {
    Duration(n * DAY)
}

fn unconnected(url: &str, retention: Retention) -> Store {
    let mut postgres = Postgres::new(url).unwrap();
    postgres.set_retention(retention);
    Store::Postgres(postgres)
}

async fn open(url: &str, retention: Retention) -> Store {
    let mut store = unconnected(url, retention);
    store.connect().await.unwrap();
    store
}

const DAYS: &str = "SELECT string_agg(inhrelid::regclass::text, ' ' ORDER BY 1) FROM pg_inherits i JOIN pg_class c ON c.oid = inhparent \
                    WHERE c.relname = 'agent_events'";
const KEYS: &str = "SELECT coalesce(string_agg(event_key, ' ' ORDER BY event_key), '') FROM agent_events";
const HOURS: &str = "SELECT sum(event_count) || ' ' || sum(violation_count) || ' ' || round(sum(event_count * avg_risk_score)::numeric, 3) \
                     FROM agent_events_hourly";

/// Midnight, so many days ago.
fn midnight(ago: i64) -> i64 {
    (now() / DAY - ago) * DAY
}

fn partition(ago: i64) -> String {
    format!("agent_events_{}", clawdstrike_telemetry::time::format(midnight(ago))[..10].replace('-', ""))
}

#[tokio::test]
async fn days_that_are_due_are_dropped_and_nothing_else() {
    let url = database("retention").await;
    let long = Retention { events: days(365), ..Retention::default() };
    let mut store = open(&url, long).await;
    let ago = |key: &str, ago: i64| event(key, midnight(ago) + 3_600_000_000);
    let violation = EventRow { allowed: false, risk_score: Some(90.0), ..ago("b", 92) };
    // The last one's day is only partly due, and stays whole; the first is older than all that is kept.
    let rows = vec![event("0", 0), ago("a", 200), violation, ago("c", 90), ago("d", 1), event("e", now())];
    store.write(&Batch { events: rows.clone(), ..Batch::default() }).await.unwrap();
    store.write(&Batch { events: rows, ..Batch::default() }).await.unwrap();
    let client = client(&url).await;
    let all: String = one(&client, DAYS).await;
    for ago in [200, 92, 90, 1, 0] {
        assert!(all.contains(&partition(ago)), "{all}");
    }
    assert_eq!(one::<i64>(&client, "SELECT count(*) FROM agent_events_default").await, 1);
    let hours: String = one(&client, HOURS).await;
    assert_eq!(one::<String>(&client, KEYS).await, "0 a b c d e");

    let mut store = open(&url, Retention::default()).await;
    let removed = store.sweep(now()).await.unwrap();
    assert_eq!(removed, Removed { events: 3, ..Removed::default() });
    assert_eq!(one::<String>(&client, KEYS).await, "c d e");
    assert_eq!(one::<String>(&client, HOURS).await, hours, "hours outlive their events");
    let left: String = one(&client, DAYS).await;
    for ago in [200, 92] {
        assert!(!left.contains(&partition(ago)), "{left}");
    }
    for ago in [90, 1, 0, -1, -2] {
        assert!(left.contains(&partition(ago)), "{left}");
    }
    assert_eq!(store.sweep(now()).await.unwrap(), Removed::default());
    // A clock that runs ahead removes nothing: the server's counts.
    assert_eq!(store.sweep(now() + 1_000 * DAY).await.unwrap(), Removed::default());
    assert_eq!(one::<String>(&client, KEYS).await, "c d e");
}

#[tokio::test]
async fn history_goes_by_its_last_event() {
    let url = database("history").await;
    let mut store = open(&url, Retention { history: Some(days(100)), ..Retention::default() }).await;
    let (old, kept) = (now() - 101 * DAY, now() - 99 * DAY);
    let mut alerts = vec![alert("old", 1), alert("kept", 1)];
    (alerts[0].last_seen, alerts[1].last_seen) = (old, kept);
    let sessions = vec![session_row("old", old, 1, 1), session_row("kept", kept, 1, 1)];
    let rows = vec![event("old", old), event("kept", kept)];
    let mut actions = vec![action("old", 1), action("kept", 1)];
    (actions[0].updated_at, actions[1].updated_at) = (old, kept);
    store.write(&Batch { events: rows, alerts, sessions, actions, ..Batch::default() }).await.unwrap();
    let removed = store.sweep(now()).await.unwrap();
    assert_eq!(removed, Removed { events: 2, alerts: 1, sessions: 1, actions: 1, hours: 1, ..Removed::default() });
    let client = client(&url).await;
    assert_eq!(one::<String>(&client, "SELECT string_agg(alert_id, ' ') FROM alerts").await, "kept");
    assert_eq!(one::<String>(&client, "SELECT string_agg(key, ' ') FROM actions").await, "kept");
    assert_eq!(one::<String>(&client, "SELECT string_agg(session_id, ' ') FROM sessions").await, "kept");
    assert_eq!(one::<i64>(&client, "SELECT sum(event_count)::bigint FROM agent_events_hourly").await, 1);
}

#[tokio::test]
async fn each_day_of_a_week_exactly_what_is_due_goes() {
    let url = database("week").await;
    // Whatever its time, each day was one once.
    let mut writing = open(&url, Retention { events: days(365), ..Retention::default() }).await;
    let mut sweeping = unconnected(&url, week::retention());
    let client = client(&url).await;
    let names = async |sql: &str| {
        let rows = client.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get::<_, String>(0)).collect::<std::collections::BTreeSet<_>>()
    };
    let mut all = Vec::new();
    for day in 0..7 {
        let begin = midnight(9 - day);
        let batch = week::day(begin);
        writing.write(&batch).await.unwrap();
        all.push(batch);
        // In the middle of an hour of the next day.
        let now = begin + DAY + 26_000_000_123;
        let (due, due_history) = (now - 3 * DAY, now - 5 * DAY);
        let removed = sweeping.sweep(now).await.unwrap();
        assert_eq!((removed.events > 0, removed.alerts > 0), (day >= 3, day >= 4), "day {day}: {removed:?}");
        // A day stays until all of it is due.
        let (events, history) = week::kept(&all, due / DAY * DAY, due_history);
        assert!(names("SELECT event_key FROM agent_events").await == events, "day {day}");
        for column in ["alert_id FROM alerts", "key FROM actions", "session_id FROM sessions"] {
            assert!(names(&format!("SELECT {column}")).await == history, "day {day}, {column}");
        }
        let (count, violations) = week::counted(&all, due_history);
        let sums = "SELECT sum(event_count)::bigint || ' ' || sum(violation_count)::bigint FROM agent_events_hourly";
        assert_eq!(one::<String>(&client, sums).await, format!("{count} {violations}"), "day {day}");
        assert_eq!(sweeping.sweep(now).await.unwrap(), Removed::default(), "day {day}");
    }
}

#[tokio::test]
async fn a_day_that_somebody_reads_is_dropped_later() {
    let url = database("retention_read").await;
    let mut store = open(&url, Retention { events: days(365), ..Retention::default() }).await;
    store.write(&Batch { events: events("a", 5, midnight(200)), ..Batch::default() }).await.unwrap();
    let mut reader = client(&url).await;
    let reading = reader.transaction().await.unwrap();
    reading.query("SELECT count(*) FROM agent_events", &[]).await.unwrap();
    let mut store = open(&url, Retention::default()).await;
    assert_eq!(store.sweep(now()).await.unwrap(), Removed::default());
    reading.commit().await.unwrap();
    assert_eq!(store.sweep(now()).await.unwrap().events, 5);
    assert_eq!(one::<i64>(&reader, "SELECT sum(event_count)::bigint FROM agent_events_hourly").await, 5);
}

/// The migrations before the days, as a database has them that an earlier version has set up.
const BEFORE: [(&str, &str); 7] = [
    ("001_agent_events", include_str!("../../sql/postgres/001_agent_events.sql")),
    ("002_event_identity", include_str!("../../sql/postgres/002_event_identity.sql")),
    ("003_rollup.plain", include_str!("../../sql/postgres/003_rollup.plain.sql")),
    ("004_alerts", include_str!("../../sql/postgres/004_alerts.sql")),
    ("005_sessions", include_str!("../../sql/postgres/005_sessions.sql")),
    ("006_archive_positions", include_str!("../../sql/postgres/006_archive_positions.sql")),
    ("007_events_by_time.plain", include_str!("../../sql/postgres/007_events_by_time.plain.sql")),
];

async fn set_up_before(client: &tokio_postgres::Client) {
    let table = "CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL, \
                 checksum TEXT NOT NULL, applied_at TIMESTAMPTZ NOT NULL DEFAULT now())";
    client.batch_execute(table).await.unwrap();
    for (version, (name, sql)) in (1..).zip(BEFORE) {
        client.batch_execute(sql).await.unwrap();
        let insert =
            "INSERT INTO schema_migrations VALUES ($1::integer, $2, encode(sha256(convert_to($3, 'UTF8')), 'hex'))";
        client.execute(insert, &[&version, &name, &sql]).await.unwrap();
    }
}

#[tokio::test]
async fn a_database_without_days_is_taken_over_with_its_rows_and_rights() {
    let url = database("before_days").await;
    let client = client(&url).await;
    set_up_before(&client).await;
    let rows = "INSERT INTO agent_events (event_key, time, agent_id, session_id, event_type, allowed, risk_score) \
        SELECT 'old/' || i, now() - INTERVAL '100 days', 'a', 's', 'mcp_tool', true, 1 FROM generate_series(1, 6000) i; \
        INSERT INTO agent_events (event_key, time, agent_id, session_id, event_type, allowed) VALUES \
        ('kept', '2026-01-01T00:00:00Z'::timestamptz + (now() - '2026-01-01T00:00:00Z'::timestamptz), 'a', 's', 'mcp_tool', false), \
        ('ahead', '9999-01-01T00:00:00Z', 'a', 's', 'mcp_tool', true); \
        CREATE ROLE days_reader; GRANT SELECT ON agent_events, agent_events_hourly TO days_reader; \
        CREATE VIEW mine AS SELECT agent_id FROM agent_events";
    client.batch_execute(rows).await.unwrap();
    let error = Store::Postgres(Postgres::new(&url).unwrap()).connect().await.unwrap_err().to_string();
    assert!(error.contains("008_days") && error.contains("mine"), "{error}");
    client.batch_execute("DROP VIEW mine").await.unwrap();

    let mut store = open(&url, Retention::default()).await;
    assert_eq!(one::<i64>(&client, "SELECT count(*) FROM agent_events").await, 6_002);
    assert_eq!(one::<i64>(&client, "SELECT sum(event_count)::bigint FROM agent_events_hourly").await, 6_002);
    for table in ["agent_events", "agent_events_hourly"] {
        let may = format!("SELECT has_table_privilege('days_reader', '{table}', 'SELECT')");
        assert!(one::<bool>(&client, &may).await, "{table}");
    }
    // Copies are still copies, and new rows of covered days have a place.
    let time: i64 =
        one(&client, "SELECT (extract(epoch FROM time) * 1000000)::bigint FROM agent_events WHERE event_key = 'kept'")
            .await;
    store.write(&Batch { events: vec![event("kept", time), event("new", now())], ..Batch::default() }).await.unwrap();
    assert_eq!(one::<i64>(&client, "SELECT count(*) FROM agent_events").await, 6_003);

    let removed = store.sweep(now()).await.unwrap();
    assert_eq!(removed, Removed { events: 6_000, ..Removed::default() });
    assert_eq!(one::<String>(&client, KEYS).await, "ahead kept new");
    assert_eq!(one::<i64>(&client, "SELECT sum(event_count)::bigint FROM agent_events_hourly").await, 6_003);
    assert!(one::<String>(&client, DAYS).await.contains("agent_events_before"));
}

#[tokio::test]
async fn timescaledbs_policies_are_what_the_configuration_says() {
    let server = tokio::task::spawn_blocking(|| services::timescale().unwrap()).await.unwrap();
    let url = server.url();
    let jobs = "SELECT string_agg(proc_name || ' ' || job_id || ' ' || coalesce(config ->> 'drop_after', config ->> 'start_offset', \
                config ->> 'compress_after'), ', ' ORDER BY proc_name, job_id) FROM timescaledb_information.jobs WHERE job_id >= 1000";
    drop(open(&url, Retention::default()).await);
    let reader = client(&url).await;
    let shipped: String = one(&reader, jobs).await;
    assert_eq!(
        shipped,
        "policy_compression 1001 7 days, policy_refresh_continuous_aggregate 1000 88 days, policy_retention 1002 90 days"
    );
    drop(reader);

    let short = Retention { events: days(30), history: Some(days(40)), max_size: None };
    let mut store = open(&url, short).await;
    let mut old = alert("old", 1);
    old.last_seen = now() - 41 * DAY;
    let mut rows = events("old", 4, now() - 60 * DAY);
    rows.extend(events("kept", 3, now() - 20 * DAY));
    store.write(&Batch { events: rows, alerts: vec![old, alert("a", 1)], ..Batch::default() }).await.unwrap();
    drop(store);
    let reader = client(&url).await;
    let changed: String = one(&reader, jobs).await;
    assert!(!changed.contains("90 days") && !changed.contains("88 days"), "{changed}");
    assert_eq!(changed.matches("policy_retention").count(), 2, "{changed}");
    reader.batch_execute("CALL refresh_continuous_aggregate('agent_events_hourly', NULL, NULL)").await.unwrap();
    let job = "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention' AND hypertable_name = 'agent_events'";
    let job: i32 = one(&reader, job).await;
    reader.batch_execute(&format!("CALL run_job({job})")).await.unwrap();
    assert_eq!(one::<String>(&reader, KEYS).await, "kept/0 kept/1 kept/2");
    let refresh =
        "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = 'policy_refresh_continuous_aggregate'";
    let refresh: i32 = one(&reader, refresh).await;
    reader.batch_execute(&format!("CALL run_job({refresh})")).await.unwrap();
    assert_eq!(one::<i64>(&reader, "SELECT sum(event_count)::bigint FROM agent_events_hourly").await, 7);
    drop(reader);

    // Those that are as they should be stay.
    drop(open(&url, short).await);
    let mut store = unconnected(&url, short);
    assert!(store.sweep(now()).await.unwrap().alerts >= 1);
    drop(store);
    assert_eq!(one::<String>(&client(&url).await, jobs).await, changed);
}
