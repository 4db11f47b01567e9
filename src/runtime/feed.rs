//! Feeds: what the engine tells as it happens, to any number of watchers.
//!
//! The latest changes are kept once, for all; a watcher has only a position in them. So the engine never waits for a watcher,
//! a slow one costs nothing but what it misses, and one that was away can go on where it was, as long as that is kept.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::wall_clock;

/// Changes that a feed keeps at most.
pub const KEPT: usize = 4096;
/// Bytes of them, as estimated, at most.
pub const KEPT_BYTES: usize = 64 * 1024 * 1024;
/// How long after its last watcher has gone a feed that is told only for watchers is told on, so that one that comes back can
/// go on where it was.
const AWAY: Duration = Duration::from_secs(60);

/// What a feed can be of.
pub trait Told: Send + Sync + 'static {
    /// Bytes that it holds in memory, with its text, about.
    fn bytes(&self) -> usize;
}

/// A change that was told.
pub struct Change<T> {
    /// What is so now.
    pub now: T,
    text: OnceLock<String>,
}

impl<T> Change<T> {
    /// Its text for watchers, made once for all of them.
    pub fn text(&self, make: impl FnOnce(&T) -> String) -> &str {
        self.text.get_or_init(|| make(&self.now))
    }
}

struct Kept<T> {
    /// Position of the first that is kept.
    first: u64,
    changes: VecDeque<Arc<Change<T>>>,
    bytes: usize,
}

struct Shared<T> {
    /// Tells positions of this run from those of others.
    run: i64,
    kept: Mutex<Kept<T>>,
    watchers: AtomicUsize,
    /// When the last watcher has gone.
    left: Mutex<Option<Instant>>,
}

impl<T> Shared<T> {
    fn kept(&self) -> MutexGuard<'_, Kept<T>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A feed of what isn't told yet.
pub fn feed<T: Told>() -> (Teller<T>, Feed<T>) {
    let kept = Kept { first: 0, changes: VecDeque::new(), bytes: 0 };
    let shared = Arc::new(Shared {
        run: wall_clock::now(),
        kept: Mutex::new(kept),
        watchers: AtomicUsize::new(0),
        left: Mutex::new(None),
    });
    let (end, moved) = watch::channel(0);
    (Teller { shared: shared.clone(), end }, Feed { shared, moved })
}

/// The end that tells. When it is dropped, watchers come to an end after what is kept.
pub struct Teller<T> {
    shared: Arc<Shared<T>>,
    end: watch::Sender<u64>,
}

impl<T: Told> Teller<T> {
    /// Tells these changes, in order.
    pub fn tell(&self, changes: impl IntoIterator<Item = T>) {
        let mut kept = self.shared.kept();
        for now in changes {
            kept.bytes += now.bytes();
            kept.changes.push_back(Arc::new(Change { now, text: OnceLock::new() }));
            while kept.changes.len() > KEPT || (kept.bytes > KEPT_BYTES && kept.changes.len() > 1) {
                let Some(gone) = kept.changes.pop_front() else { break };
                kept.bytes -= gone.now.bytes();
                kept.first += 1;
            }
        }
        let end = kept.first + kept.changes.len() as u64;
        drop(kept);
        self.end.send_if_modified(|known| std::mem::replace(known, end) != end);
    }

    /// What happens from now on isn't told: whoever goes on later has missed it.
    pub fn skip(&self) {
        let mut kept = self.shared.kept();
        kept.first += kept.changes.len() as u64 + 1;
        kept.changes.clear();
        kept.bytes = 0;
        let end = kept.first;
        drop(kept);
        self.end.send_replace(end);
    }

    /// Whether somebody watches, or did so just now.
    pub fn is_watched(&self) -> bool {
        self.watchers() > 0
            || self.shared.left.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|left| left.elapsed() < AWAY)
    }

    /// How many watch.
    pub fn watchers(&self) -> usize {
        self.shared.watchers.load(Ordering::Relaxed)
    }
}

/// Where watchers come from.
pub struct Feed<T> {
    shared: Arc<Shared<T>>,
    moved: watch::Receiver<u64>,
}

impl<T> Clone for Feed<T> {
    fn clone(&self) -> Self {
        Feed { shared: self.shared.clone(), moved: self.moved.clone() }
    }
}

impl<T: Told> Feed<T> {
    /// Watches what is told from now on.
    pub fn watch(&self) -> Watcher<T> {
        let kept = self.shared.kept();
        self.from(kept.first + kept.changes.len() as u64)
    }

