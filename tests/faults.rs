//! A few schedules of the fault harness (`tests/faults`) for every day; `cargo run -p clawdstrike-faults` runs more. A failure
//! tells its seed and schedule.

use std::path::Path;

use clawdstrike_faults::{Kind, Schedule, Services, Setup, SourceKind, StoreKind, run};

const SERVERS: Setup = Setup { source: SourceKind::Kafka, store: StoreKind::Postgres };
const FILES: Setup = Setup { source: SourceKind::Jsonl, store: StoreKind::Sqlite };
/// Faults of a random schedule.
const FAULTS: usize = 5;

fn random(seed: u64, setup: Setup) -> Schedule {
    Schedule::random(seed, setup.source, FAULTS, &Kind::all(setup))
}

fn hold(setup: Setup, schedules: impl IntoIterator<Item = Schedule>) {
    let services = Services::start(setup).unwrap();
    for schedule in schedules {
        eprintln!("{schedule}");
        match run(Path::new(env!("CARGO_BIN_EXE_clawdstrike-edr")), &services, &schedule) {
            Ok(report) => eprintln!("  {report}"),
            Err(error) => panic!("{error:#}"),
        }
    }
}

#[test]
fn whatever_fails_on_servers_the_database_ends_as_the_judge_says() {
    hold(SERVERS, [Schedule::rescale(1), random(1, SERVERS), random(2, SERVERS)]);
}

#[test]
fn whatever_fails_on_files_the_database_ends_as_the_judge_says() {
    hold(FILES, (1..=3).map(|seed| random(seed, FILES)));
}
