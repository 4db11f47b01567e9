//! Delays as figures: how long alerts took in each phase of a run.

use std::time::{Duration, Instant};

use crate::load::Attack;
use crate::receiver::Receiver;

/// Delays of a kind.
#[derive(Default)]
pub(crate) struct Delays(Vec<Duration>);

/// A time of a run.
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    pub(crate) began: Instant,
    pub(crate) took: Duration,
    /// Written meanwhile.
    pub(crate) events: usize,
    /// At its end.
    pub(crate) memory: Vec<u64>,
}

/// A line of heads, and one for each phase, which end where the next begin.
pub(crate) fn table<'a>(
    phases: impl Iterator<Item = &'a Phase> + Clone,
    attacks: &[Attack],
    receiver: &Receiver,
) -> Vec<String> {
    let heads = ["s", "events/s", "attacks", "p50 ms", "p99 ms", "most ms"];
    let [seconds, events, heads @ ..] = heads;
    let heads: String = heads.iter().map(|head| format!("{head:>10}")).collect();
    let mut lines = vec![format!("{:<8}{seconds:>8}{events:>12}{heads}   memory at its end, MiB", "")];
    let ends = phases.clone().skip(1).map(|next| Some(next.began)).chain([None]);
    for (phase, end) in phases.zip(ends) {
        let mut delays = Delays::default();
        let is_of = |at: Instant| at >= phase.began && end.is_none_or(|end| at < end);
        for attack in attacks.iter().filter(|attack| is_of(attack.at)) {
            if let Some(arrival) = receiver.arrival(&attack.session) {
                delays.add(arrival.saturating_duration_since(attack.at));
            }
        }
        let seconds = phase.took.as_secs_f64();
        lines.push(format!(
            "{:<8}{seconds:>8.0}{:>12.0}{:>10}{:>10.1}{:>10.1}{:>10.1}   {:?}",
            phase.name,
            phase.events as f64 / seconds,
            delays.count(),
            delays.percentile(50),
            delays.percentile(99),
            delays.percentile(100),
            phase.memory,
        ));
    }
    lines
}

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
