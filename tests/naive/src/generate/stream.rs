//! Random streams: records in time, copies and forgeries of them, lines that are no records, disorder, files.

use serde_json::{Value, json};

use super::dice::Dice;
use super::records::{Cast, Ids, invalid, record};
use super::{Sizes, start};
use crate::{Options, SECOND};

const MINUTE: i64 = 60 * SECOND;
const DAY: i64 = 1_440 * MINUTE;

/// A line, and when and where it arrives.
struct Line {
    /// Lines arrive in this order; a line of timestamp t at t to t + max_lateness, so that no reference time is more
    /// than that ahead of it.
    arrival: i64,
    /// Among lines of one arrival.
    tie: usize,
    file: usize,
    bytes: Vec<u8>,
    kind: Kind,
}

/// What a line does to its file's reference time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A record whose timestamp counts.
    Usable,
    /// A record whose timestamp lies beyond the wall clock.
    Ahead,
    /// No record.
    Broken,
}

/// How a stream is laid out.
struct Layout<'a> {
    seed: u64,
    sizes: &'a Sizes,
    max_lateness: i64,
    cast: Cast,
}

pub(super) fn files(seed: u64, sizes: &Sizes, options: &Options) -> Vec<Vec<u8>> {
    let layout = Layout { seed, sizes, max_lateness: options.max_lateness, cast: Cast::of(seed) };
    let mut lines = Vec::new();
    let mut grid = start(seed);
    let mut before: Option<(i64, Ids)> = None;
    for index in 0..sizes.records {
        let mut dice = Dice::of(seed, "time", index);
        grid += step(&mut dice);
        let mut time = grid + jitter(&mut dice);
        let mut ids = layout.cast.ids(&mut dice);
        if let Some((time_before, ids_before)) = &before
            && dice.permille(4)
        {
            // The same session exactly a session's retention later, or a microsecond more.
            grid = time_before + DAY;
            time = grid + dice.one(&[0, 1]);
            ids = ids_before.clone();
        }
        layout.lines(index, time, &ids, &mut lines);
        before = Some((time, ids));
    }
    lines.sort_by_key(|line| (line.arrival, line.tie));
    join(lines, sizes.files)
}

/// The time to the next record on a coarse grid: ties and exact windows are common.
fn step(dice: &mut Dice) -> i64 {
    let halves = match dice.below(100) {
        0..45 => 0,
        45..60 => 1,
        60..80 => 2,
        80..88 => 4,
        88..94 => 10,
        94..97 => 20,
        97..99 => 60,
        _ => 122,
    };
    halves * SECOND / 2
}

/// Sometimes a record misses the grid by the least that counts.
fn jitter(dice: &mut Dice) -> i64 {
    if dice.chance(8) { dice.one(&[-1, 1]) } else { 0 }
}

impl Layout<'_> {
    /// The lines of one record: itself, perhaps copies, a forgery under its id, a broken one, a blank one.
    fn lines(&self, index: usize, time: i64, ids: &Ids, lines: &mut Vec<Line>) {
        let mut dice = Dice::of(self.seed, "record", index);
        let valid = record(&mut dice, index, ids, time, self.sizes.anonymous);
        let mut dice = Dice::of(self.seed, "lines", index);
        if dice.permille(self.sizes.untimely) {
            return self.untimely(&mut dice, time, valid, lines);
        }
        let bytes = valid.to_string().into_bytes();
        let copies = if dice.chance(7) { 1 + dice.below(2) } else { 0 };
        for _ in 0..=copies {
            lines.push(self.timely(&mut dice, time, bytes.clone()));
        }
        if dice.chance(3) {
            let mut forged = valid.clone();
            forged["result"]["allowed"] = json!(dice.chance(50));
            forged["result"]["message"] = json!(format!("forged {}", dice.below(3)));
            let forged = forged.to_string().into_bytes();
            lines.push(self.timely(&mut dice, time, forged));
        }
        if dice.chance(3) {
            let broken = invalid(&mut dice, &valid);
            lines.push(self.broken(&mut dice, time, broken));
        }
        if dice.chance(1) {
            let blank = dice.one(&[b"".to_vec(), b" \t".to_vec(), b"\r".to_vec()]);
            lines.push(self.broken(&mut dice, time, blank));
        }
    }

    /// A line that arrives in some file within the lateness.
    fn timely(&self, dice: &mut Dice, time: i64, bytes: Vec<u8>) -> Line {
        let late = self.sizes.disorder && dice.chance(50);
        Line {
            arrival: time + if late { dice.up_to(self.max_lateness) } else { 0 },
            tie: dice.below(1 << 20),
            file: dice.below(self.sizes.files),
            bytes,
            kind: Kind::Usable,
        }
    }

    /// A line that isn't a record.
    fn broken(&self, dice: &mut Dice, time: i64, bytes: Vec<u8>) -> Line {
        Line { kind: Kind::Broken, ..self.timely(dice, time, bytes) }
    }

    /// A record that is too late, has a copy that is, or is ahead of the wall clock; all in one file.
    fn untimely(&self, dice: &mut Dice, time: i64, mut valid: Value, lines: &mut Vec<Line>) {
        let mut line = self.timely(dice, time, valid.to_string().into_bytes());
        let file = line.file;
        match dice.below(3) {
            0 => line.arrival = self.too_late(dice, time),
            1 => lines.push(Line {
                arrival: self.too_late(dice, time),
                file,
                ..self.timely(dice, time, line.bytes.clone())
            }),
            _ => {
                valid["timestamp"] = json!("2099-12-31T23:59:59Z");
                line.bytes = valid.to_string().into_bytes();
                line.kind = Kind::Ahead;
            }
        }
        lines.push(line);
    }

    /// Mostly a little too late, sometimes about as late as copies are recognised by default.
    fn too_late(&self, dice: &mut Dice, time: i64) -> i64 {
        let by = if dice.chance(80) {
            dice.up_to(2 * self.max_lateness + 10 * SECOND)
        } else {
            9 * MINUTE + dice.up_to(2 * MINUTE)
        };
        time + self.max_lateness + 1 + by
    }
}

/// The files' bytes. A file's first record isn't ahead of the wall clock: that would be the one case in which a
/// reference time goes back.
fn join(lines: Vec<Line>, files: usize) -> Vec<Vec<u8>> {
    let mut joined = vec![Vec::new(); files];
    let mut begun = vec![false; files];
    for line in lines {
        begun[line.file] |= line.kind == Kind::Usable;
        if begun[line.file] || line.kind == Kind::Broken {
            joined[line.file].extend(line.bytes);
            joined[line.file].push(b'\n');
        }
    }
    joined
}
