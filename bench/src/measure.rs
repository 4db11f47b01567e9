//! Wall time, CPU time and memory of a piece of work, and the table of them. CPU time is the whole process's, from
//! `/proc/self/stat` (in ticks of 10 ms), so a reader thread's share counts.

use std::time::{Duration, Instant};

/// A measurement.
#[derive(Clone, Copy)]
pub struct Measured {
    /// From start to end.
    pub wall: Duration,
    /// Of all threads.
    pub cpu: Duration,
    /// The most memory that the process had, MiB.
    pub peak_mib: u64,
}

/// A row to be measured.
pub struct Row<'a> {
    /// What it is.
    pub name: String,
    /// The work.
    work: Box<dyn FnMut() -> anyhow::Result<()> + 'a>,
}

impl<'a> Row<'a> {
    /// A row.
    pub fn new(name: &str, work: impl FnMut() -> anyhow::Result<()> + 'a) -> Row<'a> {
        Row { name: name.to_owned(), work: Box::new(work) }
    }
}

/// The fastest of some runs of each row, by the time that `by` takes of it. Rows take turns, so that a slow minute of the machine
/// slows all.
pub fn measure(
    runs: usize,
    rows: Vec<Row<'_>>,
    by: impl Fn(&Measured) -> Duration,
) -> anyhow::Result<Vec<(String, Measured)>> {
    let mut best: Vec<Option<Measured>> = vec![None; rows.len()];
    let (names, mut work): (Vec<_>, Vec<_>) = rows.into_iter().map(|row| (row.name, row.work)).unzip();
    for run in 0..runs.max(1) {
        for ((name, work), best) in names.iter().zip(&mut work).zip(&mut best) {
            let measured = once(work)?;
            eprintln!("run {} of {name}: {:.0?}", run + 1, by(&measured));
            *best = Some(best.filter(|b| by(b) <= by(&measured)).unwrap_or(measured));
        }
    }
    Ok(names.into_iter().zip(best).filter_map(|(name, best)| Some((name, best?))).collect())
}

fn once(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Measured> {
    // Makes the kernel count the peak anew (proc_pid_clear_refs(5)).
    std::fs::write("/proc/self/clear_refs", "5")?;
    let (wall, cpu) = (Instant::now(), cpu_time()?);
    work()?;
    Ok(Measured { wall: wall.elapsed(), cpu: cpu_time()?.saturating_sub(cpu), peak_mib: peak_mib() })
}

/// CPU time of this process so far.
pub fn cpu_time() -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field is the name in parentheses; user and system time are the 14th and 15th.
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// The most memory that this process has had since the peak was last counted anew, in MiB.
pub fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib: u64 = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0);
    kib / 1024
}

/// Groups of rows: events a CPU second against the very first row's, cost against the first row of the group.
pub struct Table {
    events: u64,
    groups: Vec<Vec<(String, Measured)>>,
}

impl Table {
    /// Of a stream of so many events.
    pub fn new(events: u64) -> Table {
        Table { events, groups: Vec::new() }
    }

    /// Adds rows that are compared with each other.
    pub fn group(&mut self, rows: Vec<(String, Measured)>) {
        self.groups.push(rows);
    }

    /// Prints all rows.
    pub fn print(&self) {
        let heads = ["events/s", "CPU ns/event", "of parsing", "cost", "peak MiB"];
        println!("{:40} {:>12} {:>12} {:>10} {:>6} {:>8}", "", heads[0], heads[1], heads[2], heads[3], heads[4]);
        let cpu = |m: &Measured| m.cpu.as_secs_f64();
        let first = self.groups.iter().flatten().next().map_or(1.0, |(_, m)| cpu(m));
        for group in &self.groups {
            let base = group.first().map_or(1.0, |(_, m)| cpu(m));
            for (name, m) in group {
                println!(
                    "{name:40} {:>12.0} {:>12.0} {:>9.0}% {:>6.2} {:>8}",
                    self.events as f64 / m.wall.as_secs_f64(),
                    cpu(m) * 1e9 / self.events as f64,
                    100.0 * first / cpu(m),
                    cpu(m) / base,
                    m.peak_mib
                );
            }
        }
    }
}
