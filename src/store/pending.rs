//! Versions that wait for the store: at most one for each alert and each life of a session, the latest.
//!
//! So what waits is bounded by the alerts and sessions that changed since the store last took them, however long it is
//! away, and nothing is dropped. Putting a version in never waits: it is safe in a dataflow worker.
//!
//! Knows no store and no time of day.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use super::{Batch, RemovedSession, SessionKey, SessionRow};
use crate::alert::Alert;
use crate::session::SessionView;

/// What waits, shared by its senders and the writer.
#[derive(Default)]
pub(super) struct Pending {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    alerts: HashMap<String, Alert>,
    lives: HashMap<SessionKey, Life>,
    senders: Vec<Progress>,
}

struct Life {
    epoch: u64,
    /// `None`: the life was withdrawn.
    view: Option<SessionView>,
}

/// How far one sender's epochs have come.
struct Progress {
    sent: Option<u64>,
    alerts: Option<u64>,
    sessions: Option<u64>,
    durable: watch::Sender<Option<u64>>,
}

/// What the writer takes to write at once.
pub(super) struct Generation {
    pub(super) batch: Batch,
    /// By sender: the epochs that are durable once the batch is; `None` for a part that stays as it was.
    marks: Vec<(Option<u64>, Option<Option<u64>>)>,
}

/// One producer's way in: a dataflow worker has one of its own, because epochs are counted per producer.
pub struct VersionSender {
    pending: Arc<Pending>,
    index: usize,
    durable: watch::Receiver<Option<u64>>,
}

/// Tells how many alerts and lives of sessions wait for the store.
pub type Waiting = Box<dyn Fn() -> (usize, usize) + Send>;

impl VersionSender {
    /// Tells how many alerts and lives of sessions, of all senders, have a latest version that isn't in the store.
    pub fn waiting(&self) -> Waiting {
        let pending = self.pending.clone();
        Box::new(move || pending.len())
    }

    /// Hands over what changed in an epoch. Never waits. Epochs of one sender must not go back; an epoch without changes
    /// is worth sending too, since it moves [`VersionSender::durable`].
    ///
    /// A life that is both in `removed` and in `sessions` stays.
    pub fn send(&self, epoch: u64, alerts: Vec<Alert>, sessions: Vec<SessionView>, removed: Vec<SessionKey>) {
        let mut inner = self.pending.lock();
        alerts.into_iter().for_each(|alert| inner.put_alert(alert));
        removed.into_iter().for_each(|key| inner.put_life(key, Life { epoch, view: None }));
        for view in sessions {
            inner.put_life(SessionKey::of(&view), Life { epoch, view: Some(view) });
        }
        let progress = &mut inner.senders[self.index];
        progress.sent = progress.sent.max(Some(epoch));
        drop(inner);
        self.pending.changed.notify_one();
    }

    /// The highest epoch of this sender up to which everything is in the store; `None` before the first.
    pub fn durable(&self) -> Option<u64> {
        *self.durable.borrow()
    }

    /// The same as something to wait on.
    pub fn watch(&self) -> watch::Receiver<Option<u64>> {
        self.durable.clone()
    }
}

impl Pending {
    /// A further producer.
    pub(super) fn sender(self: &Arc<Self>) -> VersionSender {
        let (durable, receiver) = watch::channel(None);
        let mut inner = self.lock();
        inner.senders.push(Progress { sent: None, alerts: None, sessions: None, durable });
        VersionSender { pending: self.clone(), index: inner.senders.len() - 1, durable: receiver }
    }

    /// Alerts and lives that wait.
    pub(super) fn len(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.alerts.len(), inner.lives.len())
    }

    /// Returns once something was sent since the last call.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// All alerts that wait and, if asked, all sessions. `None` if there is nothing to write and nothing to acknowledge.
    pub(super) fn take(&self, with_sessions: bool) -> Option<Generation> {
        let mut inner = self.lock();
        let mut batch = Batch { alerts: std::mem::take(&mut inner.alerts).into_values().collect(), ..Batch::default() };
        let with_sessions = with_sessions || inner.lives.is_empty();
        if with_sessions {
            for (key, Life { epoch, view }) in std::mem::take(&mut inner.lives) {
                match view {
                    Some(view) => batch.sessions.push(SessionRow { view, epoch }),
                    None => batch.removed_sessions.push(RemovedSession { key, epoch }),
                }
            }
        }
        let marks = inner.senders.iter().map(|s| (s.sent, with_sessions.then_some(s.sent))).collect();
        let news = |s: &Progress| s.alerts < s.sent || (with_sessions && s.sessions < s.sent);
        let worth_it = !batch.is_empty() || inner.senders.iter().any(news);
        worth_it.then_some(Generation { batch, marks })
    }

    /// The generation's batch is in the store: tells the senders.
    pub(super) fn written(&self, marks: Marks) {
        let mut inner = self.lock();
        for (progress, (alerts, sessions)) in inner.senders.iter_mut().zip(marks.0) {
            progress.alerts = progress.alerts.max(alerts);
            if let Some(sessions) = sessions {
                progress.sessions = progress.sessions.max(sessions);
            }
            let both = progress.alerts.min(progress.sessions);
            progress.durable.send_if_modified(|durable| std::mem::replace(durable, both) != both);
        }
    }

    /// What of a generation isn't in the store waits again, unless a later version has come in the meantime.
    pub(super) fn put_back(&self, batch: Batch) {
        let mut inner = self.lock();
        batch.alerts.into_iter().for_each(|alert| inner.put_alert(alert));
        for RemovedSession { key, epoch } in batch.removed_sessions {
            inner.put_life(key, Life { epoch, view: None });
        }
        for SessionRow { view, epoch } in batch.sessions {
            inner.put_life(SessionKey::of(&view), Life { epoch, view: Some(view) });
        }
    }

    /// A panic elsewhere while the lock was held left nothing half done: each change is one map operation.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a generation acknowledges.
pub(super) struct Marks(Vec<(Option<u64>, Option<Option<u64>>)>);

impl Generation {
    /// Its batch, and what to say when that is written.
    pub(super) fn split(self) -> (Batch, Marks) {
        (self.batch, Marks(self.marks))
    }
}

impl Inner {
    fn put_alert(&mut self, alert: Alert) {
        match self.alerts.entry(alert.alert_id.clone()) {
            Entry::Occupied(mut kept) if kept.get().revision < alert.revision => {
                kept.insert(alert);
            }
            Entry::Occupied(_) => {}
            Entry::Vacant(place) => {
                place.insert(alert);
            }
        }
    }

    /// At one epoch a view is later than a removal.
    fn put_life(&mut self, key: SessionKey, life: Life) {
        match self.lives.entry(key) {
            Entry::Occupied(mut kept) => {
                let version = |l: &Life| (l.epoch, l.view.is_some());
                if version(kept.get()) <= version(&life) {
                    kept.insert(life);
                }
            }
            Entry::Vacant(place) => {
                place.insert(life);
            }
        }
    }
}
