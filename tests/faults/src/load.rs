//! Events at a rate, for as long as it takes, and attacks whenever they are asked for. Every session begins with an event that
//! opens the window of the only rule; an attack is the event that the rule waits for, in a session that has had none. So
//! what must come out is known without a judge. Knows no engine.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::anyhow;
use clawdstrike_telemetry::time;

use crate::log::Log;

/// The rule that attacks fulfil.
pub(crate) const RULE: &str = r#"rules:
  - id: EXFILTRATION
    name: exfiltration
    severity: high
    conditions:
      - type: sequence
        window: 1d
        events: [{event_type: file_access, target_glob: "/keys/*"}, {event_type: network_egress, target_glob: "evil.io*"}]
    actions: [alert_soc]
"#;

/// How often something is written.
const LITTLE: Duration = Duration::from_millis(5);
/// Events of the beginning that are written at once.
const SHARE: usize = 2_000;
/// Targets of ordinary events.
const TARGETS: u64 = 200;

/// What is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Ordinary events in a second.
    pub(crate) rate: u32,
    /// Sessions; each can be attacked once.
    pub(crate) sessions: usize,
    /// Partitions of the log.
    pub(crate) partitions: usize,
}

/// An attack whose last event was handed to the log.
#[derive(Clone, Debug)]
pub(crate) struct Attack {
    pub(crate) session: String,
    pub(crate) at: Instant,
}

/// A thread that writes.
pub(crate) struct Load {
    shared: Arc<Shared>,
    thread: JoinHandle<anyhow::Result<Log>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    wanted: AtomicUsize,
    events: AtomicUsize,
    attacks: Mutex<Vec<Attack>>,
}

impl Load {
    /// Writes every session's first event, and then starts to write at the plan's rate.
    pub(crate) fn start(mut log: Log, plan: Plan) -> anyhow::Result<Load> {
        let shared = Arc::new(Shared::default());
        let mut lines = Lines::new(plan);
        for from in (0..plan.sessions).step_by(SHARE) {
            let sessions = from..plan.sessions.min(from + SHARE);
            shared.events.fetch_add(sessions.len(), Ordering::Relaxed);
            sessions.for_each(|session| lines.add(session, "file_access", &format!("/keys/{session}")));
            lines.write(&mut log)?;
        }
        log.flush()?;
        let writing = shared.clone();
        let thread = std::thread::spawn(move || write(&writing, log, lines, plan));
        Ok(Load { shared, thread })
    }

    /// Asks for an attack.
    pub(crate) fn attack(&self) {
        self.shared.wanted.fetch_add(1, Ordering::Relaxed);
    }

    /// Events so far, attacks among them.
    pub(crate) fn events(&self) -> usize {
        self.shared.events.load(Ordering::Relaxed)
    }

    /// Attacks so far.
    pub(crate) fn attacks(&self) -> Vec<Attack> {
        self.shared.attacks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it goes on writing; else [`Load::stop`] says why not.
    pub(crate) fn is_writing(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Writes what was asked for, and no more.
    ///
    /// # Errors
    /// Why the log took no more.
    pub(crate) fn stop(self) -> anyhow::Result<(usize, Vec<Attack>)> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let log = self.thread.join().map_err(|_| anyhow!("the thread that writes panicked"))??;
        log.flush()?;
        let attacks = self.shared.attacks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok((self.shared.events.load(Ordering::Relaxed), attacks))
    }
}

fn write(shared: &Shared, mut log: Log, mut lines: Lines, plan: Plan) -> anyhow::Result<Log> {
    let began = Instant::now();
    let mut ordinary = 0usize;
    let mut attacked = 0;
    loop {
        let stopping = shared.stop.load(Ordering::Relaxed);
        let due = (began.elapsed().as_secs_f64() * f64::from(plan.rate)) as usize;
        let share = (due - ordinary).min(SHARE);
        for n in ordinary..ordinary + share {
            lines.add(n % plan.sessions, "file_access", &format!("/work/{}", n as u64 % TARGETS));
        }
        ordinary += share;
        let attacks: Vec<usize> = (attacked..shared.wanted.load(Ordering::Relaxed).min(plan.sessions)).collect();
        attacked += attacks.len();
        attacks.iter().for_each(|session| lines.add(*session, "network_egress", "evil.io:443"));
        shared.events.fetch_add(share + attacks.len(), Ordering::Relaxed);
        // Before the log has it, so that no alert is there before its attack.
        let now = Instant::now();
        let done = attacks.iter().map(|session| Attack { session: names(*session).1, at: now });
        shared.attacks.lock().unwrap_or_else(PoisonError::into_inner).extend(done);
        lines.write(&mut log)?;
        if stopping {
            return Ok(log);
        }
        if share < SHARE {
            // A rate, not a wait for anything.
            std::thread::sleep(LITTLE);
        }
    }
}

/// A session's agent, and its own name.
pub(crate) fn names(session: usize) -> (String, String) {
    (format!("a{}", session % 1_000), format!("s{session}"))
}

/// Lines that wait to be written, by partition.
struct Lines {
    partitions: Vec<Vec<u8>>,
    next: u64,
}

impl Lines {
    fn new(plan: Plan) -> Lines {
        Lines { partitions: vec![Vec::new(); plan.partitions], next: 0 }
    }

    /// As short as an event can be.
    fn add(&mut self, session: usize, event_type: &str, target: &str) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = time::format(i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
        let (id, (agent, session_id)) = (self.next, names(session));
        let line = format!(
            "{{\"event_id\":\"{id}\",\"agent_id\":\"{agent}\",\"session_id\":\"{session_id}\",\"timestamp\":\"{now}\",\
             \"event_type\":\"{event_type}\",\"action\":{{\"target\":\"{target}\"}},\
             \"result\":{{\"allowed\":true,\"guard\":\"g\",\"severity\":\"info\",\"message\":\"\"}},\"context\":{{}}}}\n"
        );
        self.next += 1;
        let partition = session % self.partitions.len();
        self.partitions[partition].extend_from_slice(line.as_bytes());
    }

    fn write(&mut self, log: &mut Log) -> anyhow::Result<()> {
        for (partition, bytes) in self.partitions.iter_mut().enumerate() {
            if !bytes.is_empty() {
                log.append(partition, bytes)?;
                bytes.clear();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawdstrike_telemetry::decode;

    #[test]
    fn sessions_begin_with_what_opens_the_window_and_attacks_come_once_each() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = Log::file(folder.path()).expect("a log");
        let load = Load::start(log, Plan { rate: 1_000, sessions: 5, partitions: 1 }).expect("a load");
        (0..7).for_each(|_| load.attack());
        let (events, attacks) = load.stop().expect("written");
        let sessions: Vec<&str> = attacks.iter().map(|attack| attack.session.as_str()).collect();
        assert_eq!(sessions, ["s0", "s1", "s2", "s3", "s4"], "no session twice");
        let text = std::fs::read(folder.path().join("data/0.jsonl")).expect("the log");
        let lines: Vec<&[u8]> = text.split(|b| *b == b'\n').filter(|line| !line.is_empty()).collect();
        assert_eq!(lines.len(), events);
        assert!(lines.iter().all(|line| decode(line).is_ok()));
        let first = decode(lines[0]).expect("an event");
        assert_eq!((first.session_id.as_ref(), first.target.as_ref()), ("s0", "/keys/0"));
    }
}
