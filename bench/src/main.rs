//! Measures the engine over one seeded stream and prints a table: events a second, CPU time an event, how much of the rate of
//! parsing alone that is, the cost against the first row of the same kind, and memory. Nothing is asserted: machines differ,
//! ratios within a run are what to compare.
//!
//! `cargo run --release -p clawdstrike-bench` (add `--kafka` and `--stores` for a real broker and database, which it starts itself).

mod checkpoints;
mod kafka;
mod measure;
mod stores;

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Parser;
use clawdstrike_edr::config::Limits;
use clawdstrike_edr::runtime::replay::{self, Replay};
use clawdstrike_edr::simulate::{Options, Simulator};
use clawdstrike_rules::SourceFile;
use clawdstrike_rules::plan::RuleSet;
use measure::{Row, Table, measure};

/// Rates and ratios of the engine within one run.
#[derive(Parser)]
struct Args {
    /// Events of the stream.
    #[arg(long, default_value_t = 500_000)]
    events: u64,
    /// Agents, with two sessions each.
    #[arg(long, default_value_t = 5_000)]
    agents: usize,
    /// Events a second of event time, over all sessions.
    #[arg(long, default_value_t = 20_000.0)]
    rate: f64,
    /// Runs of each row; the fastest counts.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Only rows whose name contains this text (and the first row, which the ratios are to).
    #[arg(long, default_value = "")]
    only: String,
    /// Also from a real Kafka broker.
    #[arg(long)]
    kafka: bool,
    /// Also into the stores: SQLite, and a real PostgreSQL.
    #[arg(long)]
    stores: bool,
}

/// The wall clock of all runs: after every event.
const NOW: i64 = 1_900_000_000_000_000;
/// Files that the stream is dealt out to, line by line: partitions, so that all workers read.
const FILES: usize = 2;
/// Event time of the first event.
const START: i64 = 1_800_000_000_000_000;
/// The brief's four rules.
const BRIEF: &str = include_str!("../../rules/ai-threats.yaml");

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let folder = tempfile::tempdir()?;
    let files: Vec<PathBuf> = (0..FILES).map(|n| folder.path().join(format!("events-{n}.jsonl"))).collect();
    let bytes = write_stream(&files, &args)?;
    println!("{} events, {} bytes each, {} sessions", args.events, bytes / args.events, args.agents * 2);
    let mut table = Table::new(args.events);
    let parse = || files.iter().try_for_each(|file| read_and_parse(file));
    let brief = compile(BRIEF)?;
    let mut rows = vec![Row::new("read+parse only", parse)];
    rows.extend(args.wanted(vec![
        Row::new("read+parse only, 2 threads", || in_two_threads(&files)),
        Row::new("JSONL to alerts, 4 rules, 1 worker", || to_alerts(&files, &brief, 1)),
        Row::new("JSONL to alerts, 4 rules, 2 workers", || to_alerts(&files, &brief, 2)),
    ]));
    table.group(measure(args.runs, rows, |m| m.cpu)?);
    let sequences = compiled("sequences on one event type", &[10, 1_000, 10_000], sequences)?;
    let mixed = compiled("rules of mixed kinds", &[10, 100, 1_000, 10_000], mixed)?;
    for sets in [&sequences, &mixed] {
        let rows = sets.iter().map(|set| Row::new(&set.name, || to_alerts(&files, &set.rules, 1)));
        table.group(measure(args.runs, args.wanted(rows.collect()), |m| m.cpu)?);
    }
    let checkpoints = |every: Option<u64>| {
        let (files, brief, folder) = (&files, &brief, folder.path());
        move || checkpoints::to_alerts(files, brief, folder, every.map(Duration::from_secs))
    };
    let rows = vec![
        Row::new("without checkpoints", checkpoints(None)),
        Row::new("checkpoints every 5 s", checkpoints(Some(5))),
        Row::new("checkpoints every 1 s", checkpoints(Some(1))),
    ];
    table.group(measure(args.runs, args.wanted(rows), |m| m.cpu)?);
    if args.kafka {
        let measured = kafka::to_alerts(&files, args.events)?;
        table.group(vec![("Kafka to alerts, 4 rules, 1 worker".to_owned(), measured)]);
    }
    table.print();
    if args.stores {
        stores::print(&files, folder.path(), args.runs)?;
    }
    for set in sequences.iter().chain(&mixed) {
        println!("{}: compiled in {:.0?}", set.name, set.took);
    }
    Ok(())
}

impl Args {
    fn wanted<'a>(&self, rows: Vec<Row<'a>>) -> Vec<Row<'a>> {
        rows.into_iter().filter(|row| row.name.contains(&self.only)).collect()
    }
}

/// Rules of one kind, so many of them.
struct Set {
    name: String,
    rules: RuleSet,
    /// To compile.
    took: Duration,
}

fn compiled(what: &str, numbers: &[usize], yaml: impl Fn(usize) -> String) -> anyhow::Result<Vec<Set>> {
    let set = |&n: &usize| {
        let text = yaml(n);
        let began = Instant::now();
        let rules = compile(&text)?;
        Ok(Set { name: format!("{n} {what}"), rules, took: began.elapsed() })
    };
    numbers.iter().map(set).collect()
}

