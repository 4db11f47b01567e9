//! The services that runs share: each run has a topic, a group and a database of its own.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::ValueEnum;
use clawdstrike_test_services::{Kafka, Postgres, Service, kafka, postgres};

/// Where records come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SourceKind {
    /// A topic of a real broker.
    Kafka,
    /// A file that grows.
    Jsonl,
}

/// Where rows go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StoreKind {
    /// A real server.
    Postgres,
    /// A file.
    Sqlite,
}

/// What a cluster runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Where records come from.
    pub source: SourceKind,
    /// Where rows go.
    pub store: StoreKind,
}

/// Running services.
pub struct Services {
    pub(crate) kafka: Option<Arc<Kafka>>,
    pub(crate) postgres: Option<Arc<Postgres>>,
}

impl Services {
    /// Starts those that the setup needs.
    ///
    /// # Errors
    /// Why one can't be started, and what it needs.
    pub fn start(setup: Setup) -> anyhow::Result<Services> {
        let broker = (setup.source == SourceKind::Kafka).then(|| std::thread::spawn(kafka));
        let server = (setup.store == StoreKind::Postgres).then(|| std::thread::spawn(postgres));
        Ok(Services { kafka: started(broker)?, postgres: started(server)? })
    }
}

fn started<T>(starting: Option<JoinHandle<Result<T, String>>>) -> anyhow::Result<Option<Arc<T>>> {
    let Some(starting) = starting else { return Ok(None) };
    let service = starting.join().map_err(|_| anyhow!("starting a service panicked"))?;
    service.map(|service| Some(Arc::new(service))).map_err(anyhow::Error::msg)
}

/// A service that is away for a while.
pub(crate) struct Outage(JoinHandle<Result<(), String>>);

impl Outage {
    /// Kills it now, and starts it again after so long.
    pub(crate) fn begin(service: &Arc<impl Service>, pause: Duration) -> anyhow::Result<Outage> {
        service.kill().map_err(anyhow::Error::msg)?;
        let service = service.clone();
        Ok(Outage(std::thread::spawn(move || {
            std::thread::sleep(pause);
            service.restart()
        })))
    }

    /// Waits until it is back.
    pub(crate) fn end(self) -> anyhow::Result<()> {
        let back = self.0.join().map_err(|_| anyhow!("starting a service again panicked"))?;
        back.map_err(anyhow::Error::msg).context("a service that was killed doesn't start again")
    }
}
