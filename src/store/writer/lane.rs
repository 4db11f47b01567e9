//! How one kind of write is doing, and when to try it again. Knows no store.

use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

/// The first pause after an error, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Doublings after which a pause is certainly the longest.
const DOUBLINGS: u32 = 10;

/// One kind of write.
pub(super) struct Lane {
    what: &'static str,
    failure: Option<Failure>,
}

struct Failure {
    reason: String,
    count: u32,
    retry_at: Instant,
}

impl Lane {
    /// `what`: the kind, for the log.
    pub(super) fn new(what: &'static str) -> Lane {
        Lane { what, failure: None }
    }

    /// The last attempt succeeded.
    pub(super) fn well(&self) -> bool {
        self.failure.is_none()
    }

    /// No pause is running.
    pub(super) fn ready(&self) -> bool {
        self.retry_at().is_none_or(|time| time <= Instant::now())
    }

    /// When the pause is over, if the last attempt failed.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.failure.as_ref().map(|failure| failure.retry_at)
    }

    /// Ends a pause.
    pub(super) fn retry_now(&mut self) {
        if let Some(failure) = &mut self.failure {
            failure.retry_at = Instant::now();
        }
    }

    /// Why the last attempt failed.
    pub(super) fn reason(&self) -> Option<&str> {
        self.failure.as_ref().map(|failure| failure.reason.as_str())
    }

    /// Attempts in a row that have failed.
    pub(super) fn failures(&self) -> u32 {
        self.failure.as_ref().map_or(0, |failure| failure.count)
    }

    /// After an attempt. A failure is followed by a pause: longer each time, and never quite the same, so that processes
    /// don't come back all at once; but short while somebody waits for a flush.
    pub(super) fn note(&mut self, outcome: Result<(), String>, hurry: bool) {
        let before = self.failures();
        match outcome {
            Ok(()) if before > 0 => {
                tracing::info!(what = self.what, failures = before, "the store is back");
                self.failure = None;
            }
            Ok(()) => {}
            Err(reason) => {
                if before == 0 {
                    tracing::warn!(what = self.what, reason, "the store is unavailable; trying again until it is back");
                }
                let pause = if hurry { PAUSES.0 } else { pause(before) };
                let (count, retry_at) = (before.saturating_add(1), Instant::now() + pause);
                self.failure = Some(Failure { reason, count, retry_at });
            }
        }
    }
}

/// The pause after so many failures before this one.
fn pause(failures: u32) -> Duration {
    let longest = PAUSES.0.saturating_mul(1 << failures.min(DOUBLINGS));
    longest.min(PAUSES.1).mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_differ() {
        assert!(pause(0) <= PAUSES.0 && pause(0) >= PAUSES.0 / 2);
        for failures in [7, 100, u32::MAX] {
            assert!(pause(failures) <= PAUSES.1 && pause(failures) >= PAUSES.1 / 2);
        }
        let first = pause(50);
        assert!((0..100).any(|_| pause(50) != first));
    }

    #[test]
    fn a_success_ends_the_trouble() {
        let mut lane = Lane::new("events");
        lane.note(Err("gone".into()), false);
        lane.note(Err("still gone".into()), false);
        assert_eq!((lane.failures(), lane.reason(), lane.ready()), (2, Some("still gone"), false));
        lane.retry_now();
        assert!(lane.ready() && !lane.well());
        lane.note(Ok(()), false);
        assert!(lane.well() && lane.ready());
    }
}
