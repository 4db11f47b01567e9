//! Exactness (SPEC §4): whatever the rules, the events, their disorder, the batches, the epochs and the number of workers,
//! the dataflow ends with what the naive evaluator says that sorts all events and scans.
//!
//! `EXACTNESS_CASES=N` runs N cases of each property instead of [`CASES`], `EXACTNESS_SEED=N` other ones. `cargo test
//! --test exactness -- --ignored --nocapture` goes on for an hour (`EXACTNESS_MINUTES=N`), each time with others, and
//! prints its seed. A failure prints its case: all of it follows from the numbers in there.

mod foretelling;
mod restarts;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use clawdstrike_edr::alert::Alert;
use clawdstrike_edr::config::{Duration, Limits};
use clawdstrike_edr::inbox::{Inboxes, MAX_RECORD, Message, PartitionId, RecordBatch, RecordRef};
use clawdstrike_edr::runtime::replay::{Outcome, Replay, run_fed};
use clawdstrike_edr::session::SessionView;
use clawdstrike_naive::generate::{Case, Level, Sizes, case};
use clawdstrike_naive::{self as naive, Options, SECOND};
use clawdstrike_rules::plan::RuleSet;
use clawdstrike_rules::{SourceFile, compile};
use clawdstrike_telemetry::{EventType, is_blank, time};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

/// Cases of each property, if `EXACTNESS_CASES` doesn't say otherwise.
const CASES: u32 = 500;

/// How an input is run; what comes out may not depend on it.
#[derive(Clone, Copy, Debug)]
struct Way {
    workers: usize,
    /// Records that a worker takes into one epoch.
    epoch_records: usize,
    /// Records in a batch, at most.
    batch: usize,
    /// Of the cuts, and of the order in which partitions are read.
    seed: u64,
}

fn ways() -> impl Strategy<Value = Way> {
    let epochs = prop::sample::select(vec![1usize, 2, 7, 40, 32_768]);
    let batches = prop::sample::select(vec![1usize, 3, 20, 1_000]);
    (1usize..=3, epochs, batches, any::<u64>()).prop_map(|(workers, epoch_records, batch, seed)| Way {
        workers,
        epoch_records,
        batch,
        seed,
    })
}

fn sizes() -> impl Strategy<Value = Sizes> {
    let untimely = prop::sample::select(vec![0u32, 0, 0, 60]);
    (1usize..=6, 1usize..=160, 1usize..=4, any::<bool>(), any::<bool>(), untimely).prop_map(
        |(rules, records, files, anonymous, disorder, untimely)| Sizes {
            rules,
            records,
            files,
            anonymous,
            disorder,
            untimely,
        },
    )
}

/// A partition's batches from an offset on, cut at random.
fn batches(place: usize, file: &[u8], most: usize, from: u64, rng: &mut StdRng) -> Vec<RecordBatch> {
    let partition = PartitionId { source: 0, partition: place as u32 };
    let mut all = Vec::new();
    let mut room = 0;
    let mut offset = 0;
    for line in file.split_inclusive(|b| *b == b'\n') {
        let record = line.strip_suffix(b"\n").unwrap_or(line);
        let record = record.strip_suffix(b"\r").unwrap_or(record);
        let next = offset + line.len();
        if !is_blank(record) && offset as u64 >= from {
            if room == 0 {
                room = rng.random_range(1..=most);
                all.push(RecordBatch { partition, bytes: Vec::new(), records: Vec::new(), next_offset: 0, end: None });
            }
            room -= 1;
            if let Some(batch) = all.last_mut() {
                let record = &record[..record.len().min(MAX_RECORD)];
                let start = batch.bytes.len() as u32;
                batch.records.push(RecordRef { start, len: record.len() as u32, offset: offset as u64, append: None });
                batch.bytes.extend_from_slice(record);
                batch.next_offset = next as u64;
            }
        }
        offset = next;
    }
    all
}

