//! `up`: starts all processes of the cluster on this machine and watches over them. When one ends or hangs, all end: a
//! generation comes and goes as a whole, and the next goes on from the checkpoint. A first one that can't start is an error.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Config;

/// What process 0 writes to its standard error, as a line, while epochs close on all workers of all processes. No line of
/// its log begins like this.
pub const ALIVE: &str = "\u{1}alive";
/// What every process writes likewise from its start to its end, whatever else it does, unless it was stopped.
pub const AWAKE: &str = "\u{1}awake";
/// How often they do.
pub const BEAT: Duration = Duration::from_millis(500);
/// Without a beat for so long, a process hangs.
const HUNG: Duration = Duration::from_secs(4);
/// How long a process may take until it is awake: its program may have to come from a slow disk.
const WAKE: Duration = Duration::from_secs(20);
/// How long a generation may take until epochs close: a large checkpoint has to be read.
const START: Duration = Duration::from_secs(120);
/// Generations in a row that may end early before the supervisor gives up.
const RESTARTS: u32 = 10;
/// The first pause before a new generation; it doubles, ...
const PAUSE: Duration = Duration::from_millis(100);
/// ... up to this.
const PAUSE_AT_MOST: Duration = Duration::from_secs(5);
/// A generation that was up for so long did not end early.
const STEADY: Duration = Duration::from_secs(10);
/// How long processes may take to stop in good order before they are killed.
const STOP: Duration = Duration::from_secs(30);
/// How often processes are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Lines of a process's log that an error repeats.
const LAST_LINES: usize = 5;

/// What to bring up.
pub struct Up {
    /// The configuration.
    pub config: Config,
    /// Its absolute path, for the processes.
    pub path: PathBuf,
    /// Further arguments for process 0.
    pub head_args: Vec<String>,
    /// A further program that runs beside the cluster and stops with it: the simulator's arguments.
    pub simulate: Option<Vec<String>>,
    /// Set to stop.
    pub stop: Arc<AtomicBool>,
}

struct Running {
    name: String,
    child: Child,
    last_lines: Arc<Mutex<VecDeque<String>>>,
    log: std::thread::JoinHandle<()>,
    beats: Arc<Mutex<Beats>>,
}

/// When a process last said that it was awake, and that epochs close.
#[derive(Clone, Copy, Default)]
struct Beats {
    awake: Option<Instant>,
    alive: Option<Instant>,
}

/// Runs the cluster until it is told to stop.
///
/// # Errors
/// A process can't start, or generations end again and again; the text repeats the last lines of the log.
pub fn run(up: &Up) -> Result<(), String> {
    let mut simulator = None;
    let mut ended_in_a_row = 0;
    loop {
        let began = Instant::now();
        let mut generation = start(up)?;
        if simulator.is_none()
            && let Some(args) = &up.simulate
        {
            simulator = Some(spawn("simulate", args)?);
        }
        let end = watch(up, &mut generation, began);
        let was_up = generation.iter().any(|running| beats(running).alive.is_some());
        let Some(End { reason, refused }) = end else {
            stop_all(generation);
            if let Some(simulator) = simulator {
                stop_all(vec![simulator]);
            }
            return Ok(());
        };
        kill_all(generation);
        let is_first = ended_in_a_row == 0;
        ended_in_a_row = if began.elapsed() > STEADY { 1 } else { ended_in_a_row + 1 };
        if is_first && refused && !was_up || ended_in_a_row > RESTARTS {
            if let Some(simulator) = simulator {
                stop_all(vec![simulator]);
            }
            return Err(match ended_in_a_row {
                0 | 1 => reason,
                n => format!("{n} times in a row the cluster ended soon after its start; the last time:\n{reason}"),
            });
        }
        let pause = (PAUSE * 2u32.pow(ended_in_a_row - 1)).min(PAUSE_AT_MOST);
        tracing::error!("{reason}\nThe cluster starts again in {pause:?} and goes on from its checkpoint");
        std::thread::sleep(pause);
    }
}

fn start(up: &Up) -> Result<Vec<Running>, String> {
    let mesh =
        if up.config.cluster.addresses.is_empty() { free_addresses(up.config.cluster.processes)? } else { Vec::new() };
    let mut generation = Vec::new();
    for process in 0..up.config.cluster.processes {
        let mut args = vec!["worker".to_owned(), "--config".to_owned(), up.path.display().to_string()];
        args.extend(["--process".to_owned(), process.to_string(), "--supervised".to_owned()]);
        if !mesh.is_empty() {
            args.extend(["--mesh".to_owned(), mesh.join(",")]);
        }
        if process == 0 {
            args.extend(up.head_args.iter().cloned());
        }
        match spawn(&format!("process {process}"), &args) {
            Ok(running) => generation.push(running),
            Err(error) => {
                stop_all(generation);
                return Err(error);
            }
        }
    }
    Ok(generation)
}

/// Ports that are free now, on loopback; held until all are chosen.
fn free_addresses(n: usize) -> Result<Vec<String>, String> {
    let listeners: Result<Vec<_>, _> = (0..n).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect();
    let addresses: Result<Vec<_>, _> =
        listeners.and_then(|all| all.iter().map(|l| l.local_addr().map(|a| a.to_string())).collect());
    addresses.map_err(|e| format!("no free ports on 127.0.0.1 for the mesh: {e}; give [cluster] addresses"))
}

