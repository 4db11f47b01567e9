//! A cluster under load, and those who look at it: what the long runs that measure have in common. Knows no fault.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::cluster::{Cluster, Engine};
use crate::database::{Counts, Database};
use crate::load::{Attack, Load, Plan, RULE};
use crate::log::{Log, Topic};
use crate::receiver::Receiver;
use crate::schedule::Shape;
use crate::services::Services;
use crate::wait::{DEADLINE, wait};

/// The broker's clock, and everything is kept for as long as it takes.
const TOPIC: [(&str, &str); 3] =
    [("message.timestamp.type", "LogAppendTime"), ("retention.ms", "-1"), ("retention.bytes", "-1")];
/// How long the API may take for an answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How often a number that should grow is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// An archive that hasn't moved for so long may have everything.
const QUIET: Duration = Duration::from_secs(3);

/// What the cluster is like, and what is written.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Processes and workers.
    pub shape: Shape,
    /// Ordinary events in a second.
    pub rate: u32,
    /// Sessions with an open window; each can be attacked once.
    pub sessions: usize,
}

/// A running one.
pub(crate) struct Trial {
    pub(crate) cluster: Cluster,
    pub(crate) load: Load,
    pub(crate) receiver: Receiver,
    pub(crate) api: Api,
    database: Database,
    /// How many there are.
    pub(crate) sessions: usize,
    state: PathBuf,
}

impl Trial {
    /// Starts a cluster in the folder and the load; returns once all sessions are open.
    pub(crate) fn start(binary: &Path, folder: &Path, services: &Services, scale: Scale) -> anyhow::Result<Trial> {
        let Scale { shape, rate, sessions } = scale;
        let partitions = if services.kafka.is_some() { shape.processes * shape.threads } else { 1 };
        let log = match &services.kafka {
            Some(kafka) => Log::Topic(Topic::create(kafka, "load", partitions, &TOPIC)?),
            None => Log::file(folder)?,
        };
        let database = match &services.postgres {
            Some(server) => Database::postgres(server.create_database("load").map_err(anyhow::Error::msg)?)?,
            None => Database::sqlite(folder),
        };
        let receiver = Receiver::start()?;
        let settings = format!("{}{}{}", database.settings(), receiver.settings(), log.settings());
        let environment = database.environment();
        let engine = Engine { binary: binary.to_owned(), folder: folder.to_owned(), settings, environment };
        std::fs::create_dir_all(engine.rules())?;
        std::fs::write(engine.rules().join("rule.yaml"), RULE)?;
        let mut cluster = engine.start(shape)?;
        let api = Api::new(&cluster)?;
        wait("the cluster's API", || {
            cluster.check()?;
            Ok(api.health())
        })?;
        let load = Load::start(log, Plan { rate, sessions, partitions })?;
        let mut trial = Trial { cluster, load, receiver, api, database, sessions, state: folder.join("state") };
        trial.await_growth("all sessions", "events", |n| n >= sessions)?;
        Ok(trial)
    }

