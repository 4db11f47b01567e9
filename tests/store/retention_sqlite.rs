//! Retention in the embedded store: what is due goes, and nothing else.

use clawdstrike_edr::config::{Bytes, Duration, Retention};
use clawdstrike_edr::store::{Removed, Sqlite, Store};

use super::rows::{T0, action, alert, event, events, session_row};
use super::{Batch, EventRow, Path, one, week};

const DAY: i64 = 86_400_000_000;

fn store(path: &Path, retention: Retention) -> Store {
    let mut store = Sqlite::new(path.into());
    store.set_retention(retention);
    Store::Sqlite(store)
}

fn days(n: i64) -> Duration {
    Duration(n * DAY)
}

/// All events ever, their violations, and the sum of their scores.
const HOURS: &str = "SELECT sum(event_count) || ' ' || sum(violation_count) || ' ' || sum(event_count * avg_risk_score) \
                     FROM agent_events_hourly";

#[tokio::test]
async fn what_is_due_is_removed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edr.db");
    let retention = Retention { events: days(30), history: Some(days(100)), max_size: None };
    let mut store = store(&path, retention);
    // More than a transaction's rows end just before the span that is kept.
    let mut old = events("old", 2_500, T0 - 2_500);
    old[7].allowed = false;
    old[8].risk_score = Some(70.0);
    let kept = events("kept", 3, T0);
    let batch = Batch {
        events: old.iter().chain(&kept).cloned().collect(),
        alerts: vec![alert("a-1", 1), alert("a-2", 2)],
        actions: vec![action("k-1", 1), action("k-2", 2)],
        sessions: vec![session_row("s-1", T0 - 6, 1, 1), session_row("s-2", T0, 1, 1)],
        positions: vec![("src".into(), 0, 300)],
        ..Batch::default()
    };
    store.write(&batch).await.unwrap();
    let hours = one::<String>(&path, HOURS);

    let removed = store.sweep(T0 + 30 * DAY).await.unwrap();
    assert_eq!(removed, Removed { events: 2_500, ..Removed::default() });
    assert_eq!(one::<String>(&path, "SELECT group_concat(event_key) FROM agent_events"), "kept/0,kept/1,kept/2");
    assert_eq!(one::<String>(&path, HOURS), hours, "hours outlive their events");
    assert_eq!(store.sweep(T0 + 30 * DAY).await.unwrap(), Removed::default());

    // Alerts end at T0 + 1 and T0 + 2, sessions at T0 - 1 and T0 + 5.
    let removed = store.sweep(T0 + 2 + 100 * DAY).await.unwrap();
    assert_eq!(removed, Removed { events: 3, alerts: 1, sessions: 1, actions: 1, hours: 1, ..Removed::default() });
    assert_eq!(one::<String>(&path, "SELECT group_concat(alert_id) FROM alerts"), "a-2");
    assert_eq!(one::<String>(&path, "SELECT group_concat(key) FROM actions"), "k-2");
    assert_eq!(one::<String>(&path, "SELECT group_concat(session_id) FROM sessions"), "s-2");
    assert_eq!(one::<String>(&path, HOURS), "3 0 30.0", "the hour before is older than history");
    assert_eq!(store.archive_positions().await.unwrap(), [("src".to_owned(), 0, 300)]);
    // What comes back late is counted once more, and removed again.
    store.write(&Batch { events: kept, ..Batch::default() }).await.unwrap();
    assert_eq!(one::<i64>(&path, "SELECT sum(event_count) FROM agent_events_hourly"), 6);
}

