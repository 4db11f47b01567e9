//! From a real broker on this machine to alerts: one process of one worker that reads a backlog, without a store.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clawdstrike_edr::config::Config;
use clawdstrike_edr::runtime::process::{self, Process};
use clawdstrike_test_services::Kafka;

use crate::measure::{Measured, cpu_time, peak_mib};

/// How long the backlog may take.
const DEADLINE: Duration = Duration::from_secs(300);

/// Starts a broker, fills it with the files' events, and reads them.
pub fn to_alerts(files: &[PathBuf], events: u64) -> anyhow::Result<Measured> {
    let broker = clawdstrike_test_services::kafka().map_err(anyhow::Error::msg)?;
    broker.create_topic("agent.events", 6, &[]).map_err(anyhow::Error::msg)?;
    broker.create_topic("agent.violations", 6, &[]).map_err(anyhow::Error::msg)?;
    files.iter().try_for_each(|file| produce(&broker, file))?;
    let folder = tempfile::tempdir()?;
    std::fs::create_dir_all(folder.path().join("rules"))?;
    std::fs::write(folder.path().join("rules/brief.yaml"), crate::BRIEF)?;
    let text = format!(
        "[[source]]\ntype = \"kafka\"\nname = \"kafka\"\nbrokers = \"{}\"\n[store]\ntype = \"none\"\n[api]\nlisten = \"127.0.0.1:0\"\nallow_anonymous = true\n",
        broker.bootstrap()
    );
    let path = folder.path().join("workers.toml");
    std::fs::write(&path, text)?;
    let config = Config::load(&path).map_err(anyhow::Error::msg)?;
    read(config, events)
}

/// Through Kafka's own producer: one record a line.
fn produce(broker: &Kafka, file: &Path) -> anyhow::Result<()> {
    let lines = std::fs::read_to_string(file)?;
    let bootstrap = broker.bootstrap();
    let args = ["--bootstrap-server", &bootstrap, "--topic", "agent.events", "--batch-size", "262144"];
    broker.tool("org.apache.kafka.tools.ConsoleProducer", &args, &lines).map_err(anyhow::Error::msg)?;
    Ok(())
}

/// From the first event that the engine has taken to the last: starting and stopping aren't what is measured.
fn read(config: Config, events: u64) -> anyhow::Result<Measured> {
    let (done, measured) = mpsc::channel();
    let ready = move |handle: clawdstrike_edr::runtime::handle::Handle, _| {
        tokio::spawn(async move {
            let began = Instant::now();
            let mut first = None;
            while began.elapsed() < DEADLINE {
                let taken = handle.stats().events;
                if taken > 0 && first.is_none() {
                    first = Some((taken, Instant::now(), cpu_time()));
                }
                if taken >= events {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let result =
                first.ok_or_else(|| anyhow!("no event was taken within {DEADLINE:?}")).and_then(|(taken, at, cpu)| {
                    let share = events as f64 / (events - taken).max(1) as f64;
                    let (wall, cpu) = (at.elapsed(), cpu_time()?.saturating_sub(cpu?));
                    Ok(Measured { wall: wall.mul_f64(share), cpu: cpu.mul_f64(share), peak_mib: peak_mib() })
                });
            // Nobody waits for it only if the process couldn't start, which is told below.
            let _told = done.send(result);
            // As an operator would: the process stops in good order.
            let stopped = Command::new("kill").args(["-TERM", &std::process::id().to_string()]).status();
            if let Err(error) = stopped {
                eprintln!("kill: {error}");
            }
        });
    };
    let (api, state) = (config.api.clone(), config.cluster.state.clone());
    let serve: process::Serve = Box::new(move |handle, stopped| {
        Box::pin(async move { clawdstrike_edr::api::serve(&api, &state, handle, stopped).await })
    });
    process::run(Process { config, index: 0, mesh: Vec::new(), supervised: false, serve, ready: Box::new(ready) })
        .map_err(|e| anyhow!(e))?;
    measured.recv()?
}
