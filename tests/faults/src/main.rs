//! Long runs of the fault harness: schedule after schedule, each with the next seed, until one fails or time is up; and the
//! runs that measure.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::{Args as Arguments, Parser, Subcommand};
use clawdstrike_faults::{
    Kind, Recovery, Reloads, Scale, Schedule, Services, Setup, Shape, SourceKind, StoreKind, StoreOutage, recovery,
    reloads, run, store_outage,
};

/// Kills, stops, rescales and reloads the engine on real services, and judges what its database ends with.
#[derive(Parser)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  cargo build && cargo run -p clawdstrike-faults -- --hours 2
  cargo run -p clawdstrike-faults -- --source jsonl --store sqlite --seed 11 --runs 1
  cargo run -p clawdstrike-faults -- store-outage --minutes 3 --rate 2000
  cargo run -p clawdstrike-faults -- reloads --minutes 1 --rate 2000 --rules 1000"
)]
struct Args {
    #[command(subcommand)]
    measured: Option<Measured>,
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

/// Runs that measure, under a load whose alerts are known.
#[derive(Subcommand)]
enum Measured {
    /// Nothing waits for a database: PostgreSQL is away for long, while events and attacks (one a second) go on. Prints the
    /// delay from an attack's last event to its alert before, meanwhile and afterwards, memory each 10 s, what the health
    /// says, and how many rows are there in the end
    ///
    /// Needs some 250 bytes of disk for each event in the log and 700 in the database: 36 GB for 30 minutes at 20,000 events/s,
    /// besides what PostgreSQL's own log takes (1 GB), in the workspace's target/services and, for JSON lines, in the folder of
    /// temporary files. And a release build, for a rate like that.
    StoreOutage {
        /// How long the database is away.
        #[arg(long, value_name = "M", default_value_t = 30.0)]
        minutes: f64,
        /// How many seconds of load there are before and afterwards.
        #[arg(long, value_name = "S", default_value_t = 60)]
        around: u64,
        #[command(flatten)]
        load: LoadArgs,
        /// Sessions; each is attacked at most once.
        #[arg(long, value_name = "N", default_value_t = 10_000)]
        sessions: usize,
        /// Ordinary events in a second.
        #[arg(long, value_name = "N", default_value_t = 20_000)]
        rate: u32,
    },
    /// One process after another is killed under load. Prints the time from a kill to the alert for an attack made after it,
    /// with its parts from the engine's log; more than 10 s are an error.
    Recovery {
        /// How often.
        #[arg(long, value_name = "N", default_value_t = 4)]
        kills: usize,
        #[command(flatten)]
        load: LoadArgs,
        /// Where rows go.
        #[arg(long, default_value = "postgres")]
        store: StoreKind,
        /// Sessions, with an open window each.
        #[arg(long, value_name = "N", default_value_t = 100_000)]
        sessions: usize,
        /// Ordinary events in a second.
        #[arg(long, value_name = "N", default_value_t = 4_000)]
        rate: u32,
    },
    /// Rules are loaded again and again under load, and in the middle of it a process is killed. Prints the delay from an
    /// attack's last event to its alert before, meanwhile and afterwards, and how long loads take; if half of them take more
    /// than 1 s, that is an error
    Reloads {
        /// How long rules are loaded.
        #[arg(long, value_name = "M", default_value_t = 5.0)]
        minutes: f64,
        /// How many seconds of load there are before and afterwards.
        #[arg(long, value_name = "S", default_value_t = 30)]
        around: u64,
        #[command(flatten)]
        load: LoadArgs,
        /// Where rows go.
        #[arg(long, default_value = "postgres")]
        store: StoreKind,
        /// Sessions; each is attacked at most once, ten in a second.
        #[arg(long, value_name = "N", default_value_t = 10_000)]
        sessions: usize,
        /// Ordinary events in a second.
        #[arg(long, value_name = "N", default_value_t = 50_000)]
        rate: u32,
        /// Loads in a minute.
        #[arg(long, value_name = "N", default_value_t = 100)]
        per_minute: u32,
        /// Rules that each load changes.
        #[arg(long, value_name = "N", default_value_t = 10)]
        rules: usize,
    },
}

/// What all have.
#[derive(Arguments)]
struct LoadArgs {
    /// Where events come from.
    #[arg(long, default_value = "kafka")]
    source: SourceKind,
    /// Processes.
    #[arg(long, value_name = "N", default_value_t = 2)]
    processes: usize,
    /// Workers of each.
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
    /// The engine's program, if it isn't the one beside this: a release build
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

impl LoadArgs {
    fn scale(&self, rate: u32, sessions: usize) -> Scale {
        Scale { shape: Shape { processes: self.processes, threads: self.threads }, rate, sessions }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = args.measured.as_ref().map_or_else(|| go(&args), measure);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(measured: &Measured) -> anyhow::Result<()> {
    match measured {
        Measured::StoreOutage { minutes, around, load, sessions, rate } => {
            let outage = StoreOutage {
                source: load.source,
                scale: load.scale(*rate, *sessions),
                around: Duration::from_secs(*around),
                away: Duration::from_secs_f64(minutes * 60.0),
            };
            store_outage(&program(load.binary.as_ref())?, &outage)
        }
        Measured::Reloads { minutes, around, load, store, sessions, rate, per_minute, rules } => {
            let run = Reloads {
                setup: Setup { source: load.source, store: *store },
                scale: load.scale(*rate, *sessions),
                around: Duration::from_secs(*around),
                during: Duration::from_secs_f64(minutes * 60.0),
                per_minute: *per_minute,
                rules: *rules,
            };
            reloads(&program(load.binary.as_ref())?, &run)
        }
        Measured::Recovery { kills, load, store, sessions, rate } => {
            let setup = Setup { source: load.source, store: *store };
            recovery(
                &program(load.binary.as_ref())?,
                &Recovery { setup, scale: load.scale(*rate, *sessions), kills: *kills },
            )
        }
    }
}

fn go(args: &Args) -> anyhow::Result<()> {
    let binary = program(args.binary.as_ref())?;
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

fn program(given: Option<&PathBuf>) -> anyhow::Result<PathBuf> {
    let binary = match given {
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
