//! The ledger through the orchestrator: restarts, replays, approvals, caps, retractions.

use super::*;

/// A receiver that lets each request begin, and answers none.
async fn unanswered(running: &Running, receiver: &Receiver, requests: usize) {
    recorded(running).await;
    until("the requests are under way", || receiver.received().len() >= requests).await;
}

fn keys(receiver: &Receiver) -> BTreeSet<String> {
    receiver.received().into_iter().map(|r| r.key).collect()
}

#[tokio::test]
async fn what_was_taken_is_not_sent_again_after_a_restart_and_a_replay() {
    let (soc, control) = (receiver(), receiver());
    let config = config(Some(serve(&soc).await), Some(serve(&control).await));
    let running = Running::new(&config, quick());
    let alert = alert("a1", &[action(ActionKind::AlertSoc), action(ActionKind::QuarantineAgent)]);
    running.submit(1, version(&alert, 1, Status::Open)).await;
    all_done(&running).await;
    let running = running.crash(&config, quick()).await;
    running.submit(2, version(&alert, 1, Status::Open)).await;
    running.submit(3, version(&alert, 2, Status::Updated)).await;
    all_done(&running).await;
    assert_eq!((soc.received().len(), control.received().len()), (1, 1));
    assert_eq!(running.drain(DEADLINE).await, NOTHING_PENDING);
}

#[tokio::test]
async fn a_crash_between_the_row_and_the_send_loses_nothing() {
    // Nobody listens: the row is there, and no request arrives.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let config = config(None, Some(address));
    let running = Running::new(&config, quick());
    running.submit(1, Arc::new(alert("a1", &[action(ActionKind::QuarantineAgent)]))).await;
    recorded(&running).await;
    let control = receiver();
    control.serve_on(TcpListener::bind(address).await.expect("the same port")).expect("an address");
    // No version of the alert comes again: the ledger alone knows of it.
    let running = running.crash(&config, quick()).await;
    all_done(&running).await;
    assert_eq!(running.state().await, State::Acknowledged);
    assert_eq!(control.received().len(), 1);
}

#[tokio::test]
async fn a_crash_between_the_send_and_the_note_repeats_with_the_same_key() {
    let control = receiver().hanging();
    let config = config(None, Some(serve(&control).await));
    let running = Running::new(&config, quick());
    running.submit(1, Arc::new(alert("a1", &[action(ActionKind::TerminateSession)]))).await;
    unanswered(&running, &control, 1).await;
    assert_eq!(running.state().await, State::Sent);
    let running = running.crash(&config, quick()).await;
    control.gate.add_permits(100);
    all_done(&running).await;
    assert_eq!((control.received().len(), control.deeds().len()), (2, 1));
    assert_eq!(keys(&control).len(), 1);
    assert_eq!(running.rows().await[0].attempts, 2);
}

#[tokio::test]
async fn an_epoch_is_acknowledged_by_its_rows_and_not_by_receivers() {
    let soc = receiver().hanging();
    let running = start(Some(serve(&soc).await), None);
    for n in 0..50 {
        running.submit(n, Arc::new(alert(&format!("a{n}"), &[action(ActionKind::AlertSoc)]))).await;
    }
    recorded(&running).await;
    assert_eq!(running.unfinished().await, 50);
}

#[tokio::test]
async fn two_do_not_respond_from_one_ledger() {
    let running = start(None, None);
    let db = rusqlite::Connection::open(clawdstrike_edr::response::ledger_file(running.folder.path())).expect("a file");
    db.busy_timeout(Duration::ZERO).expect("a setting");
    let error = db.execute_batch("BEGIN IMMEDIATE").expect_err("a lock");
    assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy));
}

#[tokio::test]
async fn a_ledger_that_is_none_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(
        clawdstrike_edr::response::ledger_file(folder.path()),
        "no database, but long enough to be read as one".repeat(50),
    )
    .expect("a file");
    let error = Orchestrator::start(&config(None, None), folder.path()).err().expect("an error");
    assert!(error.contains("ledger") && error.contains("move it away"), "{error}");
}

