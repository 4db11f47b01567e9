//! The engine under test: `up` and the processes that it starts, in a folder that outlives them.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clawdstrike_test_services::{children, runs};

use crate::schedule::Shape;
use crate::wait::wait;

/// How a cluster is started, again and again.
pub(crate) struct Engine {
    /// The engine's program.
    pub(crate) binary: PathBuf,
    /// Holds configuration, rules, state and log.
    pub(crate) folder: PathBuf,
    /// The configuration but for the shape and the API.
    pub(crate) settings: String,
    /// Environment variables.
    pub(crate) environment: Vec<(String, String)>,
}

/// A running cluster.
pub(crate) struct Cluster {
    up: Child,
    binary: PathBuf,
    api: String,
}

impl Engine {
    pub(crate) fn start(&self, shape: Shape) -> anyhow::Result<Cluster> {
        let Shape { processes, threads } = shape;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = format!(
            "[cluster]\nprocesses = {processes}\nthreads = {threads}\n\
             [api]\nlisten = \"127.0.0.1:{port}\"\nallow_anonymous = true\n{}",
            self.settings
        );
        let path = self.folder.join("workers.toml");
        std::fs::write(&path, config)?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let up = Command::new(&self.binary)
            .args(["up", "--config"])
            .arg(path)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("\"{}\" can't be started", self.binary.display()))?;
        Ok(Cluster { up, binary: self.binary.clone(), api: format!("http://127.0.0.1:{port}") })
    }

    pub(crate) fn rules(&self) -> PathBuf {
        self.folder.join("rules")
    }

    /// The engine's own folder.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }
}

impl Cluster {
    /// Where its API is.
    pub(crate) fn api(&self) -> &str {
        &self.api
    }

    /// What it has of the machine's memory now, in MiB: `up`, and then each process.
    pub(crate) fn memory(&self) -> Vec<u64> {
        std::iter::once(self.up.id()).chain(self.processes()).map(resident).collect()
    }

    /// Its processes that run now.
    fn processes(&self) -> Vec<u32> {
        children(self.up.id())
    }

    /// One of its processes, if any runs just now.
    fn victim(&self, number: usize) -> Option<u32> {
        let processes = self.processes();
        processes.get(number % processes.len().max(1)).copied()
    }

    pub(crate) fn kill_process(&self, number: usize) {
        self.victim(number).into_iter().for_each(|pid| signal(pid, "KILL"));
    }

    pub(crate) fn stop_process(&self, number: usize) {
        self.victim(number).into_iter().for_each(|pid| signal(pid, "STOP"));
    }

    /// Stops a process for so long, unless it is killed meanwhile.
    pub(crate) fn pause_process(&self, number: usize, pause: Duration) {
        let Some(pid) = self.victim(number) else { return };
        signal(pid, "STOP");
        std::thread::sleep(pause);
        // Its number may be another program's by now.
        if self.processes().contains(&pid) {
            signal(pid, "CONT");
        }
    }

    /// SIGKILL to `up`; returns once its processes are gone, too.
    pub(crate) fn kill_all(mut self) -> anyhow::Result<()> {
        self.kill()
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        let processes = self.processes();
        // Collected by nobody yet, so its number is still its own.
        self.up.kill()?;
        self.up.wait()?;
        processes.into_iter().try_for_each(|pid| wait("the end of an orphan", || Ok((!runs(pid)).then_some(()))))
    }

    /// SIGTERM; it must end with success.
    pub(crate) fn terminate(mut self) -> anyhow::Result<()> {
        signal(self.up.id(), "TERM");
        let status = wait("the end of the cluster", || Ok(self.up.try_wait()?))?;
        if !status.success() {
            bail!("after SIGTERM the cluster ended with {status}");
        }
        Ok(())
    }

    /// Waits until a rule of this id is in force.
    pub(crate) fn await_rule(&mut self, id: &str) -> anyhow::Result<()> {
        let quoted = format!("\"{id}\"");
        wait(&format!("rule {quoted} in force"), || {
            self.check()?;
            let list = ["rules", "list", "--output", "json", "--api", &self.api];
            let listed = Command::new(&self.binary).args(list).output()?;
            Ok(String::from_utf8_lossy(&listed.stdout).contains(&quoted).then_some(()))
        })
    }

    /// Waits until no action is still to be sent.
    pub(crate) fn await_actions(&mut self) -> anyhow::Result<()> {
        wait("the end of all actions", || {
            self.check()?;
            let mut all_done = true;
            for state in ["pending", "sent"] {
                let list =
                    ["actions", "list", "--limit", "1", "--output", "json", "--state", state, "--api", &self.api];
                let listed = Command::new(&self.binary).args(list).output()?;
                let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap_or_default();
                all_done &= listed["total"] == 0;
            }
            Ok(all_done.then_some(()))
        })
    }

    /// An error if the supervisor has given up.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.up.try_wait()? {
            Some(status) => bail!("the cluster ended by itself with {status}"),
            None => Ok(()),
        }
    }
}

impl Drop for Cluster {
    /// After a failure nothing goes on behind the scenes.
    fn drop(&mut self) {
        if matches!(self.up.try_wait(), Ok(None))
            && let Err(error) = self.kill()
        {
            eprintln!("{error}");
        }
    }
}

/// A process's resident memory in MiB; 0 of one that is gone.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn signal(pid: u32, name: &str) {
    // It may have ended by itself meanwhile.
    let _ended = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).stderr(Stdio::null()).status();
}
