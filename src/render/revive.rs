//! Detection's two ends of a checkpoint: what it puts aside at a cut, and how it goes on from what was put aside.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::detect::{AlertVersion, Detect, Origin, SessionChange};
use super::group::Context;
use super::restore::PutBack;
use super::snapshot::{Snapshot, by_name};
use crate::frame::{self, Kind};
use crate::session::SessionKey;
use crate::spool::Cut;

/// The body of a group that is no more, where a session of it that comes back is marked `resumed`.
const ENDED: &[u8] = &[0];
/// How long that is known, in microseconds of event time.
const ENDED_FOR: i64 = 30 * 86_400_000_000;

/// What comes back from a checkpoint, until all of it is there.
#[derive(Default)]
pub struct Staged {
    /// Stores and receivers have had everything up to this epoch.
    pub acked: u64,
    parts: Vec<PutBack>,
}

impl Staged {
    /// Takes more of it.
    pub fn add(&mut self, mut parts: Vec<PutBack>) {
        self.parts.append(&mut parts);
    }
}

/// Frames of which only the latest of a key counts.
type Latest<'a> = HashMap<u128, (u64, &'a [u8])>;

fn note_latest<'a>(latest: &mut Latest<'a>, frame: &frame::Frame<'a>) {
    let known = latest.entry(frame.key).or_insert((frame.epoch, frame.body));
    if frame.epoch >= known.0 {
        *known = (frame.epoch, frame.body);
    }
}

/// A life that was told of for the last time.
fn note_left(left: &mut Option<HashSet<SessionKey>>, change: &SessionChange) {
    if let (Some(view), Some(left)) = (change.view(), left) {
        left.insert(SessionKey::of(view));
    }
}

/// Appends a value in postcard's encoding, which has words for all that we have.
fn append(value: &impl Serialize, out: &mut Vec<u8>) {
    match postcard::to_allocvec(value) {
        Ok(bytes) => out.extend_from_slice(&bytes),
        Err(error) => tracing::error!(%error, "a part of the checkpoint can't be written"),
    }
}

impl Detect {
    /// Puts aside what has changed since the last cut, and tells stores what they don't know yet of it.
    pub(super) fn cut(&mut self, epoch: u64) {
        if self.keeper.is_none() {
            return;
        }
        self.tell_changed_sessions();
        let Some(keeper) = &self.keeper else { return };
        let watermark = self.shared.totals.borrow().watermark;
        let mut groups = self.shared.groups.borrow_mut();
        let mut spool = keeper.spool.borrow_mut();
        let mut gone = Vec::new();
        groups.take_changed(|key, group| match group {
            Some(group) => {
                let tag = keeper.tags.get(usize::from(group.by)).copied().unwrap_or_default();
                let snapshot = group.snapshot(tag, &self.rules);
                frame::write_with(spool.frames(), Kind::Group, key, epoch, i64::MAX, |out| append(&snapshot, out));
            }
            None => gone.push(key),
        });
        for key in gone {
            let (body, until) = match groups.has_ended(key) {
                true => (ENDED, watermark.unwrap_or(i64::MIN).saturating_add(ENDED_FOR)),
                false => ([].as_slice(), i64::MAX),
            };
            frame::Frame { kind: Kind::Group, key, epoch, until, body }.write(spool.frames());
        }
        let one = self.shared.place.0 == 0;
        let in_force = one.then(|| self.rules.in_force.clone());
        // Rules that wait for earlier events need what they see, however far time has come.
        let needed = self.rules.filling.map(|_| self.rules.sees_from(self.settings.dedup_window));
        let over = watermark.map(|watermark| needed.map_or(watermark, |from| watermark.min(from)));
        spool.seal(Cut { epoch, watermark, over, partitions: Vec::new(), in_force });
    }

    /// Puts aside the changes of sessions that nothing tells again. They come back to the worker that owns the session: it is
    /// the one that is asked whether the life was ever there.
    pub(super) fn keep_leaving(&mut self, epoch: u64) {
        let Some(keeper) = &self.keeper else { return };
        for change in &self.sessions {
            let Some(life) = change.life() else { continue };
            let key = self.shared.own_session(&life.tenant_id, &life.agent_id, &life.session_id).unwrap_or_default();
            let mut spool = keeper.spool.borrow_mut();
            frame::write_with(spool.frames(), Kind::Leaving, key, epoch, i64::MAX, |out| append(change, out));
            note_left(&mut self.left, change);
        }
    }

    /// Everything that was kept has come back: goes on from there.
    pub(super) fn revive(&mut self, epoch: u64) {
        let Staged { acked, parts } = std::mem::take(&mut self.staged);
        let (mut states, mut alerts) = (Latest::new(), Latest::new());
        for frame in parts.iter().flat_map(|part| frame::read(&part.frames)).flatten() {
            match frame.kind {
                Kind::Group => note_latest(&mut states, &frame),
                Kind::Alert => note_latest(&mut alerts, &frame),
                Kind::Leaving if frame.epoch > acked => {
                    if let Ok(change) = postcard::from_bytes::<SessionChange>(frame.body) {
                        note_left(&mut self.left, &change);
                        self.sessions.push(change);
                    }
                }
                Kind::Leaving | Kind::Hit => {}
            }
        }
        self.revive_groups(epoch, acked, &parts, &states);
        for (_, body) in alerts.into_values() {
            if let Some((session, json)) = body.split_first_chunk::<16>()
                && let Ok(alert) = serde_json::from_slice::<crate::alert::Alert>(json)
            {
                let origin = Origin::Kept { told: alert.revision <= acked };
                self.alerts.push(AlertVersion { session: u128::from_le_bytes(*session), alert, origin });
            }
        }
        self.tell_changed_sessions();
    }

