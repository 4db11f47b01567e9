//! The copies of the ledger and of the audit trail in the store.

use clawdstrike_edr::audit::{Audit, Entry, Outcome, Who};
use clawdstrike_edr::config::{Retention, Store as StoreConfig};
use clawdstrike_edr::runtime::mirror;
use clawdstrike_edr::store::{Store, StoreWriter};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;

struct Copying {
    writer: StoreWriter,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Copying {
    fn start(running: &Running, path: &Path) -> Copying {
        let config = StoreConfig::Sqlite {
            path: path.into(),
            events: false,
            retention: Retention::default(),
            sampling: Default::default(),
        };
        let writer = StoreWriter::start(Store::prepare(&config).expect("a good configuration").expect("a store"));
        let (stop, stopping) = watch::channel(false);
        let audit = Audit::of(running.folder.path());
        let task = tokio::spawn(mirror::run(running.actions(), audit, writer.archive(), stopping));
        Copying { writer, stop, task }
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.task.await.expect("no panic");
    }
}

/// Each row's key, state and attempts, in order of keys; none while there is no such table.
fn copied(path: &Path) -> Vec<(String, String, u32)> {
    let read = || {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let db = rusqlite::Connection::open_with_flags(path, flags)?;
        let mut rows = db.prepare("SELECT key, state, attempts FROM actions ORDER BY key")?;
        rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
    };
    rusqlite::Result::unwrap_or_default(read())
}

async fn kept(running: &Running) -> Vec<(String, String, u32)> {
    let rows = running.rows().await.into_iter().map(|row| (row.key, row.state.name().to_owned(), row.attempts));
    let mut rows: Vec<_> = rows.collect();
    rows.sort();
    rows
}

#[tokio::test]
async fn a_store_that_is_away_holds_no_response_and_gets_the_latest_state_of_each_action() {
    let control = receiver();
    let config = config(None, Some(serve(&control).await));
    let running = Running::new(&config, quick());
    // A file stands where the store's folder should be.
    let (place, path) = (running.folder.path().join("store"), running.folder.path().join("store/edr.db"));
    std::fs::write(&place, "").expect("a file");
    let copying = Copying::start(&running, &path);
    // More than are copied at a time.
    let count = 600;
    for n in 0..count {
        running.submit(n, Arc::new(alert(&format!("a{n}"), &[action(ActionKind::QuarantineAgent)]))).await;
    }
    all_done(&running).await;
    assert_eq!(running.count(State::Acknowledged).await, count);
    let status = copying.writer.status().wait_for(|s| s.degraded.is_some()).await.expect("a writer").clone();
    assert!(status.degraded.is_some_and(|reason| reason.contains("edr.db")));
    assert!(copied(&path).is_empty());

    std::fs::remove_file(&place).expect("the file");
    let latest = kept(&running).await;
    until("all actions are copied", || copied(&path) == latest).await;
    copying.end().await;

    // What changes while nothing is copied is copied later, and the rest not again.
    let db = rusqlite::Connection::open(&path).expect("a database");
    db.execute("UPDATE actions SET state = 'untouched'", []).expect("a change");
    let running = running.crash(&config, quick()).await;
    running
        .submit(count, version(&Arc::new(alert("a0", &[action(ActionKind::QuarantineAgent)])), 2, Status::Retracted))
        .await;
    recorded(&running).await;
    running.submit(count + 1, Arc::new(alert("new", &[action(ActionKind::QuarantineAgent)]))).await;
    all_done(&running).await;
    let copying = Copying::start(&running, &path);
    let taken = |rows: &[(String, String, u32)]| rows.iter().filter(|row| row.1 == "acknowledged").count();
    until("the new one and the retracted one are copied", || taken(&copied(&path)) == 2).await;
    let marked = "SELECT count(*) FROM actions WHERE alert_retracted AND state = 'acknowledged' AND alert_id = 'a0'";
    assert_eq!(db.query_row(marked, [], |row| row.get::<_, i64>(0)), Ok(1));
    copying.end().await;
}

fn audit_entry(n: i64) -> Entry {
    Entry { from: Some("192.0.2.1:5000".into()), ..Entry::new(Who::kind("engine"), "test", Outcome::Done).with("n", n) }
}

/// Number, detail and outcome of each row of the trail that the store has, in order.
fn copied_audit(path: &Path) -> Vec<(i64, i64, String)> {
    let read = || {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let db = rusqlite::Connection::open_with_flags(path, flags)?;
        let mut rows = db.prepare("SELECT seq, detail ->> 'n', outcome FROM audit ORDER BY seq")?;
        rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
    };
    rusqlite::Result::unwrap_or_default(read())
}

#[tokio::test]
async fn the_store_gets_each_row_of_the_audit_trail_as_it_stands_there() {
    let control = receiver();
    let config = config(None, Some(serve(&control).await));
    let running = Running::new(&config, quick());
    let path = running.folder.path().join("edr.db");
    let audit = Audit::of(running.folder.path());
    // More than are copied at a time.
    let count = 600;
    (0..count).for_each(|n| assert_eq!(audit.append(audit_entry(n)), Ok(n as u64 + 1)));
    let expected = |count: i64| (0..count).map(|n| (n + 1, n, "done".to_owned())).collect::<Vec<_>>();
    let copying = Copying::start(&running, &path);
    until("all rows are copied", || copied_audit(&path) == expected(count)).await;
    until("that is noted", || audit.uncopied(1) == Ok(Vec::new())).await;
    copying.end().await;

    // Whoever has the database can check the chain.
    let db = rusqlite::Connection::open(&path).expect("a database");
    let lines = running.folder.path().join("lines.jsonl");
    let text = "SELECT group_concat(line, char(10)) || char(10) FROM (SELECT line FROM audit ORDER BY seq)";
    let text: String = db.query_row(text, [], |row| row.get(0)).expect("lines");
    std::fs::write(&lines, text).expect("written");
    let verified = Audit::verify_file(&lines).expect("whole");
    assert_eq!((verified.first, verified.last), (1, count as u64));
    let last = "SELECT hash || actor || address FROM audit WHERE seq = 600";
    let last: String = db.query_row(last, [], |row| row.get(0)).expect("a row");
    assert_eq!(last, format!("{}engine192.0.2.1:5000", verified.hash));

    // What is appended later is copied, and the rest not again.
    db.execute("DELETE FROM audit", []).expect("a change");
    assert_eq!(audit.append(audit_entry(count)), Ok(count as u64 + 1));
    let copying = Copying::start(&running, &path);
    until("the new row is copied", || copied_audit(&path) == expected(count + 1)[count as usize..]).await;
    copying.end().await;
}