/// Writes the seeded stream; gives its length in bytes.
fn write_stream(files: &[PathBuf], args: &Args) -> anyhow::Result<u64> {
    let (agents, rate) = (args.agents, args.rate);
    let options = Options { seed: 1, agents, sessions_per_agent: 2, start: START, rate, ..Options::default() };
    let mut simulator = Simulator::new(options);
    let open = |path| Ok(BufWriter::with_capacity(1 << 20, File::create(path)?));
    let mut out: Vec<BufWriter<File>> = files.iter().map(open).collect::<std::io::Result<_>>()?;
    let mut line = Vec::new();
    let mut bytes = 0;
    for n in 0..args.events {
        line.clear();
        simulator.next(&mut line);
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        bytes += line.len() as u64;
        out[n as usize % files.len()].write_all(&line)?;
    }
    out.iter_mut().try_for_each(Write::flush)?;
    Ok(bytes)
}

/// What any engine must do at least: read the file, find the lines, check and decode each.
fn read_and_parse(path: &Path) -> anyhow::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = Vec::new();
    let mut chunk = vec![0u8; 256 * 1024];
    let mut events = 0u64;
    loop {
        let n = file.read(&mut chunk)?;
        if n == 0 {
            break;
        }
        buffer.extend_from_slice(&chunk[..n]);
        let mut from = 0;
        for end in memchr::memchr_iter(b'\n', &buffer) {
            let event = clawdstrike_telemetry::decode(&buffer[from..end]).map_err(|e| anyhow!("{}", e.detail))?;
            events += u64::from(std::hint::black_box(&event).allowed);
            from = end + 1;
        }
        buffer.drain(..from);
    }
    std::hint::black_box(events);
    Ok(())
}

fn in_two_threads(files: &[PathBuf]) -> anyhow::Result<()> {
    let (some, others) = files.split_at(files.len() / 2);
    let read = |files: &[PathBuf]| files.iter().try_for_each(|file| read_and_parse(file));
    std::thread::scope(|scope| {
        let other = scope.spawn(move || read(others));
        read(some)?;
        other.join().map_err(|_| anyhow!("a reader panicked"))?
    })
}

fn to_alerts(files: &[PathBuf], rules: &RuleSet, workers: usize) -> anyhow::Result<()> {
    let outcome = replay::run(Replay {
        files: files.to_vec(),
        rules: rules.clone(),
        workers,
        limits: Limits::default(),
        now: NOW,
        changes: None,
        progress: Arc::default(),
    });
    let outcome = outcome.map_err(anyhow::Error::msg)?;
    std::hint::black_box(outcome.alerts.len());
    Ok(())
}

fn compile(yaml: &str) -> anyhow::Result<RuleSet> {
    let file = SourceFile { name: "bench.yaml".into(), text: yaml.into() };
    clawdstrike_rules::compile(&[file]).map(|c| c.set).map_err(|e| anyhow!("{e}")).context("the bench's rules")
}

/// Something rare, then nearly any egress, so many times.
fn sequences(n: usize) -> String {
    let rule = |i: usize| {
        format!(
            "  - id: SEQ_{i}\n    name: n\n    severity: low\n    conditions:\n      - type: sequence\n        window: 5m\n        events:\n          - {{event_type: file_access, target_glob: \"/srv/data/vault-{i}/**\"}}\n          - {{event_type: network_egress, target_not_in: [\"*.allowed-{i}.example\"]}}\n"
        )
    };
    format!("rules:\n{}", (0..n).map(rule).collect::<String>())
}

/// Sequences, thresholds, patterns, absences and new values in turn, in groups of sessions and of agents. Each has a
/// target of its own that opens it, and something common that it then looks at.
fn mixed(n: usize) -> String {
    let rule = |i: usize| {
        let condition = match i % 5 {
            0 => format!(
                "{{type: sequence, window: 5m, events: [{{event_type: file_access, target_glob: \"/srv/data/vault-{i}/**\"}}, {{event_type: any, result.allowed: false, count: \">= 2\"}}]}}"
            ),
            1 => format!(
                "{{type: threshold, window: 1m, event_type: file_access, target_glob: \"/home/agent/projects/*/src/part-{i}/**\", count: \"> 20\", unique_targets: \"> 10\"}}"
            ),
            2 => format!(
                "{{type: pattern, window: 10m, all_of: [{{event_type: shell_command, target_regex: \"tool-{i} --force\"}}, {{event_type: network_egress}}]}}"
            ),
            3 => format!(
                "{{type: absence, window: 5m, trigger: {{event_type: mcp_tool, target_pattern: \"deploy_{i}\"}}, absent: {{event_type: mcp_tool, target_pattern: \"approve_*\"}}}}"
            ),
            _ => format!(
                "{{type: new_value, window: 1h, learn: 1m, event_type: network_egress, target_pattern: \"*.zone-{i}.example\", field: context.model}}"
            ),
        };
        let by = if i % 10 < 7 { "[agent_id, session_id]" } else { "[agent_id]" };
        format!("  - {{id: MIX_{i}, name: n, severity: low, by: {by}, conditions: [{condition}]}}\n")
    };
    format!("rules:\n{}", (0..n).map(rule).collect::<String>())
}
