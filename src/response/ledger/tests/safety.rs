//! What may not be done unasked: quarantine of too much of the fleet, anything to agents during maintenance; and four eyes.

use super::super::Objection;
use super::*;

/// An alert that wants an agent of the fleet in quarantine.
fn quarantine(n: usize, duration: &str) -> Alert {
    let params = serde_json::from_value(serde_json::json!({ "duration": duration })).expect("an object");
    let agent_id = format!("agent-{n}");
    Alert { agent_id, actions: vec![Action { kind: ActionKind::QuarantineAgent, params }], ..alert(n, Status::Open) }
}

fn share(percent: u8) -> Policy {
    let config = config::Response {
        max_actions_per_hour: 1_000_000,
        max_actions_per_agent_per_hour: 1_000_000,
        max_quarantined_percent: percent,
        ..Default::default()
    };
    Policy::new(&config, RECEIVERS, Duration::from_secs(3_600)).expect("a policy")
}

fn saw(table: &mut Table, agents: usize, now: i64) {
    let agents: Vec<(String, String)> = (0..agents).map(|n| (String::new(), format!("agent-{n}"))).collect();
    within(table, |table| table.saw(&agents, now));
}

/// The state in which an alert's quarantine begins.
fn asked(table: &mut Table, alert: &Alert, policy: &Policy, now: i64) -> State {
    within(table, |table| table.record(alert, policy, now))[0].verdict.state()
}

fn row(table: &Table, id: usize) -> Entry {
    all(table).into_iter().find(|row| row.alert_id == format!("a{id}")).expect("a row")
}

/// It is sent, and this comes of it.
fn sent(table: &mut Table, id: usize, outcome: &Outcome, now: i64) {
    let key = row(table, id).key;
    let items = within(table, |table| table.queue(Destination::AgentControl, 0, 1_000));
    let item = items.into_iter().find(|item| item.key == key).expect("in the queue");
    assert!(matches!(within(table, |table| table.go(&item, now)), Go::Send(_)));
    within(table, |table| table.attempted(&key, outcome, now));
}

#[test]
fn quarantine_stops_at_a_share_of_the_fleet_until_it_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut table, policy, start) = (open(&folder), share(10), 1_000 * HOUR);
    saw(&mut table, 29, start);
    assert_eq!(asked(&mut table, &quarantine(0, "30m"), &policy, start), State::Pending);
    assert_eq!(asked(&mut table, &quarantine(1, "1h"), &policy, start), State::Pending);
    // Two of 29 are as many as there may be; a restart changes nothing.
    drop(table);
    let mut table = open(&folder);
    assert_eq!(asked(&mut table, &quarantine(2, "1h"), &policy, start), State::Waiting);
    let reason = row(&table, 2).reason.expect("a reason");
    assert_eq!(
        reason,
        "[response] max_quarantined_percent (10) is reached: of 29 agents 2 others may be in quarantine now"
    );
    // Who is in it already may be asked for again.
    let again = Alert { alert_id: "again".into(), ..quarantine(1, "2h") };
    assert_eq!(asked(&mut table, &again, &policy, start), State::Pending);
    let (now, minute) = (start + 1, HOUR / 60);
    sent(&mut table, 0, &Outcome::Taken, now);
    assert_eq!(asked(&mut table, &quarantine(3, "1h"), &policy, now + 30 * minute - 1), State::Waiting);
    assert_eq!(asked(&mut table, &quarantine(4, "1h"), &policy, now + 30 * minute), State::Pending);
    // One whose answer is lost makes no room, one that is refused does, once it is wanted by no other alert.
    sent(&mut table, 4, &Outcome::GivenUp("no answer".into()), now + 31 * minute);
    assert_eq!(asked(&mut table, &quarantine(5, "1h"), &policy, now + 32 * minute), State::Waiting);
    sent(&mut table, 1, &Outcome::Refused("it answered 404".into()), now + 32 * minute);
    assert_eq!(asked(&mut table, &quarantine(7, "1h"), &policy, now + 32 * minute), State::Waiting);
    let again = all(&table).into_iter().find(|row| row.alert_id == "again").expect("a row").key;
    within(&mut table, |table| table.decide(&again, Decision::Reject, "ann", &policy, now)).expect("rejected");
    assert_eq!(asked(&mut table, &quarantine(6, "1h"), &policy, now + 33 * minute), State::Pending);
}

#[test]
fn an_approval_is_above_the_share_and_counts_for_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut table, policy, now) = (open(&folder), share(50), 1_000 * HOUR);
    saw(&mut table, 4, now);
    for (n, state) in [(0, State::Pending), (1, State::Pending), (2, State::Waiting)] {
        assert_eq!(asked(&mut table, &quarantine(n, "1h"), &policy, now), state);
    }
    let key = row(&table, 2).key;
    let approved = within(&mut table, |table| table.decide(&key, Decision::Approve, "ann", &policy, now));
    assert_eq!(approved.expect("approved").state, State::Pending);
    sent(&mut table, 0, &Outcome::Refused("it answered 404".into()), now);
    assert_eq!(asked(&mut table, &quarantine(3, "1h"), &policy, now), State::Waiting);
}

