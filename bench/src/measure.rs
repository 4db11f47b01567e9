//! Wall and CPU time of a piece of work, and the table of them. CPU time is the whole process's, from `/proc/self/stat` (in
//! ticks of 10 ms), so a reader thread's share counts.

use std::time::{Duration, Instant};

/// A measurement.
#[derive(Clone, Copy)]
pub struct Measured {
    /// From start to end.
    pub wall: Duration,
    /// Of all threads.
    pub cpu: Duration,
}

/// The fastest of some runs, by CPU time.
pub fn measure(runs: usize, mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Measured> {
    let mut best: Option<Measured> = None;
    for _ in 0..runs.max(1) {
        let measured = once(&mut work)?;
        best = Some(best.filter(|b| b.cpu <= measured.cpu).unwrap_or(measured));
    }
    best.ok_or_else(|| anyhow::anyhow!("no run"))
}

fn once(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Measured> {
    let (wall, cpu) = (Instant::now(), cpu_time()?);
    work()?;
    Ok(Measured { wall: wall.elapsed(), cpu: cpu_time()?.saturating_sub(cpu) })
}

/// CPU time of this process so far.
pub fn cpu_time() -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field is the name in parentheses; user and system time are the 14th and 15th.
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// The most memory that this process has had, in MiB.
pub fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib: u64 = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0);
    kib / 1024
}

/// Rows with ratios to the first.
pub struct Table {
    events: u64,
    rows: Vec<(String, Measured)>,
}

impl Table {
    /// Of a stream of so many events.
    pub fn new(events: u64) -> Table {
        Table { events, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, name: &str, measured: Measured) {
        eprintln!("measured: {name}");
        self.rows.push((name.to_owned(), measured));
    }

    /// Prints all rows.
    pub fn print(&self) {
        println!("{:40} {:>12} {:>12} {:>14} {:>8}", "", "events/s", "CPU ns/event", "events/CPU-s", "of first");
        let first = self.rows.first().map_or(1.0, |(_, m)| m.cpu.as_secs_f64());
        for (name, m) in &self.rows {
            let n = self.events as f64;
            println!(
                "{name:40} {:>12.0} {:>12.0} {:>14.0} {:>7.0}%",
                n / m.wall.as_secs_f64(),
                m.cpu.as_secs_f64() * 1e9 / n,
                n / m.cpu.as_secs_f64(),
                100.0 * first / m.cpu.as_secs_f64()
            );
        }
    }
}