#[tokio::test]
async fn a_retraction_calls_off_what_was_not_begun_and_marks_what_was() {
    let control = receiver().hanging();
    let limits = Limits { in_flight: 1, ..quick() };
    let config = config(None, Some(serve(&control).await));
    let running = Running::new(&config, limits);
    let alert = alert("a1", &[action(ActionKind::TerminateSession), action(ActionKind::QuarantineAgent)]);
    running.submit(1, version(&alert, 1, Status::Open)).await;
    unanswered(&running, &control, 1).await;
    running.submit(2, version(&alert, 2, Status::Retracted)).await;
    recorded(&running).await;
    control.gate.add_permits(100);
    all_done(&running).await;
    let rows = running.rows().await;
    let of = |name: &str| rows.iter().find(|row| row.action == name).expect("a row");
    assert_eq!(of("terminate_session").state, State::Acknowledged);
    assert_eq!(of("quarantine_agent").state, State::Cancelled);
    assert!(rows.iter().all(|row| row.alert_retracted));
    assert_eq!(control.received().len(), 1);
    // It holds after all: what was called off is done, the other is not done again.
    running.submit(3, version(&alert, 3, Status::Updated)).await;
    all_done(&running).await;
    assert_eq!(running.count(State::Acknowledged).await, 2);
    assert_eq!(keys(&control).len(), 2);
    assert!(running.rows().await.iter().all(|row| !row.alert_retracted));
}

#[tokio::test]
async fn an_alert_that_became_part_of_another_keeps_its_actions() {
    let control = receiver().hanging();
    let running = Running::new(&config(None, Some(serve(&control).await)), Limits { in_flight: 1, ..quick() });
    let old = alert("old", &[action(ActionKind::TerminateSession), action(ActionKind::QuarantineAgent)]);
    running.submit(1, version(&old, 1, Status::Open)).await;
    unanswered(&running, &control, 1).await;
    let gone =
        Alert { superseded_by: Some("heir".into()), status: Status::Retracted, run_actions: false, ..old.clone() };
    let heir = Alert { alert_id: "heir".into(), run_actions: false, ..old.clone() };
    running.orchestrator.submit(2, [gone, heir].into()).await;
    control.gate.add_permits(100);
    all_done(&running).await;
    assert_eq!(running.count(State::Acknowledged).await, 2);
    assert_eq!(control.received().len(), 2);
    assert!(running.rows().await.iter().all(|row| row.superseded_by.as_deref() == Some("heir")));
    // It holds by itself after all, and what was done for it stays done.
    running.submit(3, version(&old, 3, Status::Updated)).await;
    all_done(&running).await;
    assert_eq!(control.received().len(), 2);
    assert!(running.rows().await.iter().all(|row| row.superseded_by.is_none()));
}

#[tokio::test]
async fn what_waits_for_an_approval_is_sent_when_it_is_approved() {
    let control = receiver();
    let config = config::Response {
        requires_approval: vec![ActionKind::QuarantineAgent],
        ..config(None, Some(serve(&control).await))
    };
    let running = Running::new(&config, quick());
    let asking = with_params(ActionKind::TerminateSession, json!({"requires_approval": true}));
    running.submit(1, Arc::new(alert("a1", &[asking, action(ActionKind::QuarantineAgent)]))).await;
    recorded(&running).await;
    assert_eq!((running.count(State::Waiting).await, running.counts().held), (2, 2));
    // A restart changes nothing.
    let running = running.crash(&config, quick()).await;
    let rows = running.rows().await;
    let id = |name: &str| rows.iter().find(|row| row.action == name).expect("a row").key.clone();
    let (terminate, quarantine) = (id("terminate_session"), id("quarantine_agent"));
    let actions = running.actions();
    let approved =
        actions.decide(&terminate[..10], Decision::Approve, "ann").await.expect("a ledger").expect("approved");
    assert_eq!(approved.decided_by.as_deref(), Some("ann"));
    let rejected = actions.decide(&quarantine, Decision::Reject, "bob").await.expect("a ledger").expect("rejected");
    assert_eq!(rejected.state, State::Rejected);
    all_done(&running).await;
    assert_eq!(control.received().len(), 1);
    assert!(control.received()[0].path.ends_with("/terminate"));
    let again = actions.decide(&quarantine, Decision::Approve, "ann").await.expect("a ledger");
    assert_eq!(again, Err(Objection::State(State::Rejected)));
    assert_eq!(actions.decide("ffff", Decision::Approve, "ann").await.expect("a ledger"), Err(Objection::Unknown));
}

