//! Measures the engine over one seeded stream and prints a table: events a second, CPU time an event, and ratios to the first
//! row of the same run. Nothing is asserted: machines differ, ratios within a run are what to compare.
//!
//! `cargo run --release -p clawdstrike-bench` (add `--kafka` for a real broker, which it starts itself).

mod kafka;
mod measure;

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::Parser;
use clawdstrike_edr::config::Limits;
use clawdstrike_edr::runtime::replay::{self, Replay};
use clawdstrike_edr::simulate::{Options, Simulator};
use clawdstrike_rules::SourceFile;
use clawdstrike_rules::plan::RuleSet;
use measure::{Table, measure};

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
    let parsed = measure(args.runs, || files.iter().try_for_each(|file| read_and_parse(file)))?;
    table.row("read+parse only", parsed);
    table.row("read+parse only, 2 threads", measure(args.runs, || in_two_threads(&files))?);
    let brief = compile(BRIEF)?;
    for workers in [1, 2] {
        let name = format!("JSONL to alerts, 4 rules, {workers} worker{}", if workers > 1 { "s" } else { "" });
        if name.contains(&args.only) {
            table.row(&name, measure(args.runs, || to_alerts(&files, &brief, workers))?);
        }
    }
    for rules in [10, 1_000, 10_000] {
        let name = format!("{rules} sequences on one event type");
        if name.contains(&args.only) {
            let set = compile(&sequences(rules))?;
            table.row(&name, measure(args.runs, || to_alerts(&files, &set, 1))?);
        }
    }
    if args.kafka {
        table.row("Kafka to alerts, 4 rules, 1 worker", kafka::to_alerts(&files, args.events)?);
    }
    table.print();
    println!("peak memory of this process: {} MiB", measure::peak_mib());
    Ok(())
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