#[tokio::test]
async fn each_day_of_a_week_exactly_what_is_due_goes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edr.db");
    let mut store = store(&path, week::retention());
    let names = |sql: &str| {
        let database = rusqlite::Connection::open(&path).unwrap();
        let mut statement = database.prepare(sql).unwrap();
        let names = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
        names.collect::<Result<std::collections::BTreeSet<_>, _>>().unwrap()
    };
    let mut all = Vec::new();
    for day in 0..7 {
        let batch = week::day(T0 / DAY * DAY + day * DAY);
        store.write(&batch).await.unwrap();
        all.push(batch);
        // In the middle of an hour of the next day.
        let now = (T0 / DAY + day + 1) * DAY + 26_000_000_123;
        let (due, due_history) = (now - 3 * DAY, now - 5 * DAY);
        let removed = store.sweep(now).await.unwrap();
        assert_eq!((removed.events > 0, removed.alerts > 0), (day >= 2, day >= 4), "day {day}: {removed:?}");
        let (events, history) = week::kept(&all, due, due_history);
        assert!(names("SELECT event_key FROM agent_events") == events, "day {day}");
        for column in ["alert_id FROM alerts", "key FROM actions", "session_id FROM sessions"] {
            assert!(names(&format!("SELECT {column}")) == history, "day {day}, {column}");
        }
        let (count, violations) = week::counted(&all, due_history);
        assert_eq!(one::<i64>(&path, "SELECT sum(event_count) FROM agent_events_hourly"), count, "day {day}");
        assert_eq!(one::<i64>(&path, "SELECT sum(violation_count) FROM agent_events_hourly"), violations, "day {day}");
        assert_eq!(store.sweep(now).await.unwrap(), Removed::default(), "day {day}");
    }
}

#[tokio::test]
async fn alerts_and_sessions_are_kept_for_ever_unless_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edr.db");
    let mut store = store(&path, Retention::default());
    let batch = Batch {
        events: events("e", 3, T0),
        alerts: vec![alert("a-1", 1)],
        sessions: vec![session_row("s-1", T0, 1, 1)],
        ..Batch::default()
    };
    store.write(&batch).await.unwrap();
    let removed = store.sweep(T0 + 10_000 * DAY).await.unwrap();
    assert_eq!(removed, Removed { events: 3, ..Removed::default() });
    assert_eq!(one::<i64>(&path, "SELECT count(*) FROM alerts, sessions"), 1);
    assert_eq!(one::<i64>(&path, "SELECT sum(event_count) FROM agent_events_hourly"), 3);
}

#[tokio::test]
async fn above_its_bound_a_file_loses_its_oldest_events_and_shrinks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edr.db");
    let bound = 16 << 20;
    let mut store = store(&path, Retention { max_size: Some(Bytes(bound)), ..Retention::default() });
    let large = |i: i64| EventRow {
        metadata: format!("{{\"a\":\"{}\"}}", "x".repeat(2_000)),
        ..event(&format!("{i:05}"), T0 + i)
    };
    for from in [0, 4_000] {
        let events = (from..from + 4_000).map(large).collect();
        store.write(&Batch { events, alerts: vec![alert("a-1", 1)], ..Batch::default() }).await.unwrap();
    }
    drop(store);
    let size = || std::fs::metadata(&path).unwrap().len() as usize;
    assert!(size() > bound, "{}", size());
    let mut store = super::retention::store(&path, Retention { max_size: Some(Bytes(bound)), ..Retention::default() });
    let removed = store.sweep(T0).await.unwrap();
    assert!(removed.before_their_time > 1_000 && removed.before_their_time == removed.events, "{removed:?}");
    assert!(!removed.still_too_large);
    let kept: i64 = one(&path, "SELECT count(*) FROM agent_events");
    assert_eq!(kept + removed.events as i64, 8_000);
    assert!(kept >= 2_000, "{kept}");
    assert_eq!(one::<String>(&path, "SELECT min(event_key) FROM agent_events"), format!("{:05}", 8_000 - kept));
    assert_eq!(one::<i64>(&path, "SELECT count(*) FROM alerts"), 1);
    rusqlite::Connection::open(&path).unwrap().pragma(None, "wal_checkpoint", "TRUNCATE", |_| Ok(())).unwrap();
    assert!(size() < bound, "{}", size());
    assert_eq!(store.sweep(T0).await.unwrap(), Removed::default());
    // Where events aren't the reason, that is told.
    let mut store = super::retention::store(&path, Retention { max_size: Some(Bytes(4_096)), ..Retention::default() });
    let removed = store.sweep(T0).await.unwrap();
    assert!(removed.still_too_large && removed.events as i64 == kept, "{removed:?}");
}

#[tokio::test]
async fn a_store_that_is_not_there_is_not_made_by_looking_for_old_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edr.db");
    let error = store(&path, Retention::default()).sweep(T0).await.unwrap_err();
    assert!(error.contains("edr.db"), "{error}");
    assert!(!path.exists());
}