    /// Tells stores of lives that a killed run had told of: as they are, or that there are none. Those that have left the view
    /// meanwhile were told of for the last time then.
    pub(super) fn reconcile(&mut self, lives: &[SessionKey]) {
        let idle = self.idle_before();
        let left = self.left.take().unwrap_or_default();
        let groups = self.shared.groups.borrow();
        for life in lives.iter().filter(|life| !left.contains(*life)) {
            let own = self.shared.own_session(&life.tenant_id, &life.agent_id, &life.session_id);
            let Some(key) = own else { continue };
            let session = groups.get(key).and_then(|group| group.session.as_ref());
            let views = session.map(|s| s.views(idle, &self.settings.risk)).unwrap_or_default();
            let now = views.into_iter().find(|view| view.first_seen == life.first_seen);
            self.sessions.push(now.map_or_else(|| SessionChange::Gone(life.clone()), SessionChange::Now));
        }
    }

    fn revive_groups(&mut self, epoch: u64, acked: u64, parts: &[PutBack], states: &Latest<'_>) {
        let watermark = self.shared.totals.borrow().watermark.unwrap_or(i64::MIN);
        let (rules, classes, settings) = (&self.rules, &self.classes, &self.settings);
        let ctx = Context { rules, classes, settings, watermark, keeper: None, epoch };
        let names = by_name(rules);
        let tags = self.keeper.iter().flat_map(|keeper| keeper.tags.iter().zip(0u16..));
        let bys: HashMap<u64, u16> = tags.map(|(tag, by)| (*tag, by)).collect();
        let mut groups = self.shared.groups.borrow_mut();
        let mut snapshots: HashMap<u128, (u64, Snapshot<'_>)> = HashMap::new();
        for (&key, &(at, body)) in states {
            if body == ENDED {
                groups.put_back_ended(key);
            } else if let Ok(snapshot) = postcard::from_bytes::<Snapshot<'_>>(body) {
                snapshots.insert(key, (at, snapshot));
            }
        }
        let hits = parts.iter().flat_map(|part| {
            let named = part.hits.heads.iter().zip(&part.names);
            named.map(move |(head, &(name, at))| (at, name, head, &part.hits))
        });
        // Without a state, the group was no more.
        let mut hits: Vec<_> = hits.filter(|(_, _, head, _)| snapshots.contains_key(&head.key)).collect();
        hits.sort_by_key(|(at, ..)| *at);
        for (_, name, head, batch) in hits {
            groups.put_back(head.key, head.by).put_back(head, batch, name);
        }
        for (key, (at, snapshot)) in snapshots {
            let Some(&by) = bys.get(&snapshot.tag) else { continue };
            let group = groups.put_back(key, by);
            group.revive(&ctx, snapshot, &names);
            if at > acked
                && let Some(session) = &mut group.session
            {
                session.mark_changed();
                self.changed.push(key);
            }
            groups.count_in(key, watermark);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::super::detect::Shared;
    use super::super::keep::Keeper;
    use super::super::key::Hasher;
    use super::super::settings::Settings;
    use super::*;
    use crate::session::SessionView;
    use crate::spool::{Spool, to_writer};

    fn detect(spool: Option<Rc<RefCell<Spool>>>) -> Detect {
        let hasher = Hasher::new(&[7; 192]);
        let shared = Shared {
            place: (0, 1),
            groups: Rc::default(),
            totals: Rc::default(),
            hasher: Rc::new(RefCell::new(Some(hasher))),
        };
        let settings = Settings::new(&crate::config::Limits::default(), Vec::new());
        let keeper = spool.map(|spool| Keeper::new(spool, &settings));
        Detect::new(settings, shared, keeper)
    }

    fn view() -> SessionView {
        SessionView {
            tenant_id: String::new(),
            agent_id: "a".into(),
            session_id: "s".into(),
            resumed: false,
            idle: true,
            events: 1,
            violations: 0,
            by_type: [1, 0, 0, 0, 0, 0, 0],
            unique_targets: 1,
            unique_targets_exact: true,
            first_seen: 1,
            last_seen: 1,
            risk_score: 0.0,
            open_alerts: 0,
            last_events: Vec::new(),
            flags: Vec::new(),
        }
    }

    /// It had left the view before the checkpoint, and the store may not have had it. The run that told of it again was killed
    /// at once, so the next is asked about it, too: on the worker that owns the session.
    #[test]
    fn a_life_that_is_told_of_again_is_not_taken_for_one_that_never_was() {
        let spool = Rc::new(RefCell::new(Spool::new(0, to_writer(1).0)));
        let mut before = detect(Some(spool.clone()));
        before.sessions.push(SessionChange::Left(view()));
        before.keep_leaving(5);
        let frames = spool.borrow_mut().frames().clone();
        let owned = before.shared.own_session("", "a", "s");
        assert_eq!(frame::read(&frames).flatten().map(|frame| Some(frame.key)).collect::<Vec<_>>(), [owned]);

        let mut after = detect(None);
        after.staged.add(vec![PutBack { frames, ..PutBack::default() }]);
        after.revive(10);
        assert_eq!(after.sessions.drain(..).count(), 1);
        after.reconcile(&[SessionKey::of(&view())]);
        assert!(after.sessions.is_empty(), "{:?}", after.sessions);
    }
}
