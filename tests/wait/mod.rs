//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

/// Long enough for a busy machine; every wait ends as soon as its condition holds.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// What `look` finds, as soon as it does.
pub fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {DEADLINE:?} in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