/// Sends files as a source does, from these offsets on: partitions in any order, each in its own.
fn feed(files: &[Vec<u8>], way: Way, from: &dyn Fn(u32) -> u64, inboxes: &Inboxes) {
    let send = |partition: PartitionId, message| {
        let inbox = inboxes.of(partition).expect("all workers are here");
        // A worker that has ended early shows in the outcome.
        let _ended = inbox.send(message);
    };
    let mut rng = StdRng::seed_from_u64(way.seed);
    let mut left = Vec::new();
    for (place, file) in files.iter().enumerate() {
        let mut batches = batches(place, file, way.batch, from(place as u32), &mut rng);
        batches.reverse();
        let partition = PartitionId { source: 0, partition: place as u32 };
        send(partition, Message::Assigned(partition));
        left.push((partition, batches));
    }
    let send_all = |message: fn(u16) -> Message| {
        for inbox in &inboxes.local {
            let _ended = inbox.send(message(0));
        }
    };
    // Until then nothing is ever forgotten.
    send_all(Message::Listed);
    // Sometimes in turn, sometimes one partition far ahead of the others.
    let steady = rng.random_bool(0.5);
    let mut at = 0;
    while !left.is_empty() {
        if steady || rng.random_bool(0.1) {
            at = rng.random_range(0..left.len());
        }
        at %= left.len();
        let (partition, batches) = &mut left[at];
        match batches.pop() {
            Some(batch) => send(*partition, Message::Batch(batch)),
            None => {
                send(*partition, Message::Finished(*partition));
                left.swap_remove(at);
            }
        }
    }
    send_all(Message::Ended);
}

fn compiled(text: &str) -> RuleSet {
    let file = SourceFile { name: "generated.yaml".to_owned(), text: text.to_owned() };
    compile(&[file]).unwrap_or_else(|errors| panic!("{errors}\n{text}")).set
}

fn limits(options: &Options) -> Limits {
    Limits {
        max_lateness: Duration(options.max_lateness),
        max_skew: Duration(options.max_skew),
        dedup_window: Duration(options.dedup_window.max(options.max_lateness)),
        session_retention: Duration(options.session_retention),
        evidence_limit: options.evidence_limit,
        ..Limits::default()
    }
}

fn engine(rules: &RuleSet, files: &[Vec<u8>], options: &Options, way: Way) -> Outcome {
    let replay = Replay {
        files: Vec::new(),
        rules: rules.clone(),
        workers: way.workers,
        limits: limits(options),
        now: options.now,
        changes: None,
        progress: Arc::new(AtomicU64::new(0)),
    };
    run_fed(replay, way.epoch_records, |inboxes| feed(files, way, &|_| 0, &inboxes))
        .expect("the replay runs to its end")
}

/// The engine's alert in the judge's words.
fn alert(alert: &Alert) -> naive::Alert {
    let id =
        |id: &str| id.strip_prefix("file/").map_or_else(|| id.to_owned(), |position| position.replacen('/', ":", 1));
    naive::Alert {
        rule_id: alert.rule_id.clone(),
        tenant_id: alert.tenant_id.clone(),
        group: alert.group.clone(),
        agent_id: alert.agent_id.clone(),
        session_id: alert.session_id.clone(),
        first_seen: alert.first_seen,
        last_seen: alert.last_seen,
        match_count: alert.match_count,
        evidence: alert.evidence.iter().map(|e| (id(&e.id), e.step)).collect(),
    }
}

fn session(life: &SessionView) -> naive::Session {
    let by_type: BTreeMap<String, u64> = EventType::ALL
        .iter()
        .zip(life.by_type)
        .filter(|(_, n)| *n > 0)
        .map(|(t, n)| (t.name().to_owned(), n))
        .collect();
    naive::Session {
        tenant_id: life.tenant_id.clone(),
        agent_id: life.agent_id.clone(),
        session_id: life.session_id.clone(),
        resumed: life.resumed,
        events: life.events,
        violations: life.violations,
        by_type,
        unique_targets: life.unique_targets,
        first_seen: life.first_seen,
        last_seen: life.last_seen,
        risk_score: life.risk_score as u64,
    }
}

/// What one side has and the other hasn't, as text; empty if they agree.
fn differences<T: PartialEq + std::fmt::Debug>(what: &str, judge: &[T], engine: &[T]) -> String {
    let missing = judge.iter().filter(|one| !engine.contains(one)).map(|one| format!("missing {what}: {one:?}\n"));
    let extra = engine.iter().filter(|one| !judge.contains(one)).map(|one| format!("unexpected {what}: {one:?}\n"));
    let mut found: String = missing.chain(extra).collect();
    if found.is_empty() && judge.len() != engine.len() {
        found = format!("{} of {what} where {} are right\n", engine.len(), judge.len());
    }
    found
}

/// How the engine's alerts and sessions differ from the judge's; empty if they agree.
fn outcomes_differ(judge: &naive::Outcome, engine: &Outcome) -> String {
    let alerts: Vec<_> = engine.alerts.iter().map(alert).collect();
    let sessions: Vec<_> = engine.sessions.iter().map(session).collect();
    differences("alert", &judge.alerts, &alerts) + &differences("session", &judge.sessions, &sessions)
}

