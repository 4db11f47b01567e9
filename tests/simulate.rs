//! `simulate`: its attacks fire the brief's rules and nothing else does, by a checker of its own; its output arrives as asked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Parser;
use clawdstrike_edr::simulate::{Options, Scenario, SimulateArgs, Simulator, run};
use clawdstrike_telemetry::target::{Target, normalise};
use clawdstrike_telemetry::{EventType, decode, time};
use rdkafka::ClientConfig;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

const MINUTE: i64 = 60_000_000;
/// 2024-05-06T10:00:00Z
const START: i64 = 1_714_989_600_000_000;

/// An event as the four rules see it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    time: i64,
    id: String,
    event_type: EventType,
    target: String,
    allowed: bool,
}

/// (rule, agent, session, time of the first match).
type Finding = (&'static str, String, String, i64);

fn sessions(lines: &[u8]) -> BTreeMap<(String, String), Vec<Seen>> {
    let mut sessions: BTreeMap<_, BTreeSet<Seen>> = BTreeMap::new();
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        let event = decode(line.strip_suffix(b"\n").expect("a whole line")).expect("a valid event");
        let target = match normalise(event.event_type, &event.target) {
            Target::Host { host, .. } => host.into_owned(),
            other => other.text().into_owned(),
        };
        let seen = Seen {
            time: event.timestamp,
            id: event.event_id.as_deref().expect("an id").to_owned(),
            event_type: event.event_type,
            target,
            allowed: event.allowed,
        };
        sessions.entry((event.agent_id.into_owned(), event.session_id.into_owned())).or_default().insert(seen);
    }
    sessions.into_iter().map(|(key, events)| (key, events.into_iter().collect())).collect()
}

/// The brief's four rules, read from its text and written out by hand.
fn findings(lines: &[u8]) -> BTreeSet<Finding> {
    type Rule = fn(&[Seen]) -> Option<i64>;
    let rules: [(&str, Rule); 4] = [
        ("CREDENTIAL_EXFILTRATION", exfiltration),
        ("PROMPT_INJECTION_CHAIN", injection_chain),
        ("RAPID_FILE_ENUMERATION", enumeration),
        ("LATERAL_MOVEMENT_PREP", lateral_movement),
    ];
    let mut found = BTreeSet::new();
    for ((agent, session), events) in sessions(lines) {
        for (id, rule) in rules {
            found.extend(rule(&events).map(|at| (id, agent.clone(), session.clone(), at)));
        }
    }
    found
}

/// The events up to and with the i-th that lie in its window.
fn window(events: &[Seen], i: usize, window: i64) -> &[Seen] {
    let from = events.partition_point(|e| events[i].time - e.time > window);
    &events[from..=i]
}

fn exfiltration(events: &[Seen]) -> Option<i64> {
    let secret = |e: &Seen| {
        let inner =
            |folder: &str| e.target.contains(&format!("/{folder}/")) || e.target.starts_with(&format!("{folder}/"));
        e.event_type == EventType::FileAccess
            && (inner(".ssh") || inner(".aws") || e.target.rsplit('/').next() == Some(".env"))
    };
    let unlisted = |e: &Seen| {
        e.event_type == EventType::NetworkEgress
            && !e.target.ends_with(".openai.com")
            && !e.target.ends_with(".anthropic.com")
            && e.target != "api.github.com"
    };
    let mut read = i64::MIN;
    for e in events {
        if unlisted(e) && read >= e.time - 5 * MINUTE {
            return Some(e.time);
        }
        if secret(e) {
            read = e.time;
        }
    }
    None
}

fn injection_chain(events: &[Seen]) -> Option<i64> {
    let blocked: Vec<Seen> = events.iter().filter(|e| !e.allowed).cloned().collect();
    let ends = |i: &usize| {
        let before = window(&blocked, *i, 10 * MINUTE);
        let first = before.iter().position(|e| e.event_type == EventType::PromptInjectionAttempt);
        first.is_some_and(|first| before.len() - first > 3)
    };
    (0..blocked.len()).find(ends).map(|i| blocked[i].time)
}

fn enumeration(events: &[Seen]) -> Option<i64> {
    let files: Vec<&Seen> = events.iter().filter(|e| e.event_type == EventType::FileAccess).collect();
    let (mut from, mut targets) = (0, BTreeMap::<&str, u32>::new());
    for (i, e) in files.iter().enumerate() {
        *targets.entry(&e.target).or_default() += 1;
        while e.time - files[from].time > MINUTE {
            let count = targets.get_mut(files[from].target.as_str()).expect("it came in");
            *count -= 1;
            if *count == 0 {
                targets.remove(files[from].target.as_str());
            }
            from += 1;
        }
        if i + 1 - from > 100 && targets.len() > 50 {
            return Some(e.time);
        }
    }
    None
}