#[test]
fn the_fleet_is_who_was_seen_within_a_day() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut table, policy, start) = (open(&folder), share(50), 1_000 * HOUR);
    let fleet = |table: &mut Table, now| within(table, |table| table.quarantined("", "nobody", now)).fleet;
    saw(&mut table, 10, start);
    saw(&mut table, 4, start + HOUR);
    saw(&mut table, 4, start);
    assert_eq!((fleet(&mut table, start + 25 * HOUR - 1), fleet(&mut table, start + 25 * HOUR)), (10, 4));
    within(&mut table, |table| table.tidy(&policy, start + 26 * HOUR));
    assert_eq!((fleet(&mut table, start), fleet(&mut table, start + 26 * HOUR)), (0, 0));
}

#[test]
fn of_a_small_or_unknown_fleet_one_agent_may_be_in_quarantine_and_of_none_at_zero() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut table = open(&folder);
    assert_eq!(asked(&mut table, &quarantine(0, "1h"), &share(0), 1), State::Waiting);
    assert_eq!(asked(&mut table, &quarantine(1, "1h"), &share(99), 1), State::Pending);
    assert_eq!(asked(&mut table, &quarantine(2, "1h"), &share(99), 1), State::Waiting);
    assert_eq!(asked(&mut table, &quarantine(3, "1h"), &share(100), 1), State::Pending);
}

#[test]
fn in_a_maintenance_window_what_changes_agents_waits_and_the_rest_goes() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut table = open(&folder);
    let text = "[[response.maintenance]]\nname = \"deploy\"\ndays = [\"mon\"]\nfrom = \"22:00\"\nto = \"02:00\"\ntz = \"Europe/Berlin\"";
    let config = config::Config::parse(text).expect("a configuration").response;
    let policy = Policy::new(&config, RECEIVERS, Duration::from_secs(3_600)).expect("a policy");
    let mut at = |id: usize, time: &str| {
        let now = clawdstrike_telemetry::time::parse(time).expect("a time");
        within(&mut table, |table| table.record(&alert(id, Status::Open), &policy, now));
        let rows =
            table.list(&Filter { alert_id: Some(format!("a{id}")), ..Filter::default() }, 10, None).expect("rows").1;
        let waiting = rows.into_iter().map(|(_, row)| row).filter(|row| row.state == State::Waiting);
        waiting.map(|row| (row.action, row.reason.expect("a reason"))).collect::<BTreeSet<_>>()
    };
    let both = BTreeSet::from(
        ["quarantine_agent", "terminate_session"].map(|name| (name.to_owned(), "maintenance \"deploy\"".to_owned())),
    );
    // Summer: two hours ahead of UTC.
    assert!(at(1, "2024-05-06T19:59:59Z").is_empty());
    assert_eq!(at(2, "2024-05-06T20:00:00Z"), both);
    assert_eq!(at(3, "2024-05-06T23:59:59Z"), both);
    assert!(at(4, "2024-05-07T00:00:00Z").is_empty());
}

#[test]
fn four_eyes_are_of_two_people_whom_the_row_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut table = open(&folder);
    let config = config::Response {
        four_eyes: true,
        requires_approval: vec![ActionKind::QuarantineAgent],
        ..Default::default()
    };
    let policy = Policy::new(&config, RECEIVERS, Duration::from_secs(3_600)).expect("a policy");
    assert_eq!(asked(&mut table, &quarantine(0, "1h"), &policy, 1), State::Waiting);
    let key = row(&table, 0).key;
    let approve =
        |table: &mut Table, by: &str| within(table, |table| table.decide(&key, Decision::Approve, by, &policy, 2));
    let first = approve(&mut table, "ann").expect("noted");
    assert_eq!(
        (first.state, first.approved_by.as_deref(), first.decided_by.as_deref()),
        (State::Waiting, Some("ann"), None)
    );
    assert_eq!(first, row(&table, 0));
    assert!(first.reason.is_some_and(|reason| reason.contains("requires_approval") && reason.contains("\"ann\"")));
    assert!(within(&mut table, |table| table.queue(Destination::AgentControl, 0, 10)).is_empty());
    assert_eq!(approve(&mut table, "ann"), Err(Objection::SecondNeeded));
    // A restart forgets nobody.
    drop(table);
    let mut table = open(&folder);
    let second = approve(&mut table, "bob").expect("approved");
    let who = (second.approved_by.as_deref(), second.decided_by.as_deref());
    assert_eq!((second.state, who), (State::Pending, (Some("ann"), Some("bob"))));
}
