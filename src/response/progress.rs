//! Which epochs have something that isn't in the ledger yet. Knows nothing of what an action is.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

/// Said of the oldest epoch when nothing is pending.
pub(super) const NOTHING_PENDING: u64 = u64::MAX;

/// Counts what is pending by epoch. Its size is that of the ledger's queue: one entry for each epoch with something in it.
pub(super) struct Progress {
    pending: Mutex<BTreeMap<u64, usize>>,
    oldest: watch::Sender<u64>,
}

impl Progress {
    pub(super) fn new() -> Self {
        Progress { pending: Mutex::default(), oldest: watch::Sender::new(NOTHING_PENDING) }
    }

    /// `count` more things of this epoch are to be written down.
    pub(super) fn begin(&self, epoch: u64, count: usize) {
        if count > 0 {
            self.change(|pending| *pending.entry(epoch).or_default() += count);
        }
    }

    /// One of this epoch is written down.
    pub(super) fn done(&self, epoch: u64) {
        self.change(|pending| {
            if let Some(count) = pending.get_mut(&epoch) {
                *count -= 1;
                if *count == 0 {
                    pending.remove(&epoch);
                }
            }
        });
    }

    /// The oldest epoch with something pending, or [`NOTHING_PENDING`].
    pub(super) fn oldest(&self) -> watch::Receiver<u64> {
        self.oldest.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<u64, usize>)) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut pending);
        let oldest = pending.keys().next().copied().unwrap_or(NOTHING_PENDING);
        // Under the lock, so that two changes can't be told in the wrong order.
        self.oldest.send_if_modified(|known| std::mem::replace(known, oldest) != oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_acknowledged_when_its_last_part_is_done() {
        let progress = Progress::new();
        let oldest = progress.oldest();
        assert_eq!(*oldest.borrow(), NOTHING_PENDING);
        progress.begin(7, 2);
        progress.begin(9, 1);
        assert_eq!(*oldest.borrow(), 7);
        progress.done(9);
        progress.done(7);
        assert_eq!(*oldest.borrow(), 7);
        progress.done(7);
        assert_eq!(*oldest.borrow(), NOTHING_PENDING);
    }

    #[test]
    fn an_alert_without_actions_holds_nothing_back() {
        let progress = Progress::new();
        progress.begin(3, 0);
        assert_eq!(*progress.oldest().borrow(), NOTHING_PENDING);
    }
}