#[tokio::test]
async fn what_failed_for_good_can_be_tried_again() {
    let soc = receiver().but(|index, _| (index == 0).then(|| StatusCode::BAD_REQUEST.into_response()));
    let running = start(Some(serve(&soc).await), None);
    running.submit(1, Arc::new(alert("a1", &[action(ActionKind::AlertSoc)]))).await;
    all_done(&running).await;
    let row = running.rows().await.remove(0);
    assert_eq!((row.state, row.reason.as_deref()), (State::Failed, Some("it answered 400")));
    running.actions().decide(&row.key, Decision::Retry, "ann").await.expect("a ledger").expect("to be tried");
    all_done(&running).await;
    assert_eq!(running.state().await, State::Acknowledged);
    assert_eq!((soc.received().len(), keys(&soc).len()), (2, 1));
}

#[tokio::test]
async fn past_the_caps_actions_wait_and_notifications_do_not() {
    let (soc, control) = (receiver(), receiver());
    let config = config::Response {
        max_actions_per_hour: 5,
        max_actions_per_agent_per_hour: 2,
        ..config(Some(serve(&soc).await), Some(serve(&control).await))
    };
    let mut running = Running::new(&config, quick());
    for n in 0..20 {
        let agent_id = format!("agent-{}", n / 4);
        let alert = alert(&format!("a{n}"), &[action(ActionKind::AlertSoc), action(ActionKind::QuarantineAgent)]);
        running.submit(n, Arc::new(Alert { agent_id, ..alert })).await;
        if n % 7 == 0 {
            all_done(&running).await;
            // What was counted is not forgotten.
            running = running.crash(&config, quick()).await;
        }
    }
    all_done(&running).await;
    assert_eq!((soc.received().len(), control.received().len()), (20, 5));
    let waiting: Vec<Entry> = running.rows().await.into_iter().filter(|row| row.state == State::Waiting).collect();
    assert_eq!(waiting.len(), 15);
    let with = |key: &str| waiting.iter().filter(|row| row.reason.as_deref().is_some_and(|r| r.contains(key))).count();
    assert_eq!((with("max_actions_per_agent_per_hour (2)"), with("max_actions_per_hour (5)")), (4, 11));
    // Somebody's approval is not capped.
    running.actions().decide(&waiting[0].key, Decision::Approve, "ann").await.expect("a ledger").expect("approved");
    all_done(&running).await;
    assert_eq!(control.received().len(), 6);
}

#[tokio::test]
async fn one_agent_that_cannot_be_asked_does_not_keep_others_waiting() {
    let control = receiver()
        .but(|_, request| request.path.contains("agent-1/").then(|| StatusCode::SERVICE_UNAVAILABLE.into_response()));
    let config = config(None, Some(serve(&control).await));
    let running = Running::new(&config, quick());
    for n in 0..50 {
        running.submit(n, Arc::new(alert(&format!("dead-{n}"), &[action(ActionKind::QuarantineAgent)]))).await;
    }
    until("the dead one's are tried again", || running.counts().retries > 60).await;
    let other = Alert { agent_id: "agent-2".into(), ..alert("other", &[action(ActionKind::QuarantineAgent)]) };
    running.submit(100, Arc::new(other)).await;
    until("the other is quarantined", || running.counts().sent == 1).await;
}
