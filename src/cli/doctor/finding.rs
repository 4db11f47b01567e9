//! What a check found.

use serde::Serialize;

use super::super::output::shorten;

/// Of a text from elsewhere this much is shown.
const SHOWN_CHARS: usize = 2_000;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// The engine runs, and somebody should know.
    Warning,
    /// The engine doesn't start, or this part of it doesn't work.
    Error,
}

impl Level {
    /// As it is printed.
    pub(super) fn name(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    /// How bad it is.
    pub(super) level: Level,
    /// Of which part.
    pub(super) part: String,
    /// What was seen.
    pub(super) seen: String,
    /// What to do; empty if there is nothing to do, or `seen` says it.
    pub(super) way_out: String,
}

impl Finding {
    pub(super) fn ok(part: impl Into<String>, seen: impl AsRef<str>) -> Finding {
        Finding::new(Level::Ok, part, seen, "")
    }

    pub(super) fn warning(part: impl Into<String>, seen: impl AsRef<str>, way_out: impl Into<String>) -> Finding {
        Finding::new(Level::Warning, part, seen, way_out)
    }

    pub(super) fn error(part: impl Into<String>, seen: impl AsRef<str>, way_out: impl Into<String>) -> Finding {
        Finding::new(Level::Error, part, seen, way_out)
    }

    fn new(level: Level, part: impl Into<String>, seen: impl AsRef<str>, way_out: impl Into<String>) -> Finding {
        let seen = shorten(seen.as_ref(), SHOWN_CHARS).into_owned();
        Finding { level, part: part.into(), seen, way_out: way_out.into() }
    }
}

/// Clocks further apart than this are worth a word, in microseconds.
const CLOCKS_APART: i64 = 5_000_000;

/// How another clock compares with this machine's, if it is too far off.
pub(super) fn clock(part: &str, whose: &str, ahead: i64) -> Option<Finding> {
    let seconds = ahead as f64 / 1e6;
    (ahead.abs() > CLOCKS_APART).then(|| {
        Finding::warning(
            part,
            format!("{whose} clock is {seconds:+.1} s from this machine's"),
            "let a time service (NTP) set both",
        )
    })
}
