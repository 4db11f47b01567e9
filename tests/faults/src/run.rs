//! One run: a log is written while things fail, and then the judge looks at the database.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use tempfile::TempDir;

use crate::actions;
use crate::cluster::{Cluster, Engine};
use crate::database::Database;
use crate::judge::{self, Verdict};
use crate::log::{Log, Topic};
use crate::receiver::Receiver;
use crate::schedule::{Fault, Moment, Schedule, Step};
use crate::services::{Outage, Services};
use crate::stream::Stream;
use crate::wait::wait;

/// Lines of the engine's log that a failure repeats.
const LAST_LINES: usize = 60;
/// The receiver of actions answers 503 to every so manieth request.
const AWAY_EVERY: usize = 9;
/// How often something is written.
const LITTLE: Duration = Duration::from_millis(50);

/// What a run that ended as it must was like.
#[derive(Clone, Debug)]
pub struct Report {
    /// The whole of it.
    pub took: Duration,
    /// From the last record until the database was exact.
    pub exact_after: Duration,
    /// Rows that were compared.
    pub rows: usize,
    /// Rows of the ledger, what of them was done, and the requests that it took.
    pub actions: [usize; 3],
    /// For each start after the first, the alerts with evidence from before and after: windows that were open.
    pub across: Vec<usize>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { took, exact_after, rows, actions: [actions, deeds, requests], .. } = self;
        write!(
            f,
            "{rows} rows, {actions} actions of which {deeds} were done in {requests} requests, exact {:.1} s after the last record, {:.1} s in all",
            exact_after.as_secs_f64(),
            took.as_secs_f64()
        )
    }
}

/// Runs a schedule against the program `binary`.
///
/// # Errors
/// What differs from the judge's rows, or what stood in the way; with all that is needed to see it again.
pub fn run(binary: &Path, services: &Services, schedule: &Schedule) -> anyhow::Result<Report> {
    let folder = tempfile::tempdir()?;
    let mut run = Run::new(binary, services, schedule, folder.path())?;
    run.go(schedule).map_err(|error| {
        run.keep_log();
        keep(folder, error).context(format!("{schedule}\n{}", run.stream.rules))
    })
}

/// Everything of a run.
struct Run<'a> {
    services: &'a Services,
    engine: Engine,
    stream: Stream,
    log: Log,
    database: Database,
    receiver: Receiver,
    /// Rule files: name and text.
    rules: Vec<(String, String)>,
    outages: Vec<Outage>,
}