/// Runs both and says how they differ; empty if they agree.
fn compare(case: &Case, timely: bool, way: Way) -> String {
    let rules = compiled(&case.rules);
    let judge = naive::evaluate(&rules, &case.files, &case.options);
    let engine = engine(&rules, &case.files, &case.options, way);
    let mut found = outcomes_differ(&judge, &engine);
    found += &differences("count of events", &[judge.events + judge.copies], &[engine.events]);
    found += &differences("dead letters", &[&judge.dead], &[&engine.dead_letters]);
    if timely {
        found += &differences("count of re-timed events", &[judge.retimed], &[engine.retimed]);
    }
    found
}

fn check(level: Level, seed: u64, sizes: Sizes, way: Way) -> Result<(), TestCaseError> {
    let case = case(seed, level, &sizes);
    let found = compare(&case, sizes.untimely == 0, way);
    prop_assert!(found.is_empty(), "{level:?}, seed {seed}, {sizes:?}, {way:?}\n{found}\n{}", case.rules);
    Ok(())
}

/// Rules `R0`, `R1`, ... under names in the opposite order.
fn renamed(rules: &str) -> String {
    let name = regex::Regex::new(r"\bR(\d+)\b").expect("a regex");
    let other = |found: &regex::Captures<'_>| format!("X{}", 1_000 - found[1].parse::<u32>().expect("a number"));
    name.replace_all(rules, other).into_owned()
}

fn named_back(alert: naive::Alert) -> naive::Alert {
    let number: u32 = alert.rule_id[1..].parse().expect("a number");
    naive::Alert { rule_id: format!("R{}", 1_000 - number), ..alert }
}

/// The lines in another order, none behind its time by more than the lateness, dealt out to so many files.
fn arriving_otherwise(file: &[u8], files: usize, max_lateness: i64, seed: u64) -> Vec<Vec<u8>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut time = 0;
    let mut lines: Vec<(i64, u32, &[u8])> = Vec::new();
    for line in file.split_inclusive(|b| *b == b'\n') {
        // A line that is no record arrives with the one before it.
        time = clawdstrike_telemetry::decode(line.trim_ascii_end()).map_or(time, |event| event.timestamp);
        lines.push((time + rng.random_range(0..=max_lateness), rng.random(), line));
    }
    lines.sort();
    let mut out = vec![Vec::new(); files];
    for (_, _, line) in lines {
        out[rng.random_range(0..files)].extend_from_slice(line);
    }
    out
}

/// One input in order, in one file, on one worker; and the same one arriving in any order within the lateness, split into
/// files, under other names of rules, in any way: one outcome.
fn check_other_ways(seed: u64, sizes: Sizes, way: Way) -> Result<(), TestCaseError> {
    let straight =
        case(seed, Level::Full, &Sizes { anonymous: false, untimely: 0, files: 1, disorder: false, ..sizes });
    let files = arriving_otherwise(&straight.files[0], sizes.files, straight.options.max_lateness, way.seed);
    let plain = Way { workers: 1, epoch_records: 32_768, batch: 1_000, seed: 0 };
    let before = engine(&compiled(&straight.rules), &straight.files, &straight.options, plain);
    let after = engine(&compiled(&renamed(&straight.rules)), &files, &straight.options, way);
    let alerts: Vec<_> = before.alerts.iter().map(alert).collect();
    let others: Vec<_> = after.alerts.iter().map(|a| named_back(alert(a))).collect();
    let sessions = |outcome: &Outcome| outcome.sessions.iter().map(session).collect::<Vec<_>>();
    let mut found = differences("alert", &alerts, &others);
    found += &differences("session", &sessions(&before), &sessions(&after));
    found += &differences("count of events", &[before.events], &[after.events]);
    prop_assert!(found.is_empty(), "seed {seed}, {sizes:?}, {way:?}\n{found}\n{}", straight.rules);
    Ok(())
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is not a number")))
}

/// Fails with the smallest case that it finds among so many.
fn hold(cases: u32, seed: u64, property: impl Fn(u64, Sizes, Way) -> Result<(), TestCaseError>) {
    let rng_seed = RngSeed::Fixed(seed);
    let config = ProptestConfig {
        cases,
        rng_seed,
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..ProptestConfig::default()
    };
    let result =
        TestRunner::new(config).run(&(any::<u64>(), sizes(), ways()), |(seed, sizes, way)| property(seed, sizes, way));
    result.unwrap_or_else(|failure| panic!("of seed {seed}: {failure}"));
}