fn spawn(name: &str, args: &[String]) -> Result<Running, String> {
    let explain = |e: std::io::Error| format!("{name} can't be started: {e}");
    let program = std::env::current_exe().map_err(explain)?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::inherit())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(explain)?;
    let last_lines = Arc::new(Mutex::new(VecDeque::new()));
    let stderr = child.stderr.take();
    let (prefix, keep) = (name.to_owned(), last_lines.clone());
    let beats = Arc::new(Mutex::new(Beats::default()));
    let heard = beats.clone();
    let log = std::thread::spawn(move || {
        for line in stderr.into_iter().flat_map(|s| BufReader::new(s).lines()) {
            let Ok(line) = line else { return };
            if line == ALIVE || line == AWAKE {
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                let beat = if line == ALIVE { &mut heard.alive } else { &mut heard.awake };
                *beat = Some(Instant::now());
                continue;
            }
            eprintln!("[{prefix}] {line}");
            let mut last = keep.lock().unwrap_or_else(PoisonError::into_inner);
            if last.len() == LAST_LINES {
                last.pop_front();
            }
            last.push_back(line);
        }
    });
    Ok(Running { name: name.to_owned(), child, last_lines, log, beats })
}

/// Why a generation has ended.
struct End {
    reason: String,
    /// A process ended for a reason of its own: it wasn't killed.
    refused: bool,
}

/// Waits until a process has ended or hangs (why?) or the supervisor is told to stop.
fn watch(up: &Up, generation: &mut [Running], began: Instant) -> Option<End> {
    while !up.stop.load(Ordering::Relaxed) {
        for (at, running) in generation.iter_mut().enumerate() {
            if let Ok(Some(_)) = running.child.try_wait() {
                let failed = first_to_fail(generation);
                return Some(End { reason: why(&generation[failed.unwrap_or(at)]), refused: failed.is_some() });
            }
        }
        let slept = |running: &&Running| beats(running).awake.is_none() && began.elapsed() > WAKE;
        if let Some(stopped) = generation.iter().find(|running| is_silent(running) || slept(running)) {
            return Some(End { reason: format!("{} hangs or was stopped", stopped.name), refused: false });
        }
        let quiet = match generation.first().and_then(|first| beats(first).alive) {
            Some(last) => last.elapsed() > HUNG,
            None => began.elapsed() > START,
        };
        if quiet {
            return Some(End { reason: "not all workers close epochs".to_owned(), refused: false });
        }
        std::thread::sleep(LOOK);
    }
    None
}

fn beats(running: &Running) -> Beats {
    *running.beats.lock().unwrap_or_else(PoisonError::into_inner)
}

/// It no longer says that it is awake.
fn is_silent(running: &Running) -> bool {
    beats(running).awake.is_some_and(|last| last.elapsed() > HUNG)
}

/// When one process ends its peers abort: name the one that ended for a reason of its own.
fn first_to_fail(generation: &mut [Running]) -> Option<usize> {
    std::thread::sleep(LOOK * 4);
    let status = |r: &mut Running| r.child.try_wait().ok().flatten();
    generation.iter_mut().position(|r| status(r).is_some_and(|s| s.code() == Some(1)))
}

fn why(running: &Running) -> String {
    let last = running.last_lines.lock().unwrap_or_else(PoisonError::into_inner);
    let lines: Vec<&str> = last.iter().map(String::as_str).collect();
    format!("{} has ended; its last words:\n{}", running.name, lines.join("\n"))
}

/// Ends all at once: there is nothing that the checkpoint hasn't.
fn kill_all(mut generation: Vec<Running>) {
    for running in &mut generation {
        // It may have ended by itself.
        if let Err(error) = running.child.kill() {
            tracing::debug!("{}: {error}", running.name);
        }
    }
    generation.into_iter().for_each(bury);
}

/// Waits for what has been killed or has ended by itself.
fn bury(mut running: Running) {
    if let Err(error) = running.child.wait() {
        tracing::error!("{} can't be waited for: {error}", running.name);
    }
    if running.log.join().is_err() {
        tracing::error!("the log of {} was lost", running.name);
    }
}

/// Asks all to stop, waits, and kills what doesn't; all of them once one hangs, which the others would wait for. Closing a
/// child's standard input is the request: it works for every child, and also when this process is killed.
fn stop_all(generation: Vec<Running>) {
    let mut left: Vec<Running> = generation;
    for running in &mut left {
        drop(running.child.stdin.take());
    }
    let deadline = Instant::now() + STOP;
    while Instant::now() < deadline && left.iter_mut().any(|r| !has_ended(r)) {
        if left.iter_mut().any(|r| is_silent(r) && !has_ended(r)) {
            break;
        }
        std::thread::sleep(LOOK);
    }
    for mut running in left {
        if !has_ended(&mut running) {
            tracing::error!("{} did not stop in good order and is killed", running.name);
            if let Err(error) = running.child.kill() {
                tracing::error!("{} can't be killed: {error}", running.name);
            }
        }
        bury(running);
    }
}

fn has_ended(running: &mut Running) -> bool {
    let status: std::io::Result<Option<ExitStatus>> = running.child.try_wait();
    !matches!(status, Ok(None))
}
