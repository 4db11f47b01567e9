//! How often a caller may ask: a bucket of permits for each, filled at a steady rate.
//!
//! Knows no route and no token.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many seconds' worth of requests may come at once.
const BURST_SECONDS: f64 = 4.0;
/// Callers that are told apart. Beyond, those that have been quiet are forgotten, and further ones share one bucket.
const MAX_CALLERS: usize = 4_096;

/// Who is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Counted {
    /// The holder of a token, by its id, or a subject of an issuer.
    Holder(String),
    /// Whoever shows no token that holds. Of IPv6 a /64: one machine has as many addresses as it likes.
    Address(IpAddr),
}

impl Counted {
    pub(super) fn address(ip: IpAddr) -> Counted {
        Counted::Address(match ip.to_canonical() {
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
            v4 => v4,
        })
    }
}

/// The buckets.
pub(super) struct Rates {
    per_second: f64,
    buckets: Mutex<(HashMap<Counted, Bucket>, Bucket)>,
}

#[derive(Clone, Copy)]
struct Bucket {
    permits: f64,
    at: Instant,
}

impl Rates {
    pub(super) fn new(per_second: u32) -> Rates {
        let per_second = f64::from(per_second);
        let shared = Bucket { permits: per_second * BURST_SECONDS, at: Instant::now() };
        Rates { per_second, buckets: Mutex::new((HashMap::new(), shared)) }
    }

    fn full(&self) -> f64 {
        self.per_second * BURST_SECONDS
    }

    /// What the bucket holds now.
    fn filled(&self, bucket: Bucket, now: Instant) -> f64 {
        let since = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.permits + since * self.per_second).min(self.full())
    }

    /// Takes a permit, or says after how many seconds there is one.
    pub(super) fn take(&self, who: Counted, now: Instant) -> Result<(), u64> {
        // A panic elsewhere leaves counts as they are.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, shared) = &mut *buckets;
        if of.len() >= MAX_CALLERS && !of.contains_key(&who) {
            of.retain(|_, bucket| self.filled(*bucket, now) < self.full());
        }
        let bucket = match of.len() < MAX_CALLERS || of.contains_key(&who) {
            true => of.entry(who).or_insert(Bucket { permits: self.full(), at: now }),
            false => shared,
        };
        let permits = self.filled(*bucket, now);
        *bucket = Bucket { permits, at: now };
        if permits < 1.0 {
            let wait = Duration::from_secs_f64((1.0 - permits) / self.per_second);
            return Err(wait.as_secs() + 1);
        }
        bucket.permits -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(n: usize) -> Counted {
        Counted::Holder(n.to_string())
    }

    #[test]
    fn some_seconds_worth_may_come_at_once_and_then_the_rate_holds() {
        let rates = Rates::new(2);
        let now = Instant::now();
        let taken = |who: usize, at: Instant| (0..100).filter(|_| rates.take(holder(who), at).is_ok()).count();
        assert_eq!(taken(1, now), 8);
        assert_eq!(rates.take(holder(1), now), Err(1));
        assert_eq!(taken(2, now), 8, "each has its own");
        assert_eq!(taken(1, now + Duration::from_secs(1)), 2);
        assert_eq!(taken(1, now + Duration::from_secs(3600)), 8);
    }

    #[test]
    fn callers_beyond_the_bound_share_one_bucket_until_others_are_quiet() {
        let rates = Rates::new(1);
        let now = Instant::now();
        let taken: usize = (0..MAX_CALLERS + 10).filter(|n| rates.take(holder(*n), now).is_ok()).count();
        assert_eq!(taken, MAX_CALLERS + 4);
        assert_eq!(rates.take(holder(MAX_CALLERS + 20), now + Duration::from_secs(2)), Ok(()));
        assert!(rates.buckets.lock().expect("no panic").0.len() <= MAX_CALLERS);
    }

    #[test]
    fn a_network_of_one_machine_is_one_address() {
        let address = |text: &str| Counted::address(text.parse().expect("an address"));
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:2"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:10.0.0.1"), address("10.0.0.1"));
    }
}
