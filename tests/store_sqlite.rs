//! The embedded store and the writer on top of it, from outside.

#[path = "store/rows.rs"]
mod rows;

#[path = "store/week.rs"]
mod week;

#[path = "store/retention_sqlite.rs"]
mod retention;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clawdstrike_edr::config;
use clawdstrike_edr::store::{Batch, EventRow, RemovedSession, SessionKey, Sqlite, Store, StoreError, StoreWriter};
use rusqlite::Connection;
use rusqlite::types::FromSql;

use rows::{
    DEADLINE, HOSTILE, T0, action, alert, audit, event, events, handled_alert, hostile_alert, hostile_events,
    hostile_stored, session, session_row, soon, until,
};

async fn open(path: &Path) -> Store {
    let config = config::Store::Sqlite {
        path: path.into(),
        events: true,
        retention: Default::default(),
        sampling: Default::default(),
    };
    Store::open(&config).await.unwrap().unwrap()
}

fn one<T: FromSql>(path: &Path, sql: &str) -> T {
    Connection::open(path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
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

#[tokio::test]
async fn the_same_batch_twice_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/folder/edr.db");
    let mut store = open(&path).await;
    for _ in 0..2 {
        store.write(&full_batch()).await.unwrap();
        assert_eq!(one::<i64>(&path, "SELECT count(*) FROM agent_events"), 3);
        assert_eq!(one::<i64>(&path, "SELECT count(*) FROM alerts"), 2);
        assert_eq!(one::<i64>(&path, "SELECT revision FROM alerts WHERE alert_id = 'a-1'"), 2);
        assert_eq!(one::<i64>(&path, "SELECT count(*) FROM sessions"), 1);
        let audit = "SELECT group_concat(seq || time || (detail ->> 'code') || actor || line) FROM audit WHERE seq = 2";
        let stored = hostile_stored();
        assert_eq!(one::<String>(&path, audit), format!("22026-01-05T10:00:00.000002Zforbidden{stored}{stored}"));
        assert_eq!(store.archive_positions().await.unwrap(), [("src".to_owned(), 0, 300)]);
    }
    let times = "SELECT first_seen || ' ' || last_seen FROM alerts WHERE alert_id = 'a-1'";
    assert_eq!(one::<String>(&path, times), "2026-01-05T10:00:00.000000Z 2026-01-05T10:00:00.000002Z");
}

#[tokio::test]
async fn lower_versions_and_positions_never_overwrite() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edr.db");
    let mut store = open(&path).await;
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
    assert_eq!(one::<String>(&path, "SELECT revision || status FROM alerts WHERE alert_id = 'a-1'"), "2updated");
    let actions =
        "SELECT group_concat(key || state || attempts || agent_id, ' ') FROM (SELECT * FROM actions ORDER BY key)";
    let stored = hostile_stored();
    assert_eq!(one::<String>(&path, actions), format!("k-1acknowledged2{stored} k-2acknowledged2{stored}"));
    assert_eq!(one::<i64>(&path, "SELECT events FROM sessions"), 3);
    assert_eq!(store.archive_positions().await.unwrap()[0].2, 300);
}

#[tokio::test]
async fn what_analysts_did_with_an_alert_is_a_row_each() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edr.db");
    let mut store = open(&path).await;
    store.write(&Batch { alerts: vec![handled_alert("a-1"), alert("a-2", 1)], ..Batch::default() }).await.unwrap();
    let acks = "SELECT group_concat(alert_id || deed || actor || time || comment, ' ') FROM (SELECT * FROM acks ORDER BY time)";
    let (first, second) = ("a-1acknowledgeana2026-01-05T10:00:00.000001Z", "a-1closeana2026-01-05T10:00:00.000002Z");
    assert_eq!(one::<String>(&path, acks), format!("{first}{} {second}", hostile_stored()));
}

#[tokio::test]
async fn a_life_whose_beginning_moves_leaves_no_old_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edr.db");
    let mut store = open(&path).await;
    store.write(&full_batch()).await.unwrap();
    let moved = Batch {
        sessions: vec![session_row("s-1", T0 - 1_000_000, 4, 8)],
        removed_sessions: vec![RemovedSession { key: SessionKey::of(&session("s-1", T0, 0)), epoch: 8 }],
        ..Batch::default()
    };
    store.write(&moved).await.unwrap();
    assert_eq!(one::<i64>(&path, "SELECT count(*) FROM sessions"), 1);
    assert_eq!(one::<String>(&path, "SELECT first_seen FROM sessions"), "2026-01-05T09:59:59.000000Z");
}