fn lateral_movement(events: &[Seen]) -> Option<i64> {
    let looks = |e: &Seen| {
        e.event_type == EventType::FileAccess
            && ["/etc/passwd", "/etc/hosts", "/etc/resolv.conf"].contains(&e.target.as_str())
    };
    let asks = |e: &Seen| {
        e.event_type == EventType::ShellCommand
            && ["whoami", "hostname", "ifconfig", "ip addr"].iter().any(|w| e.target.contains(w))
    };
    let connects = |e: &Seen| e.event_type == EventType::NetworkEgress;
    let mut latest = [i64::MIN; 3];
    for e in events {
        let satisfied = [looks(e), asks(e), connects(e)];
        for (latest, satisfied) in latest.iter_mut().zip(satisfied) {
            if satisfied {
                *latest = e.time;
            }
        }
        if satisfied.contains(&true) && latest.iter().all(|at| *at >= e.time - 30 * MINUTE) {
            return Some(e.time);
        }
    }
    None
}

fn options() -> Options {
    Options { start: START, ..Options::default() }
}

/// So many lines, and what must be found in them.
fn simulate(options: Options, events: usize) -> (Vec<u8>, BTreeSet<Finding>) {
    let mut simulator = Simulator::new(options);
    let mut lines = Vec::new();
    for _ in 0..events {
        simulator.next(&mut lines);
    }
    let truth = simulator
        .attacks()
        .iter()
        .map(|a| (a.scenario.rule_id(), a.agent_id.clone(), a.session_id.clone(), a.at))
        .collect();
    (lines, truth)
}

#[test]
fn every_attack_fires_its_rule_at_its_time_and_nothing_else_fires() {
    let few = Options { agents: 3, sessions_per_agent: 1, attack_share: 0.01, ..options() };
    let cases = [
        ("the default", options(), 60_000),
        ("a session's own rate is high", Options { rate: 20_000.0, ..few.clone() }, 60_000),
        ("events are rare", Options { rate: 0.5, agents: 5, attack_share: 0.002, ..options() }, 20_000),
        (
            "many sessions at a benchmark's rate",
            Options { rate: 1e6, agents: 2_000, sessions_per_agent: 5, ..options() },
            100_000,
        ),
        ("fresh targets", Options { fresh_targets: 0.6, ..options() }, 50_000),
        ("sessions are short", Options { session_events: 20, attack_share: 0.005, ..options() }, 50_000),
    ];
    for (name, case, events) in cases {
        for seed in 1..=2 {
            let (lines, truth) = simulate(Options { seed, ..case.clone() }, events);
            let kinds: BTreeSet<&str> = truth.iter().map(|t| t.0).collect();
            assert_eq!(kinds.len(), 4, "{name}, seed {seed}: {kinds:?}");
            assert_eq!(findings(&lines), truth, "{name}, seed {seed}");
        }
    }
}

#[test]
fn normal_work_fires_nothing() {
    let quiet = Options { attack_share: 0.0, rate: 5_000.0, agents: 4, sessions_per_agent: 1, ..options() };
    let (lines, truth) = simulate(Options { session_events: 0, ..quiet }, 400_000);
    assert!(truth.is_empty());
    assert_eq!(findings(&lines), BTreeSet::new());
}

#[test]
fn only_the_scenarios_asked_for_are_run() {
    for scenario in Scenario::ALL {
        let (_, truth) = simulate(Options { scenarios: vec![scenario], ..options() }, 50_000);
        let rules: BTreeSet<&str> = truth.iter().map(|t| t.0).collect();
        assert_eq!(rules.into_iter().collect::<Vec<_>>(), [scenario.rule_id()]);
    }
}

#[test]
fn a_seed_gives_the_same_lines_and_another_seed_others() {
    assert_eq!(simulate(options(), 20_000), simulate(options(), 20_000));
    assert_ne!(simulate(options(), 1_000).0, simulate(Options { seed: 2, ..options() }, 1_000).0);
}

