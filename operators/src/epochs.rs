//! What has arrived, by epoch, until the frontier has passed the epoch: an operator then applies it whole, so that its
//! result doesn't depend on how the epoch was cut into messages.

use std::collections::BTreeMap;

use timely::dataflow::operators::{Capability, InputCapability};
use timely::progress::frontier::MutableAntichain;

/// What has arrived on all inputs of an operator, as a `D` for each epoch, with what keeps the epoch open downstream: with
/// it an operator can't let an epoch go that it hasn't applied. Bounded by the epochs that the driver lets be open at once.
#[derive(Debug)]
pub struct Epochs<D, H = Vec<Capability<u64>>> {
    pending: BTreeMap<u64, (H, D)>,
}

impl<D, H> Default for Epochs<D, H> {
    fn default() -> Self {
        Epochs { pending: BTreeMap::new() }
    }
}

impl<D: Default> Epochs<D> {
    /// Where what came under this capability is kept; the epoch stays open on so many outputs. `None`: it came under none,
    /// which no operator of ours does.
    pub fn arrived(&mut self, cap: &InputCapability<u64>, outputs: usize) -> Option<&mut D> {
        let epoch = *cap.least()?;
        Some(self.of(epoch, || (0..outputs).map(|port| cap.delayed(&epoch, port)).collect()))
    }
}

impl<D: Default, H> Epochs<D, H> {
    /// What has arrived for an epoch; `hold` is asked for what keeps it open when the first of it comes.
    pub fn of(&mut self, epoch: u64, hold: impl FnOnce() -> H) -> &mut D {
        &mut self.pending.entry(epoch).or_insert_with(|| (hold(), D::default())).1
    }

    /// Takes the earliest epoch if it is closed, i.e. less than `frontier` (`None`: all are).
    pub fn next_closed(&mut self, frontier: Option<u64>) -> Option<(u64, H, D)> {
        let entry = self.pending.first_entry()?;
        if frontier.is_some_and(|f| *entry.key() >= f) {
            return None;
        }
        let (epoch, (held, arrived)) = entry.remove_entry();
        Some((epoch, held, arrived))
    }
}

/// The least epoch of which any input may still get something; `None` if all have ended.
pub fn least(frontiers: &[MutableAntichain<u64>]) -> Option<u64> {
    frontiers.iter().filter_map(|f| f.frontier().first().copied()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_epochs_only_when_closed_and_in_order() {
        let mut epochs: Epochs<Vec<i32>, &str> = Epochs::default();
        epochs.of(3, || "three").push(1);
        epochs.of(2, || "two").push(2);
        epochs.of(2, || "held already").push(3);
        assert_eq!(epochs.next_closed(Some(2)), None);
        assert_eq!(epochs.next_closed(Some(9)), Some((2, "two", vec![2, 3])));
        assert_eq!(epochs.next_closed(None), Some((3, "three", vec![1])));
        assert_eq!(epochs.next_closed(None), None);
    }
}
