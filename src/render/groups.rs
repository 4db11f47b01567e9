//! All groups of one worker, and the wheel that says when each wants to be looked at again.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::fill::Concerned;
use super::group::{Changes, Context, Group, Hit};
use super::hit::HitBatch;
use super::key::Hashed;
use super::rules::{ById, RuleInfo, SESSION};
use super::session::Session;
use crate::view::Held;

/// One map that grows would stall the worker while it moves; many small ones don't.
const SHARDS: usize = 64;
/// Width of the wheel's buckets in microseconds of event time.
const BUCKET: i64 = 16_000_000;
/// Groups whose memory is fetched ahead.
const AHEAD: usize = 24;
/// One group may hold this part of the memory for all.
const LARGEST_GROUP: usize = 4;
/// Ended sessions whose ids are remembered, so that one that comes back is marked `resumed`.
const ENDED: usize = 1 << 20;

/// A worker's groups.
#[derive(Default)]
pub struct Groups {
    shards: Vec<HashMap<u128, Group, Hashed>>,
    wheel: BTreeMap<i64, Vec<u128>>,
    ended: HashSet<u128, Hashed>,
    /// Groups that have a session's view.
    sessions: usize,
    /// Bytes that all groups hold.
    held: usize,
    /// Groups that lost events for want of room, since this was last asked.
    shed: u64,
    touched: Vec<u128>,
    changes: Noted,
    /// Groups with events of rules that wait for earlier ones.
    filling: HashSet<u128, Hashed>,
}

/// What an epoch did to one group.
pub struct Touched<'a> {
    /// The key.
    pub key: u128,
    /// The group after it.
    pub group: &'a mut Group,
    /// What changed.
    pub changes: Changes,
}

impl Groups {
    /// No groups.
    pub fn new() -> Groups {
        Groups { shards: (0..SHARDS).map(|_| HashMap::default()).collect(), ..Groups::default() }
    }

    /// From now on, notes which groups change.
    pub fn note_changes(&mut self) {
        self.changes.wanted = true;
    }

    /// The groups that changed since this was last asked; `None`: it is no more.
    pub fn take_changed(&mut self, mut seen: impl FnMut(u128, Option<&Group>)) {
        for key in std::mem::take(&mut self.changes.keys) {
            let group = self.shards[Self::shard(key)].get_mut(&key);
            if let Some(group) = &group
                && !group.changed
            {
                // It had left, and is another one by now, which has been seen.
                continue;
            }
            seen(
                key,
                group.map(|group| {
                    group.changed = false;
                    &*group
                }),
            );
        }
    }

    /// Whether a session of this key has ended, so that one that comes back is marked `resumed`.
    pub fn has_ended(&self, key: u128) -> bool {
        self.ended.contains(&key)
    }

    /// Ended sessions that are remembered.
    pub fn ended(&self) -> Held {
        Held::of(self.ended.len(), size_of::<u128>())
    }

    /// A session of this key had ended.
    pub fn put_back_ended(&mut self, key: u128) {
        if self.ended.len() < ENDED {
            self.ended.insert(key);
        }
    }

    /// The group of a key, to be put back.
    pub fn put_back(&mut self, key: u128, by: ById) -> &mut Group {
        self.shards[Self::shard(key)].entry(key).or_insert_with(|| Group::new(by))
    }

    /// A group is as it was: from now on it counts, and is looked at when it is due.
    pub fn count_in(&mut self, key: u128, watermark: i64) {
        let Some(group) = self.shards[Self::shard(key)].get_mut(&key) else { return };
        self.sessions += usize::from(group.session.is_some());
        account(&mut self.held, group);
        group.due = watermark.saturating_add(1);
        self.wheel.entry(group.due / BUCKET).or_default().push(key);
    }

    fn shard(key: u128) -> usize {
        (key >> 32) as usize % SHARDS
    }

    /// The group of a key.
    pub fn get(&self, key: u128) -> Option<&Group> {
        self.shards[Self::shard(key)].get(&key)
    }

    /// The group of a key.
    pub fn get_mut(&mut self, key: u128) -> Option<&mut Group> {
        self.shards[Self::shard(key)].get_mut(&key)
    }

    /// All groups.
    pub fn iter(&self) -> impl Iterator<Item = (&u128, &Group)> {
        self.shards.iter().flatten()
    }

