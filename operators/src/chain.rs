//! Chains: matches in order of time, each at most a gap after the one before. A chain is one alert.
//!
//! Matches before the watermark can't change any more: they are folded into a base, so that state is bounded by the
//! matches of the lateness span. Later ones are kept one by one, since a late event may add or remove some.

use std::collections::VecDeque;

/// A match: its time, and the ending event as (time, the caller's name for it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// When it is known to hold.
    pub time: i64,
    /// Time of the ending event.
    pub end_time: i64,
    /// The ending event.
    pub end: u32,
}

/// A chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its first match: what the alert is named after.
    pub first: Match,
    /// Time of its last match.
    pub last: i64,
    /// How many.
    pub count: u64,
}

/// The matches of one rule and group, as far as they can still change or be joined.
#[derive(Clone, Debug, Default)]
pub struct Chains {
    base: Option<Chain>,
    live: VecDeque<Match>,
    current: Vec<Chain>,
    included: usize,
}

impl Chains {
    /// From [`Chains::base`] and [`Chains::live`] of others.
    pub fn from_parts(base: Option<Chain>, live: VecDeque<Match>) -> Chains {
        Chains { base, live, ..Chains::default() }
    }

    /// The chain of those matches that can't change any more, if others may still join it.
    pub fn base(&self) -> Option<&Chain> {
        self.base.as_ref()
    }

    /// Nothing can join any more.
    pub fn is_empty(&self) -> bool {
        self.base.is_none() && self.live.is_empty()
    }

    /// Adds the next match in order.
    pub fn push(&mut self, m: Match) {
        self.live.push_back(m);
    }

    /// Matches that can still change, in order.
    pub fn live(&self) -> &VecDeque<Match> {
        &self.live
    }

    /// Forgets the chain that begins with this match.
    pub fn remove(&mut self, gap: i64, first: &Match) {
        let Some(chain) = self.current(gap).iter().find(|chain| chain.first == *first).copied() else { return };
        self.base = self.base.filter(|base| base.first != *first);
        self.live.retain(|m| m.time < chain.first.time || m.time > chain.last);
        self.included = 0;
    }

    /// Forgets all live matches from the n-th on.
    pub fn truncate(&mut self, n: usize) {
        if n < self.live.len() {
            self.live.truncate(n);
            self.included = 0;
        }
    }

    /// The chains that can still change or be joined, in order.
    pub fn current(&mut self, gap: i64) -> &[Chain] {
        if self.included == 0 {
            self.current.clear();
            self.current.extend(self.base);
        }
        for &m in self.live.range(self.included..) {
            join(&mut self.current, m, gap);
        }
        self.included = self.live.len();
        &self.current
    }

    /// Folds what the watermark has passed. Gives the chains that are finished: nothing joins them any more.
    pub fn advance(&mut self, gap: i64, watermark: i64) -> usize {
        self.current(gap);
        let mut folded = Vec::from_iter(self.base);
        while let Some(&m) = self.live.front()
            && m.time < watermark
        {
            self.live.pop_front();
            join(&mut folded, m, gap);
        }
        let mut finished = folded.len().saturating_sub(1);
        self.base = folded.pop();
        let joined = |b: Chain| self.live.front().is_some_and(|m| m.time - b.last <= gap);
        if let Some(base) = self.base
            && base.last.saturating_add(gap) < watermark
            && !joined(base)
        {
            self.base = None;
            finished += 1;
        }
        self.included = 0;
        finished
    }
}

fn join(chains: &mut Vec<Chain>, m: Match, gap: i64) {
    match chains.last_mut() {
        Some(chain) if m.time - chain.last <= gap => {
            chain.last = m.time;
            chain.count += 1;
        }
        _ => chains.push(Chain { first: m, last: m.time, count: 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(time: i64) -> Match {
        Match { time, end_time: time, end: 0 }
    }

    #[test]
    fn joins_at_exactly_the_gap() {
        let mut chains = Chains::default();
        [0, 10, 20, 31].into_iter().for_each(|t| chains.push(at(t)));
        let counts: Vec<u64> = chains.current(10).iter().map(|c| c.count).collect();
        assert_eq!(counts, [3, 1]);
    }

    #[test]
    fn a_chain_that_is_removed_leaves_the_others() {
        let chains = |watermark| {
            let mut chains = Chains::default();
            [0, 10, 30, 40, 60].into_iter().for_each(|t| chains.push(at(t)));
            chains.advance(10, watermark);
            chains
        };
        let firsts =
            |chains: &mut Chains| chains.current(10).iter().map(|c| (c.first.time, c.count)).collect::<Vec<_>>();
        for watermark in [0, 5, 12] {
            let mut chains = chains(watermark);
            chains.remove(10, &at(0));
            assert_eq!(firsts(&mut chains), [(30, 2), (60, 1)]);
            chains.remove(10, &at(60));
            chains.remove(10, &at(40));
            assert_eq!(firsts(&mut chains), [(30, 2)]);
        }
    }

    proptest! {
        #[test]
        fn folding_changes_nothing(gap in 0i64..8, gaps in prop::collection::vec(0i64..12, 1..40), folds in prop::collection::vec(any::<bool>(), 40)) {
            let (mut plain, mut folding) = (Chains::default(), Chains::default());
            let mut finished = 0;
            let mut now = 0;
            for (step, fold) in gaps.into_iter().zip(folds) {
                now += step;
                plain.push(at(now));
                folding.push(at(now));
                if fold {
                    finished += folding.advance(gap, now);
                }
            }
            let all = plain.current(gap).to_vec();
            prop_assert_eq!(&all[finished..], folding.current(gap));
        }
    }
}
