//! Random inputs for property tests: rule sets that compile, streams on which they fire, arrival disorder. All from a
//! seed, each rule and each record from its own part of it, so that smaller [`Sizes`] give a prefix of the same input
//! and a test can shrink. Knows nothing of what the rules mean.

mod dice;
mod matchers;
mod records;
mod rules;
mod stream;

use crate::{Options, SECOND};
use dice::Dice;

/// How much of the rule language is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// `sequence` with counts, `threshold` with count and unique targets, `pattern` with `all_of`; matchers on type,
    /// target and result; groups by session, agent, tenant and target; an allowlist as in the shipped example.
    Subset,
    /// Everything: also `without`, `until`, `any_of`, `distinct`, `absence`, `new_value`, several conditions, field
    /// operators, groups by any field, allowlists with time windows, expiry and rules.
    Full,
}

/// How much to generate; a property test shrinks these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Rules in the set.
    pub rules: usize,
    /// Records in the stream, before copies and such are added.
    pub records: usize,
    /// Files that the stream is split into, at least 1.
    pub files: usize,
    /// Whether some records have no event_id; such a record's identity is its position, so it changes with the order
    /// of arrival.
    pub anonymous: bool,
    /// Whether records arrive in another order than that of their timestamps, within `max_lateness`.
    pub disorder: bool,
    /// Of a thousand records, so many arrive later than `max_lateness`, have a copy that does, or lie beyond the wall
    /// clock. All lines of such a record are in one file, so what is kept doesn't depend on how files interleave.
    pub untimely: u32,
}

impl Default for Sizes {
    /// A case on which most rules have something to say, and which takes milliseconds.
    fn default() -> Sizes {
        Sizes { rules: 6, records: 150, files: 2, anonymous: true, disorder: true, untimely: 0 }
    }
}

/// A generated input.
#[derive(Clone, Debug)]
pub struct Case {
    /// A rule file.
    pub rules: String,
    /// Files of JSON lines.
    pub files: Vec<Vec<u8>>,
    /// Made for this stream; `max_lateness` differs from case to case.
    pub options: Options,
}

/// One case.
pub fn case(seed: u64, level: Level, sizes: &Sizes) -> Case {
    let max_lateness = Dice::of(seed, "options", 0).one(&[0, 1, 5, 30, 60]) * SECOND;
    let options = Options { max_lateness, ..Options::default() };
    Case { rules: rules(seed, level, sizes.rules), files: stream::files(seed, sizes, &options), options }
}

/// A rule file with the rules `R0`, `R1` and so on; YAML, one rule a line.
pub fn rules(seed: u64, level: Level, count: usize) -> String {
    rules::file(seed, level, count)
}

/// When the stream of this seed begins, microseconds since 1970: shortly before something changes for an allowlist.
fn start(seed: u64) -> i64 {
    // A Monday's 09:00 and 17:00, the midnight after a Friday, and the hour at which summer time begins in Berlin.
    const SHORTLY_BEFORE: [i64; 4] = [1_714_986_000, 1_715_014_800, 1_715_385_600, 1_711_846_800];
    (Dice::of(seed, "start", 0).one(&SHORTLY_BEFORE) - 90) * SECOND
}
