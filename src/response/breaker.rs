//! A receiver that answers nobody is asked by one request at a time, ever more rarely, until it takes one.
//! Knows neither requests nor receivers.

use std::collections::HashSet;

use tokio::time::Instant;

use super::retry::Limits;

/// Alerts of which attempts failed, one after the other and none taken in between, before the breaker opens. Alerts and not
/// attempts: one agent that can't be reached must not keep others from being stopped.
const TRIPS: usize = 5;

/// See above.
#[derive(Default)]
pub(super) struct Breaker {
    failing: HashSet<String>,
    /// While it is open: how often it was tried since, and when it may be tried again.
    open: Option<(u32, Instant)>,
}

impl Breaker {
    /// An attempt was taken, or refused for good: somebody is there.
    pub(super) fn answered(&mut self) {
        self.failing.clear();
        self.open = None;
    }

    /// An attempt for this alert failed.
    pub(super) fn failed(&mut self, alert_id: &str, limits: &Limits, now: Instant) {
        match &mut self.open {
            // Requests that were under way when it opened say nothing new.
            Some((_, at)) if now < *at => {}
            Some((tries, at)) => {
                *tries = tries.saturating_add(1);
                *at = now + limits.delay(*tries, None);
            }
            None => {
                self.failing.insert(alert_id.to_owned());
                if self.failing.len() >= TRIPS {
                    self.open = Some((1, now + limits.delay(1, None)));
                }
            }
        }
    }

    /// How many requests may be under way, and when that is to be asked again if it is none.
    pub(super) fn allows(&self, limits: &Limits, now: Instant) -> (usize, Option<Instant>) {
        match self.open {
            None => (limits.in_flight.max(1), None),
            Some((_, at)) if at <= now => (1, None),
            Some((_, at)) => (0, Some(at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_opens_for_many_alerts_and_closes_with_the_first_answer() {
        let (limits, now) = (Limits::default(), Instant::now());
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            breaker.failed("one", &limits, now);
        }
        assert_eq!(breaker.allows(&limits, now), (limits.in_flight, None));
        for n in 0..TRIPS {
            breaker.failed(&n.to_string(), &limits, now);
        }
        let later = now + limits.max_delay;
        assert_eq!(breaker.allows(&limits, later), (1, None));
        breaker.answered();
        assert_eq!(breaker.allows(&limits, now), (limits.in_flight, None));
    }

    #[test]
    fn probes_become_rarer_up_to_a_bound() {
        let limits = Limits { first_delay: Duration::from_secs(1), ..Limits::default() };
        let mut now = Instant::now();
        let mut breaker = Breaker::default();
        for n in 0..TRIPS {
            breaker.failed(&n.to_string(), &limits, now);
        }
        for probe in 0..50 {
            if let (0, Some(at)) = breaker.allows(&limits, now) {
                assert!(at - now <= limits.max_delay, "probe {probe}");
                now = at;
            }
            breaker.failed("x", &limits, now);
        }
    }
}