#[tokio::test]
async fn hostile_strings_are_stored_and_break_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edr.db");
    let mut store = open(&path).await;
    let hostile = hostile_events();
    let batch = Batch { alerts: vec![hostile_alert("h")], events: hostile.clone(), ..Batch::default() };
    store.write(&batch).await.unwrap();
    assert_eq!(one::<i64>(&path, "SELECT count(*) FROM agent_events"), hostile.len() as i64);
    assert_eq!(one::<i64>(&path, "SELECT count(*) FROM agent_events WHERE NOT json_valid(metadata)"), 0);
    assert_eq!(
        one::<String>(&path, "SELECT target FROM agent_events WHERE event_key = 'hostile/text'"),
        hostile_stored()
    );
    assert_eq!(one::<String>(&path, "SELECT agent_id FROM alerts"), hostile_stored());
    assert_eq!(one::<String>(&path, "SELECT document ->> '$.group.target' FROM alerts"), hostile_stored());
    assert!(HOSTILE.contains('\0'));
}

#[tokio::test]
async fn the_hourly_view_counts_by_hour_agent_and_type() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edr.db");
    let mut store = open(&path).await;
    let hour = 3_600_000_000;
    let events = vec![
        event("1", T0),
        EventRow { allowed: false, risk_score: Some(50.0), ..event("2", T0 + hour - 1) },
        EventRow { risk_score: None, ..event("3", T0 + hour) },
    ];
    store.write(&Batch { events, ..Batch::default() }).await.unwrap();
    let sql = "SELECT group_concat(bucket || ' ' || event_count || ' ' || violation_count || ' ' || coalesce(avg_risk_score, '-'), ';') \
               FROM (SELECT * FROM agent_events_hourly ORDER BY bucket)";
    assert_eq!(one::<String>(&path, sql), "2026-01-05T10:00:00.000000Z 2 1 30.0;2026-01-05T11:00:00.000000Z 1 0 -");
}

#[tokio::test]
async fn two_that_open_a_new_file_together_both_succeed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edr.db");
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn({
                let path = path.clone();
                async move { open(&path).await }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().write(&full_batch()).await.unwrap();
    }
    assert_eq!(one::<i64>(&path, "SELECT count(*) FROM schema_migrations"), 10);
    assert_eq!(one::<i64>(&path, "SELECT count(*) FROM agent_events"), 3);
}

#[tokio::test]
async fn reading_back_is_in_order_ends_when_told_and_leaves_the_runtime_to_others() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder.path().join("edr.db")).await;
    // Many pages by their rows, and many by their bytes.
    let large =
        |i: i64| EventRow { metadata: format!("\"{}\"", "x".repeat(1 << 20)), ..event(&format!("l/{i}"), T0 + i) };
    let mut rows: Vec<_> = (0..20).map(large).chain(events("s", 2_500, T0 + 20)).collect();
    rows.reverse();
    store.write(&Batch { events: rows, ..Batch::default() }).await.unwrap();
    let expected: Vec<_> = (0..20).map(|i| format!("l/{i}")).chain((0..2_500).map(|i| format!("s/{i}"))).collect();

    // On this runtime's only thread.
    let turns = Arc::new(AtomicU64::new(0));
    let other = tokio::spawn({
        let turns = turns.clone();
        async move {
            loop {
                turns.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }
    });
    let (mut read, mut turns_at_end) = (Vec::new(), 0);
    let all = store.past_events(T0, T0 + 2_519, |event| {
        assert!(!event.sampled);
        read.push(event.key);
        turns_at_end = turns.load(Ordering::Relaxed);
        true
    });
    all.await.unwrap();
    other.abort();
    assert_eq!(read, expected);
    assert!(turns_at_end > 0, "nobody else had a turn before the last row");

    let mut some = 0;
    let first = store.past_events(T0, i64::MAX, |_| {
        some += 1;
        some < 5
    });
    first.await.unwrap();
    assert_eq!(some, 5);
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_may_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edr.db");
    let mut store = open(&path).await;
    store.write(&full_batch()).await.unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
    }
}