#[test]
fn lines_are_valid_ordered_distinct_and_of_a_real_size() {
    let mut simulator = Simulator::new(Options { fresh_targets: 0.3, ..options() });
    let (mut line, mut bytes, mut last) = (Vec::new(), 0, START);
    let (mut ids, mut types, mut targets) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::<String, u32>::new());
    const EVENTS: usize = 50_000;
    for _ in 0..EVENTS {
        line.clear();
        let due = simulator.next_time();
        let emitted = simulator.next(&mut line);
        let event = decode(line.strip_suffix(b"\n").expect("a line feed")).expect("a valid event");
        assert_eq!((event.agent_id.as_ref(), event.session_id.as_ref()), emitted.key);
        assert_eq!((event.timestamp, event.allowed), (emitted.time, emitted.allowed));
        assert!(emitted.time == due && due >= last, "time goes back");
        last = emitted.time;
        bytes += line.len();
        assert!(ids.insert(event.event_id.as_deref().expect("an id").to_owned()));
        types.insert(event.event_type);
        *targets.entry(event.target.into_owned()).or_default() += 1;
    }
    assert_eq!(types.len(), 7);
    let mean = bytes / EVENTS;
    assert!((400..=480).contains(&mean), "{mean} bytes");
    let fresh = targets.values().filter(|n| **n == 1).count() as f64 / EVENTS as f64;
    assert!((0.28..0.33).contains(&fresh), "{fresh} of the targets are fresh");
}

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: SimulateArgs,
}

fn parse(flags: &str) -> Result<SimulateArgs, clap::Error> {
    Command::try_parse_from(std::iter::once("simulate").chain(flags.split_whitespace())).map(|c| c.args)
}

async fn run_to(folder: &Path, flags: &str) -> anyhow::Result<()> {
    let flags = flags.replace('@', &folder.display().to_string());
    run(&parse(&flags)?).await
}

fn read(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(path).expect("a readable file")
}

fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n').collect()
}

#[tokio::test]
async fn disorder_and_copies_change_the_arrival_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let same = "--seed 7 --start 2024-05-06T10:00:00Z --events 20000";
    run_to(folder.path(), &format!("--to @/plain.jsonl {same}")).await.expect("a run");
    run_to(folder.path(), &format!("--to @/mixed.jsonl {same} --disorder 5s --duplicates 0.1")).await.expect("a run");
    let (plain, mixed) = (read(folder.path().join("plain.jsonl")), read(folder.path().join("mixed.jsonl")));
    let (plain, mixed) = (lines(&plain), lines(&mixed));
    assert_eq!(plain.len(), 20_000);
    assert!((21_500..22_500).contains(&mixed.len()), "{} lines", mixed.len());
    assert_eq!(plain.iter().collect::<BTreeSet<_>>(), mixed.iter().collect::<BTreeSet<_>>());

    let (mut ahead, mut largest_lag) = (START, 0);
    for line in &mixed {
        let at = decode(line.trim_ascii_end()).expect("a valid event").timestamp;
        largest_lag = largest_lag.max(ahead - at);
        ahead = ahead.max(at);
    }
    assert!((4_000_000..=5_000_000).contains(&largest_lag), "{largest_lag} µs behind at most");
}

#[tokio::test]
async fn files_are_split_by_session_and_the_truth_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = "--to @/part.jsonl --files 3 --truth @/truth.jsonl --seed 3 --start 2024-05-06T10:00:00Z --duration 20s --agents 30";
    run_to(folder.path(), flags).await.expect("a run");
    let parts: Vec<Vec<u8>> = (0..3).map(|i| read(folder.path().join(format!("part-{i}.jsonl")))).collect();
    let mut owners = BTreeMap::new();
    for (i, part) in parts.iter().enumerate() {
        for session in sessions(part).into_keys() {
            assert_eq!(*owners.entry(session.clone()).or_insert(i), i, "{session:?} is in two files");
        }
    }
    let all = parts.concat();
    let in_time = sessions(&all).into_values().flatten().all(|e| e.time < START + 20_000_000);
    assert!(in_time, "an event lies after the duration");
    let truth: BTreeSet<(String, String, String, i64)> = lines(&read(folder.path().join("truth.jsonl")))
        .into_iter()
        .map(|line| {
            let row: Value = serde_json::from_slice(line).expect("JSON");
            let text = |field: &str| row[field].as_str().expect("a text").to_owned();
            (text("rule_id"), text("agent_id"), text("session_id"), time::parse(&text("at")).expect("a time"))
        })
        .collect();
    assert!(truth.len() >= 4, "{truth:?}");
    assert_eq!(findings(&all).into_iter().map(|(r, a, s, t)| (r.to_owned(), a, s, t)).collect::<BTreeSet<_>>(), truth);
}

#[tokio::test]
async fn files_are_replaced_or_added_to_as_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = "--to @/a.jsonl --events 10";
    for (more, count) in [("", 10), ("", 10), (" --append", 20)] {
        run_to(folder.path(), &format!("{flags}{more}")).await.expect("a run");
        assert_eq!(lines(&read(folder.path().join("a.jsonl"))).len(), count);
    }
}

