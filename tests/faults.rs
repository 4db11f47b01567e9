//! A few schedules of the fault harness (`tests/faults`) for every day; `cargo run -p clawdstrike-faults` runs more. A failure
//! tells its seed and schedule.

use std::path::Path;

use clawdstrike_faults::{Kind, Report, Schedule, Services, Setup, SourceKind, StoreKind, run};

const SERVERS: Setup = Setup { source: SourceKind::Kafka, store: StoreKind::Postgres };
const FILES: Setup = Setup { source: SourceKind::Jsonl, store: StoreKind::Sqlite };
/// Faults of a random schedule.
const FAULTS: usize = 5;

fn random(seed: u64, setup: Setup) -> Schedule {
    Schedule::random(seed, setup.source, FAULTS, &Kind::all(setup))
}

fn hold(services: &Services, schedule: &Schedule) -> Report {
    eprintln!("{schedule}");
    let report = run(Path::new(env!("CARGO_BIN_EXE_clawdstrike-edr")), services, schedule);
    let report = report.unwrap_or_else(|error| panic!("{error:#}"));
    eprintln!("  {report}");
    report
}

#[test]
fn whatever_fails_on_servers_the_database_ends_as_the_judge_says() {
    let services = Services::start(SERVERS).unwrap();
    // 1 x 1, 3 x 2, 2 x 1.
    let rescaled = hold(&services, &Schedule::rescale(7));
    assert!(rescaled.across.iter().all(|alerts| *alerts > 0), "no window was open: {rescaled:?}");
    (1..=2).for_each(|seed| drop(hold(&services, &random(seed, SERVERS))));
}

#[test]
fn whatever_fails_on_files_the_database_ends_as_the_judge_says() {
    let services = Services::start(FILES).unwrap();
    (1..=3).for_each(|seed| drop(hold(&services, &random(seed, FILES))));
}
