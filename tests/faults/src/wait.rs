//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

use anyhow::bail;

/// Long enough for a busy machine; every wait ends as soon as its condition holds.
pub(crate) const DEADLINE: Duration = Duration::from_secs(100);

/// What `look` finds, as soon as it does; an error of its own, or that of the deadline.
pub(crate) fn wait<T>(what: &str, mut look: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("waited {DEADLINE:?} in vain for {what}");
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
}
