//! Seeded choices.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A stream of choices of its own for each (seed, purpose, index).
pub(super) struct Dice(StdRng);

impl Dice {
    pub(super) fn of(seed: u64, purpose: &str, index: usize) -> Dice {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&(index as u64).to_le_bytes());
        for (slot, byte) in bytes[16..].iter_mut().zip(purpose.bytes()) {
            *slot = byte;
        }
        Dice(StdRng::from_seed(bytes))
    }

    /// True in so many of a hundred cases.
    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.0.random_range(0..100) < percent
    }

    /// True in so many of a thousand cases.
    pub(super) fn permille(&mut self, permille: u32) -> bool {
        self.0.random_range(0..1000) < permille
    }

    /// One of the choices, each as likely as the others; at least one must be given.
    pub(super) fn one<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }

    /// A number less than `end`, which is at least 1.
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }

    /// A duration of 0 to `longest`.
    pub(super) fn up_to(&mut self, longest: i64) -> i64 {
        self.0.random_range(0..=longest)
    }
}