#[tokio::test]
async fn a_rate_is_kept_in_real_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let began = Instant::now();
    run_to(folder.path(), "--to @/a.jsonl --rate 500 --duration 1s --attack-every 0").await.expect("a run");
    assert!(began.elapsed() >= Duration::from_millis(990), "{:?}", began.elapsed());
    assert_eq!(lines(&read(folder.path().join("a.jsonl"))).len(), 500);
}

#[tokio::test]
async fn without_a_start_no_event_lies_ahead_of_the_clock() {
    let folder = tempfile::tempdir().expect("a folder");
    run_to(folder.path(), "--to @/a.jsonl --events 5000 --attack-every 0").await.expect("a run");
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_micros() as i64;
    let bytes = read(folder.path().join("a.jsonl"));
    let last = sessions(&bytes).into_values().flatten().map(|e| e.time).max().expect("events");
    assert!(last <= now && last > now - 2 * MINUTE, "{} µs", now - last);
}

#[tokio::test]
async fn flags_that_make_no_sense_are_refused_with_the_way_out() {
    let folder = tempfile::tempdir().expect("a folder");
    for (flags, word) in [
        ("--to @/a.jsonl", "--events"),
        ("--to @/a.jsonl --events 1 --agents 0", "--agents"),
        ("--to @/a.jsonl --events 1 --agents 1000000000", "--agents"),
        ("--to @/a.jsonl --events 1 --duplicates 2", "--duplicates"),
        ("--to @/a.jsonl --events 1 --rate -1", "--rate"),
        ("--to @/a.jsonl --events 1 --rate NaN", "--rate"),
        ("--to @/a.jsonl --events 1 --start noon", "RFC 3339"),
        ("--to - --files 2 --events 1", "--files"),
        ("--to @/none/a.jsonl --events 1", "can't be opened"),
    ] {
        let flags = flags.replace("--rate -1", "--rate=-1");
        let error = format!("{:#}", run_to(folder.path(), &flags).await.expect_err(&flags));
        assert!(error.contains(word), "{flags}: {error}");
    }
    assert!(parse("--events 1").is_err(), "no destination");
    assert!(parse("--to a --kafka b --events 1").is_err(), "two destinations");
    assert!(parse("--to a --scenario nonsense").is_err());
}

#[tokio::test]
async fn kafka_gets_every_event_in_its_topic_under_its_key() {
    let cluster = MockCluster::new(1).expect("a broker");
    for topic in ["agent.events", "agent.violations"] {
        cluster.create_topic(topic, 2, 1).expect("a topic");
    }
    let brokers = cluster.bootstrap_servers();
    let folder = tempfile::tempdir().expect("a folder");
    let same = "--seed 5 --start 2024-05-06T10:00:00Z --events 5000";
    run_to(folder.path(), &format!("--to @/a.jsonl {same}")).await.expect("a run");
    run_to(folder.path(), &format!("--kafka {brokers} {same}")).await.expect("a run");

    let expected = read(folder.path().join("a.jsonl"));
    let expected: BTreeSet<Vec<u8>> = lines(&expected).into_iter().map(|line| line.trim_ascii_end().to_vec()).collect();
    let mut received = BTreeSet::new();
    for (topic, allowed) in [("agent.events", true), ("agent.violations", false)] {
        for (key, payload) in consume(&brokers, topic, 2) {
            let event = decode(&payload).expect("a valid event");
            assert_eq!(event.allowed, allowed);
            assert_eq!(key, format!("{}:{}", event.agent_id, event.session_id));
            received.insert(payload);
        }
    }
    assert!(received == expected, "{} of {} arrived", received.len(), expected.len());
}

/// All that is in a topic: (key, payload).
fn consume(brokers: &str, topic: &str, partitions: i32) -> Vec<(String, Vec<u8>)> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("group.id", "test").create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    let mut left = 0;
    for partition in 0..partitions {
        let (low, high) = consumer.fetch_watermarks(topic, partition, Duration::from_secs(10)).expect("watermarks");
        left += high - low;
        list.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
    }
    consumer.assign(&list).expect("an assignment");
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut records = Vec::new();
    while left > 0 {
        assert!(Instant::now() < deadline, "{left} records of {topic} don't come");
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            let message = message.expect("a record");
            let key = String::from_utf8(message.key().expect("a key").to_vec()).expect("UTF-8");
            records.push((key, message.payload().expect("a payload").to_vec()));
            left -= 1;
        }
    }
    records
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_named() {
    let error = run(&parse("--kafka 127.0.0.1:1 --events 1").expect("flags")).await.expect_err("no broker");
    assert!(format!("{error:#}").contains("127.0.0.1:1"), "{error:#}");
}