#[tokio::test]
async fn refuses_a_database_of_another_version() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edr.db");
    drop(open(&path).await);
    Connection::open(&path)
        .unwrap()
        .execute("UPDATE schema_migrations SET checksum = 'x' WHERE version = 2", [])
        .unwrap();
    let config = config::Store::Sqlite {
        path: path.clone(),
        events: true,
        retention: Default::default(),
        sampling: Default::default(),
    };
    let error = Store::open(&config).await.err().unwrap();
    assert!(error.contains("002_alerts") && error.contains("edr.db"), "{error}");
}

#[tokio::test]
async fn refuses_a_file_that_is_no_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edr.db");
    std::fs::write(&path, "this is no database, but it is long enough to be looked at as one. ".repeat(50)).unwrap();
    let mut store = Store::Sqlite(Sqlite::new(path));
    let error = store.write(&full_batch()).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains("edr.db")), "{error}");
}

#[tokio::test]
async fn a_position_that_no_store_can_hold_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder.path().join("edr.db")).await;
    let batch = Batch { positions: vec![("src".into(), 0, u64::MAX)], ..Batch::default() };
    let error = store.write(&batch).await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused(text) if text.contains("\"src\"")), "{error}");
}

#[tokio::test]
async fn a_missing_or_wrong_url_is_told_without_showing_it() {
    let config = |name: &str| config::Store::Postgres {
        url_env: name.into(),
        sslmode: None,
        sslrootcert: None,
        events: true,
        retention: Default::default(),
        sampling: Default::default(),
    };
    let error = Store::open(&config("CLAWDSTRIKE_TEST_UNSET")).await.err().unwrap();
    assert!(error.contains("\"CLAWDSTRIKE_TEST_UNSET\" is not set"), "{error}");
    let error = Store::open(&config("PATH")).await.err().unwrap();
    assert!(error.contains("\"PATH\": not a connection URL") && !error.contains("/bin"), "{error}");
    assert!(Store::open(&config::Store::None).await.unwrap().is_none());
}

/// A store that can't be opened until [`Blocked::release`]: a file stands where its folder should be.
struct Blocked {
    folder: tempfile::TempDir,
}

impl Blocked {
    fn new() -> Blocked {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("state"), "").unwrap();
        Blocked { folder }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("state/edr.db")
    }

    fn store(&self) -> Store {
        let config = config::Store::Sqlite {
            path: self.path(),
            events: true,
            retention: Default::default(),
            sampling: Default::default(),
        };
        Store::prepare(&config).unwrap().unwrap()
    }

    fn release(&self) {
        std::fs::remove_file(self.folder.path().join("state")).unwrap();
    }
}