    /// All groups.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&u128, &mut Group)> {
        self.shards.iter_mut().flatten()
    }

    /// Corrects each group as `correct` does, which says whether it had to be.
    pub fn correct(
        &mut self,
        ctx: &Context<'_>,
        mut correct: impl FnMut(u128, &mut Group, &mut Changes) -> bool,
        mut seen: impl FnMut(Touched<'_>),
    ) {
        for (&key, group) in self.shards.iter_mut().flatten() {
            let mut changes = Changes::default();
            if correct(key, group, &mut changes) {
                self.changes.note(key, group);
                // Absences may be due, or not any more.
                group.due = ctx.watermark;
                self.wheel.entry(group.due / BUCKET).or_default().push(key);
                account(&mut self.held, group);
                seen(Touched { key, group, changes });
            }
        }
    }

    /// Applies an epoch's hits, group by group.
    pub fn apply<'a>(&mut self, ctx: &Context<'a>, batches: &'a [HitBatch], mut seen: impl FnMut(Touched<'_>)) {
        let hits: Vec<Hit<'a>> =
            batches.iter().flat_map(|batch| batch.heads.iter().map(move |head| Hit { head, batch })).collect();
        // By a part of the key, and for one key in the order of arrival. An epoch has far fewer than 2^32 hits.
        let mut order: Vec<u64> =
            hits.iter().zip(0..).map(|(hit, n): (_, u64)| u64::from(hit.head.key as u32) << 32 | n).collect();
        order.sort_unstable();
        let hit = |o: &u64| hits[*o as u32 as usize];
        let mut of_key = Vec::new();
        let mut ahead = 0;
        let mut done = 0;
        for run in order.chunk_by(|a, b| a >> 32 == b >> 32) {
            if done >= ahead {
                ahead = (done + AHEAD).min(order.len());
                self.fetch(&order[done..ahead], hit);
            }
            done += run.len();
            // Nearly always one key.
            for (n, first) in run.iter().enumerate() {
                let key = hit(first).head.key;
                if run[..n].iter().any(|o| hit(o).head.key == key) {
                    continue;
                }
                of_key.extend(run[n..].iter().map(hit).filter(|hit| hit.head.key == key));
                self.apply_to(ctx, key, &mut of_key, &mut seen);
            }
        }
    }

    /// Reads what the next hits and their groups will need, so that their memory is on its way at once. One thing of all of
    /// them after the other: loads that don't wait for each other overlap.
    fn fetch<'a>(&self, order: &[u64], hit: impl Fn(&u64) -> Hit<'a>) {
        let mut found = [None; AHEAD];
        let mut all = order.iter().fold(0, |all, o| all ^ hit(o).head.time);
        for (slot, o) in found.iter_mut().zip(order) {
            *slot = self.get(hit(o).head.key);
        }
        let groups = || found.iter().flatten();
        all = groups().fold(all, |all, group| all ^ group.due);
        all = groups().fold(all, |all, group| all ^ group.touch());
        std::hint::black_box(all);
    }

    fn apply_to<'a>(
        &mut self,
        ctx: &Context<'a>,
        key: u128,
        hits: &mut Vec<Hit<'a>>,
        seen: &mut impl FnMut(Touched<'_>),
    ) {
        let by = hits.first().map_or(SESSION, |hit| hit.head.by);
        let latest = hits.iter().map(|hit| hit.head.time).max().unwrap_or(i64::MIN);
        let ended = &self.ended;
        let group = self.shards[Self::shard(key)].entry(key).or_insert_with(|| {
            let mut group = Group::new(by);
            group.had_lives = by == SESSION && ended.contains(&key);
            group
        });
        let mut changes = Changes::default();
        let had_session = group.session.is_some();
        self.changes.note(key, group);
        if ctx.rules.filling.is_some()
            && hits.iter().any(|h| ctx.classes.get(h.head.class).is_some_and(|class| class.filling(by) < i64::MAX))
        {
            self.filling.insert(key);
        }
        group.apply(ctx, hits, &mut changes);
        self.sessions += usize::from(!had_session && group.session.is_some());
        account(&mut self.held, group);
        let most = ctx.settings.state_memory / LARGEST_GROUP;
        if group.held > most {
            // Half, so that looking at all of it costs each new event little.
            group.trim(ctx, most / 2);
            account(&mut self.held, group);
            self.shed += 1;
        }
        let due = group.absence_due().map_or(i64::MAX, |t| t.saturating_add(1)).min(latest.saturating_add(BUCKET));
        if due < group.due {
            if due / BUCKET < group.due / BUCKET {
                self.wheel.entry(due / BUCKET).or_default().push(key);
            }
            group.due = due;
        }
        seen(Touched { key, group, changes });
    }

    /// Rules that waited for earlier events begin, in all groups that they concern.
    pub fn begin_rules(&mut self, ctx: &Context<'_>, rules: &[Arc<RuleInfo>], mut seen: impl FnMut(Touched<'_>)) {
        let mut known = Concerned::new();
        for key in std::mem::take(&mut self.filling) {
            let Some(group) = self.shards[Self::shard(key)].get_mut(&key) else { continue };
            let mut changes = Changes::default();
            self.changes.note(key, group);
            group.begin_rules(ctx, rules, &mut known, &mut changes);
            // Absences may be due at once.
            group.due = ctx.watermark;
            self.wheel.entry(group.due / BUCKET).or_default().push(key);
            account(&mut self.held, group);
            seen(Touched { key, group, changes });
        }
    }

    /// The watermark has moved: looks at the groups that are due.
    pub fn advance(&mut self, ctx: &Context<'_>, mut seen: impl FnMut(Touched<'_>)) {
        let now = ctx.watermark;
        let mut due = std::mem::take(&mut self.touched);
        due.clear();
        while let Some(entry) = self.wheel.first_entry()
            && *entry.key() <= now / BUCKET
        {
            due.append(&mut entry.remove());
        }
        let mut again: Vec<(i64, u128)> = Vec::new();
        for key in due.drain(..) {
            let shard = &mut self.shards[Self::shard(key)];
            let Some(group) = shard.get_mut(&key) else { continue };
            if group.due == i64::MAX || group.due / BUCKET > now / BUCKET {
                continue;
            }
            if group.due > now {
                // Due within this bucket, but not yet.
                again.push((group.due, key));
                continue;
            }
            let mut changes = Changes::default();
            self.changes.note(key, group);
            let next = group.advance(ctx, &mut changes);
            group.due = next;
            let had_session = group.session.is_some();
            seen(Touched { key, group, changes });
            self.sessions -= usize::from(had_session && group.session.is_none());
            account(&mut self.held, group);
            if group.is_empty() {
                self.held -= group.held;
                if group.had_lives && self.ended.len() < ENDED {
                    self.ended.insert(key);
                }
                shard.remove(&key);
            } else if next < i64::MAX {
                again.push((next, key));
            }
        }
        self.touched = due;
        for (due, key) in again {
            self.wheel.entry(due / BUCKET).or_default().push(key);
        }
    }

    /// If there are more sessions than `views`, or groups hold more than `bytes`, those without an event for longest leave
    /// until there is some room again. `left` receives the sessions that leave; gives how many groups lost kept events.
    pub fn make_room(&mut self, views: usize, bytes: usize, mut left: impl FnMut(&Session)) -> u64 {
        if self.sessions > views {
            self.close_views(views, &mut left);
        }
        if self.held > bytes {
            self.shed_groups(bytes - bytes / 16, &mut left);
        }
        std::mem::take(&mut self.shed)
    }

    /// Only views go: what rules may still need of their groups stays.
    fn close_views(&mut self, bound: usize, left: &mut impl FnMut(&Session)) {
        let sessions = self.iter().filter_map(|(key, group)| group.session.as_ref().map(|s| (s.last_seen(), *key)));
        let mut sessions: Vec<(i64, u128)> = sessions.collect();
        // A sixteenth at once, so that looking at all of them costs each new session little.
        let leaving = (sessions.len() - bound + bound / 16).clamp(1, sessions.len());
        sessions.select_nth_unstable(leaving - 1);
        for (_, key) in &sessions[..leaving] {
            if let Some(group) = self.shards[Self::shard(*key)].get_mut(key)
                && let Some(session) = group.session.take()
            {
                left(&session);
                group.had_lives = true;
                self.sessions -= 1;
                account(&mut self.held, group);
                self.changes.note(*key, group);
            }
        }
    }

    /// Groups leave with all that is known of them.
    fn shed_groups(&mut self, bytes: usize, left: &mut impl FnMut(&Session)) {
        let mut oldest: Vec<(i64, u128)> = self.iter().map(|(key, group)| (group.last_seen(), *key)).collect();
        oldest.sort_unstable();
        for (_, key) in oldest {
            if self.held <= bytes {
                return;
            }
            let Some(mut group) = self.shards[Self::shard(key)].remove(&key) else { continue };
            self.held -= group.held;
            self.shed += 1;
            self.changes.note(key, &mut group);
            if let Some(session) = &group.session {
                left(session);
                self.sessions -= 1;
                if self.ended.len() < ENDED {
                    self.ended.insert(key);
                }
            }
        }
    }
}

/// Groups that changed since the last cut, and those that are no more; each once.
#[derive(Default)]
struct Noted {
    keys: Vec<u128>,
    wanted: bool,
}

impl Noted {
    fn note(&mut self, key: u128, group: &mut Group) {
        if self.wanted && !std::mem::replace(&mut group.changed, true) {
            self.keys.push(key);
        }
    }
}

/// Brings what all groups hold up to what this one holds now.
fn account(all: &mut usize, group: &mut Group) {
    let holds = group.holds();
    *all = *all - group.held + holds;
    group.held = holds;
}