/// `share`: of so many cases it takes one.
fn hold_as_asked(share: u32, property: impl Fn(u64, Sizes, Way) -> Result<(), TestCaseError>) {
    let cases = number("EXACTNESS_CASES").map_or(CASES, |n| u32::try_from(n).expect("a number of cases"));
    hold(cases.div_ceil(share), number("EXACTNESS_SEED").unwrap_or(1), property);
}

#[test]
fn a_subset_of_the_language_ends_as_the_judge_says() {
    hold_as_asked(1, |seed, sizes, way| check(Level::Subset, seed, sizes, way));
}

#[test]
fn the_whole_language_ends_as_the_judge_says() {
    hold_as_asked(1, |seed, sizes, way| check(Level::Full, seed, sizes, way));
}

#[test]
fn arrival_files_workers_and_names_of_rules_change_nothing() {
    hold_as_asked(1, check_other_ways);
}

#[test]
#[ignore = "runs for an hour, or EXACTNESS_MINUTES"]
fn soak() {
    const AT_ONCE: u32 = 200;
    let minutes = number("EXACTNESS_MINUTES").unwrap_or(60);
    let first = number("EXACTNESS_SEED").unwrap_or_else(|| rand::rng().random_range(0..1 << 32));
    println!("EXACTNESS_SEED={first}");
    let began = Instant::now();
    let mut cases = 0;
    let mut seed = first;
    while began.elapsed().as_secs() < minutes * 60 {
        hold(AT_ONCE, seed, |seed, sizes, way| check(Level::Full, seed, sizes, way));
        hold(AT_ONCE, seed, check_other_ways);
        seed = seed.wrapping_add(1);
        cases += 2 * AT_ONCE;
    }
    println!("{cases} cases, no difference");
}

#[test]
fn a_copy_that_is_re_timed_out_of_an_allowlist_window_is_still_a_copy() {
    let sizes = Sizes { rules: 1, records: 27, files: 1, anonymous: false, disorder: false, untimely: 60 };
    let way = Way { workers: 1, epoch_records: 1, batch: 1, seed: 0 };
    check(Level::Full, 5_627_472_311_668_924_959, sizes, way).expect("no difference");
}

/// 2024-05-06T10:00:00Z
const START: i64 = 1_714_989_600;

/// Records of one file, each (seconds after [`START`], session, type).
fn file(records: &[(i64, &str, &str)]) -> Vec<u8> {
    let record = |(n, (at, session, event_type)): (usize, &(i64, &str, &str))| {
        let timestamp = time::format((START + at) * SECOND);
        let record = json!({
            "event_id": format!("e{n}"), "agent_id": "a", "session_id": session, "timestamp": timestamp,
            "event_type": event_type, "action": {"target": "x"}, "result": {"allowed": true}, "team": 7.0,
        });
        format!("{record}\n")
    };
    records.iter().enumerate().map(record).collect::<String>().into_bytes()
}

/// Compares with an epoch for each record, with few epochs, and with several workers; gives how many alerts are right.
fn agree(rules: &str, max_lateness: i64, records: &[(i64, &str, &str)]) -> usize {
    let options = Options { max_lateness: max_lateness * SECOND, ..Options::default() };
    let case = Case { rules: rules.to_owned(), files: vec![file(records)], options };
    for (workers, epoch_records) in [(1, 1), (3, 1), (1, 3), (2, 32_768)] {
        let found = compare(&case, true, Way { workers, epoch_records, batch: 1, seed: 0 });
        assert!(found.is_empty(), "{workers} workers, {epoch_records} records an epoch\n{found}");
    }
    naive::evaluate(&compiled(rules), &case.files, &case.options).alerts.len()
}

/// A rule file with one rule of these conditions, as YAML in flow style.
fn rule(conditions: &str) -> String {
    format!("rules:\n- {{id: R, name: r, severity: low, suppress_for: 0s, conditions: [{conditions}]}}\n")
}

const UNANSWERED: &str =
    "{type: absence, window: 60s, trigger: {event_type: shell_command}, absent: {event_type: mcp_tool}}";

/// Otherwise nothing here is ever forgotten, and no test sees what is forgotten too soon.
#[test]
fn time_passes_while_records_come() {
    let records =
        [(0, "s", "shell_command"), (100, "t", "file_access"), (200, "s", "shell_command"), (300, "t", "file_access")];
    let rules = compiled(&rule(UNANSWERED));
    let options = Options { max_lateness: 5 * SECOND, ..Options::default() };
    let way = Way { workers: 1, epoch_records: 1, batch: 1, seed: 0 };
    let outcome = engine(&rules, &[file(&records)], &options, way);
    let revisions: Vec<u64> = outcome.alerts.iter().map(|alert| alert.revision).collect();
    assert!(matches!(revisions[..], [first, last] if first < last), "{revisions:?}");
}