/// A name that no other run has, for what services keep.
fn fresh(seed: u64) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("faults_{seed}_{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

impl<'a> Run<'a> {
    fn new(binary: &Path, services: &'a Services, schedule: &Schedule, folder: &Path) -> anyhow::Result<Run<'a>> {
        let stream = Stream::generate(schedule.seed, schedule.partitions);
        let name = fresh(schedule.seed);
        let log = match &services.kafka {
            Some(kafka) => Log::Topic(Topic::create(kafka, &name, schedule.partitions, &[])?),
            None => Log::file(folder)?,
        };
        let database = match &services.postgres {
            Some(server) => Database::postgres(server.create_database(&name).map_err(anyhow::Error::msg)?)?,
            None => Database::sqlite(folder),
        };
        let receiver = Receiver::keeping(AWAY_EVERY)?;
        let settings = format!(
            "[checkpoint]\nevery = \"1s\"\n{}{}{}{}",
            stream.settings(),
            database.settings(),
            receiver.settings(),
            log.settings()
        );
        let environment = database.environment();
        let engine = Engine { binary: binary.to_owned(), folder: folder.to_owned(), settings, environment };
        std::fs::create_dir_all(engine.rules())?;
        let rules = vec![("generated.yaml".to_owned(), stream.rules.clone())];
        let run = Run { services, engine, stream, log, database, receiver, rules, outages: Vec::new() };
        run.write_rules()?;
        Ok(run)
    }

    fn go(&mut self, schedule: &Schedule) -> anyhow::Result<Report> {
        let began = Instant::now();
        let mut cluster = self.engine.start(schedule.shape)?;
        let mut before = Vec::new();
        for (n, Step { moment, fault }) in schedule.steps.iter().enumerate() {
            let shares = schedule.steps.len() + 1 - n;
            match moment {
                Moment::After(pause) => self.write(shares, *pause)?,
                Moment::Committed => {
                    self.write(shares, Duration::ZERO)?;
                    self.log.await_committed()?;
                }
            }
            if matches!(fault, Fault::KillAll(_) | Fault::Restart(_)) {
                before.push(self.stream.ids());
            }
            cluster = self.apply(*fault, cluster).with_context(|| format!("{fault}"))?;
        }
        self.write(1, Duration::ZERO)?;
        self.outages.drain(..).try_for_each(Outage::end)?;
        self.log.await_committed()?;
        for (partition, end) in self.stream.ends().iter().enumerate() {
            self.log.append(partition, end)?;
        }
        self.log.flush()?;
        let rules = judge::rules(&self.rules)?;
        let verdict = Verdict::of(&rules, &self.log.read()?, &self.stream.options);
        let last = Instant::now();
        self.await_exact(&mut cluster, &verdict)?;
        let exact_after = last.elapsed();
        cluster.await_actions()?;
        // What is left to say at the end changes nothing.
        cluster.terminate()?;
        let stored = self.database.read()?;
        let found = verdict.differences(&stored);
        if !found.is_empty() {
            return Err(anyhow!("{found}").context("exact at first, and not after the end"));
        }
        let ledger = actions::ledger(&self.engine.state())?;
        let (received, deeds) = (self.receiver.received(), self.receiver.deeds());
        let found = actions::differences(&rules, &stored, &ledger, &received, &deeds);
        if !found.is_empty() {
            return Err(anyhow!("{found}").context("alerts are exact, and their actions aren't"));
        }
        let across = before.iter().map(|ids| verdict.across(ids)).collect();
        let actions = [ledger.len(), deeds.len(), received.len()];
        Ok(Report { took: began.elapsed(), exact_after, rows: verdict.rows(), actions, across })
    }

    /// Writes a share of what is left, within so long.
    fn write(&mut self, shares: usize, time: Duration) -> anyhow::Result<()> {
        let share = self.stream.next(shares);
        let pieces = time.div_duration_f64(LITTLE).ceil().max(1.0) as usize;
        for piece in 0..pieces {
            for (partition, bytes) in share.iter().enumerate() {
                let [from, to] = [piece, piece + 1].map(|n| bytes.len() * n / pieces);
                self.log.append(partition, &bytes[from..to])?;
            }
            // Records that come now and then, not a wait for anything.
            std::thread::sleep(time / u32::try_from(pieces)?);
        }
        self.log.flush()
    }

    fn apply(&mut self, fault: Fault, mut cluster: Cluster) -> anyhow::Result<Cluster> {
        match fault {
            Fault::KillProcess(victim) => cluster.kill_process(victim),
            Fault::StopProcess(victim) => cluster.stop_process(victim),
            Fault::PauseProcess(victim, pause) => cluster.pause_process(victim, pause),
            Fault::KillAll(shape) => {
                cluster.kill_all()?;
                return self.engine.start(shape);
            }
            Fault::Restart(shape) => {
                cluster.terminate()?;
                return self.engine.start(shape);
            }
            Fault::KillBroker(pause) => {
                if let Some(kafka) = &self.services.kafka {
                    // One at a time; nothing can be written meanwhile anyway.
                    Outage::begin(kafka, pause)?.end()?;
                }
            }
            Fault::KillDatabase(pause) => {
                if let Some(postgres) = &self.services.postgres {
                    self.outages.drain(..).try_for_each(Outage::end)?;
                    self.outages.push(Outage::begin(postgres, pause)?);
                }
            }
            Fault::Reload => self.reload(&mut cluster)?,
        }
        Ok(cluster)
    }

    /// A file that says the same in other bytes, and a new one.
    fn reload(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        let number = self.rules.len();
        let (id, text) = self.stream.add_rule(number);
        self.rules[0].1 += "\n# written anew\n";
        self.rules.push((format!("reloaded-{number}.yaml"), text));
        self.write_rules()?;
        cluster.await_rule(&id)
    }

    fn write_rules(&self) -> anyhow::Result<()> {
        for (name, text) in &self.rules {
            // Whole at once, as a start may read it any time.
            let new = self.engine.folder.join("new-rules");
            std::fs::write(&new, text)?;
            std::fs::rename(new, self.engine.rules().join(name))?;
        }
        Ok(())
    }

    fn await_exact(&self, cluster: &mut Cluster, verdict: &Verdict) -> anyhow::Result<()> {
        let mut found = String::new();
        let exact = wait("a database that is exact", || {
            cluster.check()?;
            found = match self.database.read() {
                Ok(stored) => verdict.differences(&stored),
                Err(error) => format!("the database can't be read: {error:#}"),
            };
            Ok(found.is_empty().then_some(()))
        });
        exact.with_context(|| format!("not exact after the last record\n{found}"))
    }

    /// For whoever looks into the folder of a failure.
    fn keep_log(&self) {
        let partitions = self.log.read().unwrap_or_default();
        for (n, partition) in partitions.iter().enumerate() {
            let path: PathBuf = self.engine.folder.join(format!("partition-{n}.jsonl"));
            if let Err(error) = std::fs::write(&path, partition) {
                eprintln!("\"{}\" can't be written: {error}", path.display());
            }
        }
    }
}

/// Keeps the folder of a run that failed, and says where it is and how the engine's log ends.
pub(crate) fn keep(folder: TempDir, error: anyhow::Error) -> anyhow::Error {
    let kept = folder.keep();
    let last_words = last_lines(&kept.join("log"));
    error.context(format!("all of it is in \"{}\"\nthe engine's log ends:\n{last_words}", kept.display()))
}

fn last_lines(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}