    /// Watches on after the change of this id. `None`: it is of another run, or what came after it isn't kept any more.
    pub fn resume(&self, id: &str) -> Option<Watcher<T>> {
        let (run, position) = id.split_once('-')?;
        let next: u64 = position.parse().ok()?;
        let kept = self.shared.kept();
        let end = kept.first + kept.changes.len() as u64;
        (run == format!("{:x}", self.shared.run) && (kept.first..=end).contains(&next)).then(|| self.from(next))
    }

    fn from(&self, next: u64) -> Watcher<T> {
        self.shared.watchers.fetch_add(1, Ordering::Relaxed);
        Watcher { shared: self.shared.clone(), moved: self.moved.clone(), next }
    }
}

/// Why there is no next change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// So many are missing that aren't kept any more; the next is the first that is.
    Missed(u64),
    /// Nothing is told any more.
    Ended,
}

/// One who watches.
pub struct Watcher<T> {
    shared: Arc<Shared<T>>,
    moved: watch::Receiver<u64>,
    next: u64,
}

impl<T> Watcher<T> {
    /// Names what has been seen so far, to go on after it.
    pub fn id(&self) -> String {
        format!("{:x}-{}", self.shared.run, self.next)
    }

    /// The next change.
    pub async fn next(&mut self) -> Result<Arc<Change<T>>, Gap> {
        loop {
            if let Some(found) = self.take() {
                return found;
            }
            let next = self.next;
            if self.moved.wait_for(|end| *end > next).await.is_err() {
                // The last may have been told meanwhile.
                return self.take().unwrap_or(Err(Gap::Ended));
            }
        }
    }

    fn take(&mut self) -> Option<Result<Arc<Change<T>>, Gap>> {
        let kept = self.shared.kept();
        let Some(at) = self.next.checked_sub(kept.first) else {
            let missed = kept.first - self.next;
            self.next = kept.first;
            return Some(Err(Gap::Missed(missed)));
        };
        let found = kept.changes.get(usize::try_from(at).unwrap_or(usize::MAX)).cloned();
        self.next += u64::from(found.is_some());
        found.map(Ok)
    }
}

impl<T> Drop for Watcher<T> {
    fn drop(&mut self) {
        *self.shared.left.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.shared.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Sized(usize, usize);

    impl Told for Sized {
        fn bytes(&self) -> usize {
            self.1
        }
    }

    async fn next(watcher: &mut Watcher<Sized>) -> Result<usize, Gap> {
        watcher.next().await.map(|change| change.now.0)
    }

    #[tokio::test]
    async fn a_watcher_goes_on_where_it_was() {
        let (teller, feed) = feed();
        let mut watcher = feed.watch();
        teller.tell([Sized(1, 1), Sized(2, 1), Sized(3, 1)]);
        assert_eq!(next(&mut watcher).await, Ok(1));
        let id = watcher.id();
        drop(watcher);
        let mut watcher = feed.resume(&id).expect("it is kept");
        assert_eq!((next(&mut watcher).await, next(&mut watcher).await), (Ok(2), Ok(3)));
        let (_, other) = super::feed::<Sized>();
        for id in ["", "x", "1-1", "-", &format!("{}9", watcher.id()), &other.watch().id().replace("-0", "-99")] {
            assert!(feed.resume(id).is_none(), "{id}");
        }
        drop(teller);
        assert_eq!(next(&mut watcher).await, Err(Gap::Ended));
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded_by_number_and_bytes() {
        let (teller, feed) = feed();
        let (mut slow, id) = (feed.watch(), feed.watch().id());
        teller.tell((0..KEPT + 5).map(|n| Sized(n, 1)));
        assert_eq!((next(&mut slow).await, next(&mut slow).await), (Err(Gap::Missed(5)), Ok(5)));
        assert!(feed.resume(&id).is_none());
        teller.tell((0..4).map(|n| Sized(n, KEPT_BYTES / 2)));
        let kept = feed.shared.kept();
        assert_eq!((kept.changes.len(), kept.bytes), (2, KEPT_BYTES));
        drop(kept);
        teller.tell([Sized(9, 10 * KEPT_BYTES)]);
        assert_eq!(feed.shared.kept().changes.len(), 1, "the latest is told, whatever its size");
    }

    #[tokio::test]
    async fn what_was_not_told_is_missed() {
        let (teller, feed) = feed();
        let id = feed.watch().id();
        teller.tell([Sized(1, 1)]);
        assert!(feed.resume(&id).is_some());
        teller.skip();
        teller.skip();
        assert!(feed.resume(&id).is_none());
        let mut watcher = feed.watch();
        teller.tell([Sized(2, 1)]);
        assert_eq!(next(&mut watcher).await, Ok(2));
    }
}