#[test]
fn an_absence_is_raised_though_its_group_was_to_be_looked_at_later() {
    let rules =
        rule("{type: absence, window: 7s, trigger: {event_type: shell_command}, absent: {event_type: mcp_tool}}");
    assert_eq!(agree(&rules, 5, &[(10, "s", "file_access"), (10, "s", "shell_command"), (20, "t", "file_access")]), 1);
}

#[test]
fn a_late_event_brings_back_no_trigger_that_was_answered() {
    let records = [
        (0, "s", "shell_command"),
        (1, "s", "mcp_tool"),
        (30, "s", "shell_command"),
        (31, "t", "file_access"),
        (48, "t", "file_access"),
        (49, "s", "shell_command"),
        (47, "s", "shell_command"),
        (200, "t", "file_access"),
    ];
    assert_eq!(agree(&rule(UNANSWERED), 5, &records), 3);
}

#[test]
fn a_late_event_raises_no_absence_again() {
    let records = [
        (0, "s", "shell_command"),
        (70, "t", "file_access"),
        (72, "s", "shell_command"),
        (71, "s", "shell_command"),
        (200, "t", "file_access"),
    ];
    let longer = format!("{UNANSWERED}, {{type: threshold, window: 1h, event_type: shell_command, count: \">= 1\"}}");
    assert_eq!(agree(&rule(UNANSWERED), 5, &records), 3);
    assert!(agree(&rule(&longer), 5, &records) > 0);
}

#[test]
fn an_absence_that_becomes_known_later_is_evidence_of_what_matched_after_it() {
    let conditions = "{type: absence, window: 10s, trigger: {event_type: shell_command}, absent: {event_type: mcp_tool}}, \
                      {type: threshold, window: 1m, event_type: file_access, count: \">= 1\"}";
    let records =
        [(0, "s", "shell_command"), (5, "s", "shell_command"), (16, "s", "file_access"), (60, "t", "file_access")];
    assert_eq!(agree(&rule(conditions), 5, &records), 1);
}

#[test]
fn a_late_event_before_what_ended_a_sequence_completes_it() {
    let rules = rule(
        "{type: sequence, window: 10m, events: [{event_type: shell_command}, {event_type: mcp_tool}], until: {event_type: file_access}}",
    );
    let records = [
        (0, "s", "shell_command"),
        (90, "s", "file_access"),
        (100, "t", "file_access"),
        (80, "s", "mcp_tool"),
        (95, "s", "mcp_tool"),
    ];
    assert_eq!(agree(&rules, 60, &records), 1);
}

#[test]
fn a_late_event_completes_a_sequence_that_a_later_one_did_not() {
    let rules = rule("{type: sequence, window: 30s, events: [{event_type: shell_command}, {event_type: mcp_tool}]}");
    let records = [
        (0, "s", "shell_command"),
        (50, "s", "mcp_tool"),
        (45, "s", "mcp_tool"),
        (80, "t", "file_access"),
        (25, "s", "mcp_tool"),
    ];
    assert_eq!(agree(&rules, 60, &records), 1);
}

#[test]
fn a_session_that_comes_back_is_resumed_though_its_group_still_has_events() {
    const HOUR: i64 = 3_600;
    let rules = rule("{type: threshold, window: 7d, event_type: file_access, count: \">= 9\"}");
    let records = [
        (0, "s", "file_access"),
        (25 * HOUR, "t", "file_access"),
        (26 * HOUR, "t", "file_access"),
        (27 * HOUR, "s", "file_access"),
    ];
    assert_eq!(agree(&rules, 60, &records), 0);
}

#[test]
fn groups_name_their_fields_as_the_rule_does() {
    let rules = "rules:\n- {id: R, name: r, severity: low, by: [extra.team, action.target], conditions: \
                 [{type: threshold, window: 1m, event_type: any, count: \">= 2\"}]}\n";
    assert_eq!(agree(rules, 60, &[(0, "s", "file_access"), (1, "t", "mcp_tool")]), 1);
}

#[test]
fn events_without_a_tenant_form_a_group_by_tenant() {
    let rules = "rules:\n- {id: R, name: r, severity: low, by: [tenant_id], conditions: \
                 [{type: threshold, window: 1m, event_type: any, count: \">= 2\"}]}\n";
    assert_eq!(agree(rules, 60, &[(0, "s", "file_access"), (1, "t", "mcp_tool")]), 1);
}
