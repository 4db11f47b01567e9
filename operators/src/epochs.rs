//! What has arrived, by epoch, until the frontier has passed the epoch: an operator then applies it whole, so that its
//! result doesn't depend on how the epoch was cut into messages.

use std::collections::BTreeMap;

/// Items by epoch. Bounded by the epochs that the driver lets be open at once.
#[derive(Debug)]
pub struct Epochs<D> {
    pending: BTreeMap<u64, Vec<D>>,
}

impl<D> Default for Epochs<D> {
    fn default() -> Self {
        Epochs { pending: BTreeMap::new() }
    }
}

impl<D> Epochs<D> {
    /// Keeps what arrived for an epoch.
    pub fn stash(&mut self, epoch: u64, items: impl IntoIterator<Item = D>) {
        self.pending.entry(epoch).or_default().extend(items);
    }

    /// The earliest epoch that has something and is closed, i.e. less than `frontier` (`None`: all are).
    pub fn next_closed(&self, frontier: Option<u64>) -> Option<u64> {
        let (&epoch, _) = self.pending.first_key_value()?;
        frontier.is_none_or(|f| epoch < f).then_some(epoch)
    }

    /// Takes what there is for exactly this epoch.
    pub fn take(&mut self, epoch: u64) -> Vec<D> {
        self.pending.remove(&epoch).unwrap_or_default()
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_epochs_only_when_closed_and_in_order() {
        let mut epochs = Epochs::default();
        epochs.stash(3, [1]);
        epochs.stash(2, [2, 3]);
        assert_eq!(epochs.next_closed(Some(2)), None);
        assert_eq!(epochs.next_closed(Some(9)), Some(2));
        assert_eq!(epochs.take(2), [2, 3]);
        assert_eq!(epochs.next_closed(None), Some(3));
    }
}
