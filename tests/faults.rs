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

/// `tests/faults/sabotage.sh` breaks the engine with these, one at a time. Whoever changes what they change mends them.
#[test]
fn what_breaks_the_engine_on_purpose_fits_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(root.join("tests/faults/sabotage")).expect("the patches");
    let mut hunks = 0;
    for patch in files.map(|file| file.expect("a patch").path()) {
        let text = std::fs::read_to_string(&patch).expect("text");
        // Behind what it says of itself: the first file's name, then that file's hunks, and so on.
        for of_file in text.split("\n+++ b/").skip(1) {
            let mut pieces = of_file.split("\n@@ ");
            let name = pieces.next().expect("a name").lines().next().expect("a name");
            let source = std::fs::read_to_string(root.join(name)).expect("a file of the engine");
            for hunk in pieces {
                let body =
                    hunk.lines().skip(1).take_while(|line| !line.starts_with("diff ") && !line.starts_with("--- "));
                let before = body.filter(|line| !line.starts_with('+')).map(|line| line.get(1..).unwrap_or_default());
                let before: String = before.map(|line| format!("{line}\n")).collect();
                assert!(source.contains(&before), "{}: {name} has changed: no\n{before}", patch.display());
                hunks += 1;
            }
        }
    }
    assert!(hunks > 0);
}