    /// An error if the engine or the load has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        if !self.load.is_writing() {
            bail!("nothing more is written");
        }
        self.cluster.check()
    }

    /// What the engine's own folder takes, in MiB.
    pub(crate) fn state_size(&self) -> u64 {
        size(&self.state) >> 20
    }

    /// Waits until a count of the health is large enough, for as long as it grows.
    pub(crate) fn await_growth(
        &mut self,
        what: &str,
        count: &str,
        enough: impl Fn(usize) -> bool,
    ) -> anyhow::Result<()> {
        let (mut last, mut grown) = (0, Instant::now());
        loop {
            self.cluster.check()?;
            let now = self.api.health().and_then(|h| h[count].as_u64()).unwrap_or(0) as usize;
            if enough(now) {
                return Ok(());
            }
            if now > last {
                (last, grown) = (now, Instant::now());
            }
            if grown.elapsed() > DEADLINE {
                bail!("waited {DEADLINE:?} in vain for more of {what}: {count} is {now}");
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Ends the load and waits until everything is where it belongs: each attack's alert at the receiver, and the rows of
    /// all events, sessions and alerts in the store.
    pub(crate) fn finish(self) -> anyhow::Result<Finished> {
        let Trial { mut cluster, load, receiver, api, database, sessions, .. } = self;
        let (events, attacks) = load.stop()?;
        let mut wrong = Vec::new();
        let missing = || attacks.iter().filter(|a| receiver.arrival(&a.session).is_none()).count();
        if wait("alerts", || Ok((missing() == 0).then_some(()))).is_err() {
            wrong.push(format!("{} of {} alerts never came", missing(), attacks.len()));
        }
        let mut alerts: Vec<String> = attacks.iter().map(|attack| attack.session.clone()).collect();
        alerts.sort();
        let mut told = receiver.sessions();
        told.sort();
        if told != alerts {
            wrong.push(format!("{} sessions were attacked, and alerts of {} came", alerts.len(), told.len()));
        }
        let expected = Counts { events: events as u64, sessions: sessions as u64, counted: events as u64, alerts };
        let archived_at = await_rows(&mut cluster, &api, &database, &expected)?;
        cluster.terminate()?;
        let counts = database.count()?;
        if counts != expected {
            wrong.push(format!("the store has {counts}, expected are {expected}"));
        }
        Ok(Finished { attacks, receiver, counts, archived_at, wrong })
    }
}

/// What has come of it.
pub(crate) struct Finished {
    pub(crate) attacks: Vec<Attack>,
    pub(crate) receiver: Receiver,
    /// What the store has in the end.
    pub(crate) counts: Counts,
    /// When the last event was archived.
    pub(crate) archived_at: Instant,
    /// What isn't as it must be.
    pub(crate) wrong: Vec<String>,
}

/// Waits for the rows for as long as the archive goes on; gives the time of its last event.
fn await_rows(cluster: &mut Cluster, api: &Api, database: &Database, expected: &Counts) -> anyhow::Result<Instant> {
    let (mut last, mut moved) = (None, Instant::now());
    loop {
        cluster.check()?;
        let now = api.health().and_then(|h| h["archived"].as_u64());
        if now.is_some() && now != last {
            (last, moved) = (now, Instant::now());
        }
        // Counting takes as long as there are rows: only once nothing seems to come any more.
        let quiet = moved.elapsed();
        if quiet > QUIET && (database.count()? == *expected || quiet > DEADLINE) {
            return Ok(moved);
        }
        std::thread::sleep(LOOK);
    }
}

/// Of all files below; what goes away meanwhile doesn't count.
fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let one = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => size(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.map(one).sum()
}

/// Questions to the cluster's API.
pub(crate) struct Api {
    url: String,
    client: reqwest::Client,
    runtime: Runtime,
}

impl Api {
    fn new(cluster: &Cluster) -> anyhow::Result<Api> {
        let client = reqwest::Client::builder().timeout(ANSWER).build()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Api { url: cluster.api().to_owned(), client, runtime })
    }

    /// The health; `None`: no answer just now.
    pub(crate) fn health(&self) -> Option<Value> {
        self.get("/v1/health")
    }

    /// What there is at a path; `None`: no answer just now.
    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        serde_json::from_str(&self.text(path)?).ok()
    }

    /// What workers have answered so far about sessions by their ids, in this process's life: how many in all, and each range's
    /// upper end in seconds with how many answers took no longer.
    pub(crate) fn answers(&self) -> Option<(u64, Vec<(String, u64)>)> {
        let text = self.text("/metrics")?;
        let ranges: Vec<(String, u64)> = text.lines().filter_map(answers_within).collect();
        Some((ranges.last()?.1, ranges))
    }

    fn text(&self, path: &str) -> Option<String> {
        self.runtime.block_on(async {
            let answer = self.client.get(format!("{}{path}", self.url)).send().await.ok()?;
            answer.error_for_status().ok()?.text().await.ok()
        })
    }
}

fn answers_within(line: &str) -> Option<(String, u64)> {
    let labels = line.strip_prefix("clawdstrike_peek_seconds_bucket{")?;
    let (labels, count) = labels.split_once("} ")?;
    let (_, range) = labels.split_once("le=\"")?;
    let is_wanted = labels.contains("question=\"sessions_by_id\"");
    is_wanted.then_some((range.split('"').next()?.to_owned(), count.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_answers_are_found_among_metrics() {
        let line = "clawdstrike_peek_seconds_bucket{question=\"sessions_by_id\",le=\"0.001\"} 12";
        assert_eq!(answers_within(line), Some(("0.001".to_owned(), 12)));
        for other in [
            "clawdstrike_peek_seconds_bucket{question=\"alerts\",le=\"0.001\"} 12",
            "clawdstrike_peek_seconds_count{question=\"sessions_by_id\"} 12",
            "# TYPE clawdstrike_peek_seconds histogram",
        ] {
            assert_eq!(answers_within(other), None);
        }
    }
}
