//! Delays as figures.

use std::time::Duration;

/// Delays of a kind.
#[derive(Default)]
pub(crate) struct Delays(Vec<Duration>);

impl Delays {
    pub(crate) fn add(&mut self, delay: Duration) {
        self.0.push(delay);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// What so many of a hundred don't exceed, in milliseconds.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort();
        let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(place).map_or(f64::NAN, |delay| delay.as_secs_f64() * 1_000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_delays_that_there_were() {
        let mut delays = Delays::default();
        (1..=200).rev().for_each(|n| delays.add(Duration::from_millis(n)));
        assert_eq!((delays.percentile(50), delays.percentile(99), delays.percentile(100)), (100.0, 198.0, 200.0));
        assert!(Delays::default().percentile(50).is_nan());
    }
}