#[tokio::test]
async fn the_writer_acknowledges_epochs_per_sender_once_they_are_durable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edr.db");
    let writer = StoreWriter::start(open(&path).await);
    let (first, second) = (writer.versions(), writer.versions());
    assert_eq!(first.durable(), None);
    first.send(0, vec![alert("a-1", 1)], Vec::new(), Vec::new());
    soon(first.watch().wait_for(|epoch| *epoch == Some(0))).await.unwrap();
    assert_eq!(one::<i64>(&path, "SELECT count(*) FROM alerts"), 1);
    assert_eq!(second.durable(), None);
    second.send(9, Vec::new(), vec![session("s-1", T0, 1)], Vec::new());
    first.send(4, Vec::new(), Vec::new(), Vec::new());
    writer.flush(DEADLINE).await.unwrap();
    assert_eq!((first.durable(), second.durable()), (Some(4), Some(9)));
    assert_eq!(one::<i64>(&path, "SELECT epoch FROM sessions"), 9);
    writer.stop(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn versions_coalesce_while_the_store_is_away() {
    let blocked = Blocked::new();
    let writer = StoreWriter::start(blocked.store());
    let sender = writer.versions();
    let moved = SessionKey::of(&session("s-0", T0, 0));
    for epoch in 1..=500 {
        let sessions = vec![session("s-0", T0, epoch), session("s-1", T0, epoch)];
        sender.send(epoch, vec![alert("a-1", epoch), alert("a-2", epoch)], sessions, Vec::new());
    }
    sender.send(501, Vec::new(), vec![session("s-0", T0 - 1, 501)], vec![moved]);
    let mut status = writer.status();
    let reason = soon(status.wait_for(|s| s.degraded.is_some())).await.unwrap().degraded.clone().unwrap();
    assert!(reason.contains("edr.db"), "{reason}");
    until("what was being tried waits again", || async { writer.waiting() == (2, 3) }).await;
    assert_eq!(sender.durable(), None);
    let error = writer.flush(Duration::from_millis(200)).await.unwrap_err();
    assert!(error.contains("2 alerts and 3 sessions") && error.contains("edr.db"), "{error}");
    blocked.release();
    soon(sender.watch().wait_for(|epoch| *epoch == Some(501))).await.unwrap();
    let path = blocked.path();
    assert_eq!(one::<i64>(&path, "SELECT sum(revision) FROM alerts"), 1000);
    assert_eq!(one::<i64>(&path, "SELECT sum(events) FROM sessions"), 1001);
    assert_eq!(writer.waiting(), (0, 0));
    soon(status.wait_for(|s| s.degraded.is_none() && s.failures == 0)).await.unwrap();
}

#[tokio::test]
async fn the_archive_waits_for_a_store_that_is_away_and_holds_only_its_sender() {
    let blocked = Blocked::new();
    let writer = StoreWriter::start(blocked.store());
    let archive = writer.archive();
    let mut receipts = Vec::new();
    let full = async {
        for i in 0..100u64 {
            let prefix = format!("src/{i}");
            receipts.push(archive.send(events(&prefix, 2, T0), vec![("src".into(), 0, i + 1)]).await.unwrap());
        }
    };
    assert!(tokio::time::timeout(Duration::from_millis(300), full).await.is_err(), "the queue is bounded");
    assert!(receipts.len() < 10, "{}", receipts.len());
    writer.versions().send(1, vec![alert("a-1", 1)], Vec::new(), Vec::new());
    blocked.release();
    let sent = receipts.len() as u64;
    for receipt in receipts {
        assert_eq!(soon(receipt).await.unwrap().refused, 0);
    }
    assert_eq!(archive.positions().await.unwrap(), [("src".to_owned(), 0, sent)]);
    assert_eq!(one::<i64>(&blocked.path(), "SELECT count(*) FROM agent_events"), 2 * sent as i64);
    assert_eq!(one::<i64>(&blocked.path(), "SELECT count(*) FROM alerts"), 1);
}

#[tokio::test]
async fn refused_rows_are_left_out_and_block_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edr.db");
    let store = open(&path).await;
    Connection::open(&path)
        .unwrap()
        .execute_batch(
            "CREATE TRIGGER no_events BEFORE INSERT ON agent_events WHEN NEW.agent_id = 'bad' BEGIN SELECT RAISE(ABORT, 'bad'); END;
             CREATE TRIGGER no_alerts BEFORE INSERT ON alerts WHEN NEW.alert_id = 'a-7' BEGIN SELECT RAISE(ABORT, 'bad'); END;",
        )
        .unwrap();
    let writer = StoreWriter::start(store);
    let mut batch = events("src/0", 100, T0);
    for i in [0, 17, 99] {
        batch[i].agent_id = "bad".into();
    }
    let receipt = writer.archive().send(batch, vec![("src".into(), 0, 100)]).await.unwrap();
    assert_eq!(soon(receipt).await.unwrap().refused, 3);
    let sender = writer.versions();
    sender.send(1, (0..20).map(|i| alert(&format!("a-{i}"), 1)).collect(), Vec::new(), Vec::new());
    writer.flush(DEADLINE).await.unwrap();
    assert_eq!(sender.durable(), Some(1));
    assert_eq!(one::<i64>(&path, "SELECT count(*) FROM agent_events"), 97);
    assert_eq!(one::<i64>(&path, "SELECT count(*) FROM alerts"), 19);
    assert_eq!(one::<i64>(&path, "SELECT next_offset FROM archive_positions"), 100);
    assert_eq!(writer.status().borrow().refused, 4);
}

#[tokio::test]
async fn events_get_their_turn_while_versions_never_stop() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edr.db");
    let writer = StoreWriter::start(open(&path).await);
    let sender = writer.versions();
    let storm = tokio::spawn(async move {
        for epoch in 0.. {
            sender.send(epoch, vec![alert("a-1", epoch)], Vec::new(), Vec::new());
            tokio::task::yield_now().await;
        }
    });
    let receipt = writer.archive().send(events("src/0", 10, T0), Vec::new()).await.unwrap();
    soon(receipt).await.unwrap();
    storm.abort();
}
