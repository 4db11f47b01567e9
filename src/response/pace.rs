//! How often a receiver may be asked. Knows neither requests nor receivers.

use tokio::time::{Duration, Instant};

/// So many requests a second, one second's worth at once; or any number.
pub(super) struct Pace {
    per_second: Option<f64>,
    left: f64,
    at: Instant,
}

impl Pace {
    /// At this rate from now on; `None`: without a bound.
    pub(super) fn new(per_second: Option<u32>, now: Instant) -> Pace {
        let per_second = per_second.map(f64::from);
        Pace { per_second, left: per_second.unwrap_or_default(), at: now }
    }

    /// Takes one request; else says when there is another.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let Some(rate) = self.per_second else { return Ok(()) };
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * rate).min(rate);
        self.at = now;
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Ok(());
        }
        // A little more than it takes: rounded down it would be asked again at once.
        Err(now + Duration::from_secs_f64((1.0 - self.left) / rate) + Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_its_share_and_no_more_whenever_it_is_asked() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(10), start);
        let mut taken = Vec::new();
        let mut now = start;
        while taken.len() < 100 {
            match pace.take(now) {
                Ok(()) => taken.push(now),
                Err(at) => {
                    assert!(at > now);
                    now = at;
                }
            }
        }
        assert_eq!(taken[9], start);
        assert!(taken[10] > start);
        let within = |from: usize| taken[from + 20] - taken[from];
        assert!((0..80).all(|from| within(from) >= Duration::from_secs(1)), "two seconds' worth within one");
        let whole = taken[99] - start;
        assert!(whole >= Duration::from_secs(9) && whole < Duration::from_secs(10), "{whole:?}");
    }

    #[test]
    fn without_a_rate_there_is_no_bound() {
        let now = Instant::now();
        let mut pace = Pace::new(None, now);
        assert!((0..10_000).all(|_| pace.take(now).is_ok()));
    }
}
