//! Child processes: tools that run to their end within a deadline, and servers that never outlive the test process.
//! Knows no service.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::files::{LOG, tail, told};

/// How often a condition is looked at again.
pub(crate) const POLL: Duration = Duration::from_millis(20);
/// How long a server may take to go after a signal that ends it at once.
const END_DEADLINE: Duration = Duration::from_secs(30);

/// Waits for the end of its input, which comes when the process that holds the other end dies, however it dies; then
/// ends the server ($1, by signal $2) and removes its folder ($3). A parent-death signal wouldn't do: it fires when the
/// *thread* that started the server ends, and each test has a thread of its own. Ten seconds, then by force.
const WATCHDOG: &str = r#"
trap '' HUP INT TERM
read -r _
kill -s "$2" "$1"
tries=0
while kill -0 "$1" && [ "$tries" -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
kill -s KILL "$1"
rm -rf -- "$3"
"#;

/// A server process with its watchdog. Dropping it ends the server.
pub(crate) struct Process {
    child: Child,
    watchdog: Child,
    end: Signal,
}

impl Process {
    /// Starts a server whose output is appended to the log in `folder`. `end` is the signal that ends it quickly, when
    /// its data is no longer needed.
    pub(crate) fn spawn(command: &mut Command, folder: &Path, end: Signal) -> Result<Self, String> {
        let log = folder.join(LOG);
        let output = File::options().create(true).append(true).open(&log).map_err(|e| told("open", &log, &e))?;
        let errors = output.try_clone().map_err(|e| told("open", &log, &e))?;
        // A group of its own, so that Ctrl-C in a terminal reaches the test process alone.
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        let child = spawn(command)?;
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(child.id().to_string())
            .arg(end.as_raw().to_string())
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        match watchdog {
            Ok(watchdog) => Ok(Self { child, watchdog, end }),
            Err(e) => {
                finish(child);
                Err(format!("can't start \"sh\" as a watchdog: {e}"))
            }
        }
    }

    /// How the server ended, if it has.
    pub(crate) fn exited(&mut self) -> Result<Option<ExitStatus>, String> {
        self.child.try_wait().map_err(|e| format!("can't look after process {}: {e}", self.child.id()))
    }

    /// Sends a signal; whether the server ended by the deadline, and its children with it: PostgreSQL's go a little after it when
    /// it is killed, and until then it can't be started again.
    pub(crate) fn end(&mut self, signal: Signal, deadline: Duration) -> Result<bool, String> {
        if self.exited()?.is_some() {
            return Ok(true);
        }
        let pid = self.child.id();
        let children = children(pid);
        // Not yet waited for, so the id can't be another process's.
        kill_process(Pid::from_child(&self.child), signal)
            .map_err(|e| format!("can't send signal {} to process {pid}: {e}", signal.as_raw()))?;
        let until = Instant::now() + deadline;
        while self.exited()?.is_none() || children.iter().any(|child| runs(*child)) {
            if Instant::now() >= until {
                return Ok(false);
            }
            sleep(POLL);
        }
        Ok(true)
    }
}

/// Ids of a process's children.
pub fn children(pid: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    listed.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// A process that is neither gone nor a zombie.
pub fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

impl Drop for Process {
    fn drop(&mut self) {
        match self.end(self.end, END_DEADLINE) {
            Ok(true) => {}
            Ok(false) => eprintln!(
                "process {} didn't end within {} s of its signal; it is killed",
                self.child.id(),
                END_DEADLINE.as_secs()
            ),
            Err(e) => eprintln!("{e}"),
        }
        for child in [&mut self.child, &mut self.watchdog] {
            if let Err(e) = child.kill().and_then(|()| child.wait()) {
                eprintln!("can't end process {}: {e}", child.id());
            }
        }
    }
}

/// Runs a tool to its end, its input the text `input`, its files in `folder`. Returns its standard output; if it fails
/// or takes longer than the deadline, an error with the end of both its outputs.
pub(crate) fn run(command: &mut Command, input: &str, folder: &Path, deadline: Duration) -> Result<String, String> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = |what: &str| folder.join(format!("tool-{number}.{what}"));
    let (stdin, stdout, stderr) = (path("in"), path("out"), path("err"));
    fs::write(&stdin, input).map_err(|e| told("write", &stdin, &e))?;
    command
        .stdin(File::open(&stdin).map_err(|e| told("open", &stdin, &e))?)
        .stdout(File::create(&stdout).map_err(|e| told("create", &stdout, &e))?)
        .stderr(File::create(&stderr).map_err(|e| told("create", &stderr, &e))?);
    let mut child = spawn(command)?;
    let name = command.get_program().to_string_lossy().into_owned();
    let until = Instant::now() + deadline;
    let outcome = loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => break Ok(()),
            Ok(Some(status)) => break Err(format!("\"{name}\" ended with {status}")),
            Ok(None) if Instant::now() < until => sleep(POLL),
            Ok(None) => {
                finish(child);
                break Err(format!("\"{name}\" didn't end within {} s", deadline.as_secs()));
            }
            Err(e) => break Err(format!("can't wait for \"{name}\": {e}")),
        }
    };
    outcome.map_err(|e| format!("{e}; its output ended:\n{}\n{}", tail(&stdout), tail(&stderr)))?;
    fs::read_to_string(&stdout).map_err(|e| told("read", &stdout, &e))
}

fn spawn(command: &mut Command) -> Result<Child, String> {
    command.spawn().map_err(|e| {
        let name = command.get_program().to_string_lossy();
        match e.kind() {
            ErrorKind::NotFound => format!("\"{name}\" isn't on PATH"),
            _ => format!("can't start \"{name}\": {e}"),
        }
    })
}

fn finish(mut child: Child) {
    if let Err(e) = child.kill().and_then(|()| child.wait()) {
        eprintln!("can't end process {}: {e}", child.id());
    }
}
