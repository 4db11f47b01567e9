//! What has been done already, in bounded memory. Knows nothing of alerts: its keys are hashes.

use std::collections::HashSet;

/// A set that forgets what hasn't been asked for longest: two generations of at most `capacity` keys each. A key that
/// is looked up moves to the young generation, so an alert that still gets versions is never forgotten.
pub(super) struct Seen {
    young: HashSet<u128>,
    old: HashSet<u128>,
    capacity: usize,
}

impl Seen {
    /// A set that remembers at least the last `capacity` keys used, and at most twice as many.
    pub(super) fn new(capacity: usize) -> Self {
        Seen { young: HashSet::new(), old: HashSet::new(), capacity: capacity.max(1) }
    }

    /// Adds a key; false if it was there.
    pub(super) fn insert(&mut self, key: u128) -> bool {
        if self.young.contains(&key) {
            return false;
        }
        let new = !self.old.remove(&key);
        if self.young.len() >= self.capacity {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key);
        new
    }

    /// Whether the key is there.
    pub(super) fn contains(&self, key: u128) -> bool {
        self.young.contains(&key) || self.old.contains(&key)
    }

    /// Takes a key out.
    pub(super) fn remove(&mut self, key: u128) {
        self.young.remove(&key);
        self.old.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_use_outlives_any_number_of_others() {
        let mut seen = Seen::new(4);
        assert!(seen.insert(0));
        for key in 1..1_000 {
            assert!(seen.insert(key));
            assert!(!seen.insert(0), "forgotten after {key} others");
        }
        assert!(seen.young.len() <= 4 && seen.old.len() <= 4);
    }

    #[test]
    fn a_removed_key_is_new_again() {
        let mut seen = Seen::new(4);
        seen.insert(7);
        assert!(seen.contains(7));
        seen.remove(7);
        assert!(!seen.contains(7));
        assert!(seen.insert(7));
    }
}
