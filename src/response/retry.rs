//! When a request is tried again, and how long the wait is (SPEC §7). Knows nothing of alerts, sends nothing.

use std::time::{Duration, SystemTime};

use rand::Rng;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};

/// Bounds of the orchestrator's queues, requests and retries.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Actions of one destination that are held in memory; the others wait in the ledger.
    pub rows: usize,
    /// Requests to one destination at the same time.
    pub in_flight: usize,
    /// Longest time for one attempt, from connecting to the end of the answer.
    pub timeout: Duration,
    /// Wait before the second attempt; doubles with each further one.
    pub first_delay: Duration,
    /// Longest wait between attempts.
    pub max_delay: Duration,
    /// Longest `Retry-After` that is honoured.
    pub max_retry_after: Duration,
    /// A request that isn't taken so long after its alert is given up. Each has at least one attempt.
    pub give_up_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            // Only keys: some 2 MB.
            rows: 8_192,
            // Enough for a receiver that takes 50 ms at 300 alerts a second.
            in_flight: 16,
            timeout: Duration::from_secs(10),
            first_delay: Duration::from_millis(200),
            max_delay: Duration::from_secs(30),
            max_retry_after: Duration::from_secs(300),
            give_up_after: Duration::from_secs(3_600),
        }
    }
}

impl Limits {
    /// The wait after the `attempt`-th attempt (from 1): random up to a bound that doubles and is capped ("full jitter"), so
    /// that what failed together doesn't come back together. `after` is what the receiver asked for.
    pub(super) fn delay(&self, attempt: u32, after: Option<Duration>) -> Duration {
        let doubled = 2u32.saturating_pow(attempt.saturating_sub(1));
        let full = self.first_delay.saturating_mul(doubled).min(self.max_delay);
        let jittered = full.mul_f64(rand::rng().random_range(0.0..=1.0));
        match after {
            Some(after) => jittered.max(after.min(self.max_retry_after)),
            None => jittered,
        }
    }
}

/// What an answer means for its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was taken.
    Taken,
    /// It may be taken later; the receiver may have said when.
    Later(Option<Duration>),
    /// It will never be taken.
    Never,
}

/// Reads a receiver's answer: 5xx, 408, 425 and 429 are worth another attempt; a redirect isn't followed, so it is as
/// final as any other refusal.
pub(super) fn classify(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Verdict {
    if status.is_success() {
        return Verdict::Taken;
    }
    let later = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
    if later { Verdict::Later(retry_after(headers, now)) } else { Verdict::Never }
}

/// `Retry-After`, in seconds or as a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(status: u16, retry_after: Option<&str>) -> Verdict {
        let mut headers = HeaderMap::new();
        if let Some(text) = retry_after {
            headers.insert(RETRY_AFTER, text.parse().expect("a header value"));
        }
        // 2024-05-06T10:00:00Z
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_714_989_600);
        classify(StatusCode::from_u16(status).expect("a status"), &headers, now)
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for status in [200, 201, 202, 204] {
            assert_eq!(verdict(status, None), Verdict::Taken, "{status}");
        }
        for status in [408, 425, 429, 500, 502, 503, 504] {
            assert_eq!(verdict(status, None), Verdict::Later(None), "{status}");
        }
        for status in [301, 302, 307, 308, 400, 401, 403, 404, 409, 410, 422] {
            assert_eq!(verdict(status, None), Verdict::Never, "{status}");
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_date() {
        let later = |seconds| Verdict::Later(Some(Duration::from_secs(seconds)));
        assert_eq!(verdict(429, Some("7")), later(7));
        assert_eq!(verdict(503, Some("Mon, 06 May 2024 10:00:30 GMT")), later(30));
        assert_eq!(verdict(503, Some("Mon, 06 May 2024 09:00:00 GMT")), later(0));
        assert_eq!(verdict(503, Some("soon")), Verdict::Later(None));
    }

    #[test]
    fn waits_are_spread_below_a_bound_that_grows_to_its_cap() {
        let limits = Limits::default();
        let mut longest = Duration::ZERO;
        for attempt in 1..1_000 {
            let full = limits.first_delay.saturating_mul(2u32.saturating_pow(attempt - 1)).min(limits.max_delay);
            let delay = limits.delay(attempt, None);
            assert!(delay <= full, "attempt {attempt}: {delay:?} of {full:?}");
            longest = longest.max(delay);
        }
        assert!(longest > limits.max_delay / 2, "{longest:?}");
    }

    #[test]
    fn a_receivers_own_wish_is_honoured_up_to_a_cap() {
        let limits = Limits::default();
        assert_eq!(limits.delay(1, Some(Duration::from_secs(20))), Duration::from_secs(20));
        assert_eq!(limits.delay(1, Some(Duration::from_secs(1 << 40))), limits.max_retry_after);
    }
}
