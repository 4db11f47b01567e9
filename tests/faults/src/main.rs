//! Long runs of the fault harness: schedule after schedule, each with the next seed, until one fails or time is up.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Parser;
use clawdstrike_faults::{Kind, Schedule, Services, Setup, SourceKind, StoreKind, run};

/// Kills, stops, rescales and reloads the engine on real services, and judges what its database ends with.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  cargo build && cargo run -p clawdstrike-faults -- --hours 2
  cargo run -p clawdstrike-faults -- --source jsonl --store sqlite --seed 11 --runs 1")]
struct Args {
    /// Begin no run after so many hours.
    #[arg(long, value_name = "H")]
    hours: Option<f64>,
    /// So many runs at most; 10 if there are no hours either.
    #[arg(long, value_name = "N")]
    runs: Option<u64>,
    /// The first run's seed; the others follow.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Faults of a run.
    #[arg(long, value_name = "N", default_value_t = 5)]
    faults: usize,
    /// Where records come from.
    #[arg(long, default_value = "kafka")]
    source: SourceKind,
    /// Where rows go.
    #[arg(long, default_value = "postgres")]
    store: StoreKind,
    /// Faults of this kind only; may be given several times.
    #[arg(long, value_name = "KIND")]
    only: Vec<Kind>,
    /// The engine's program, if it isn't the one beside this.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

fn main() -> ExitCode {
    match go(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn go(args: &Args) -> anyhow::Result<()> {
    let binary = binary(args)?;
    let setup = Setup { source: args.source, store: args.store };
    let services = Services::start(setup)?;
    let kinds = if args.only.is_empty() { Kind::all(setup) } else { args.only.clone() };
    let began = Instant::now();
    let time = args.hours.map(|hours| Duration::from_secs_f64(hours * 3_600.0));
    let runs = args.runs.unwrap_or(if time.is_some() { u64::MAX } else { 10 });
    let mut passed = 0;
    while passed < runs && time.is_none_or(|time| began.elapsed() < time) {
        let schedule = Schedule::random(args.seed + passed, args.source, args.faults, &kinds);
        println!("{schedule}");
        let report = run(&binary, &services, &schedule)
            .with_context(|| format!("after {passed} runs without a difference: --seed {}", schedule.seed))?;
        println!("  {report}");
        passed += 1;
    }
    println!("{passed} runs without a difference");
    Ok(())
}

fn binary(args: &Args) -> anyhow::Result<PathBuf> {
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => std::env::current_exe()?.with_file_name("clawdstrike-edr"),
    };
    if !binary.is_file() {
        bail!(
            "\"{}\" isn't there: build the engine with `cargo build` (in the same profile), or name it with --binary",
            binary.display()
        );
    }
    binary.canonicalize().with_context(|| format!("\"{}\"", binary.display()))
}
