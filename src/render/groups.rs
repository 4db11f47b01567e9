//! All groups of one worker, and the wheel that says when each wants to be looked at again.

use std::collections::BTreeMap;

use hashbrown::{HashMap, HashSet};

use super::group::{Changes, Context, Group};
use super::hit::{HitBatch, Payload};
use super::rules::{ById, SESSION};

/// One map that grows would stall the worker while it moves; many small ones don't.
const SHARDS: usize = 64;
/// Width of the wheel's buckets in microseconds of event time.
const BUCKET: i64 = 16_000_000;
/// Ended sessions whose ids are remembered, so that one that comes back is marked `resumed`.
const ENDED: usize = 1 << 20;

/// A worker's groups.
#[derive(Default)]
pub struct Groups {
    shards: Vec<HashMap<u128, Group>>,
    wheel: BTreeMap<i64, Vec<u128>>,
    ended: HashSet<u128>,
    touched: Vec<u128>,
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
        Groups { shards: (0..SHARDS).map(|_| HashMap::new()).collect(), ..Groups::default() }
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

    /// Applies an epoch's hits, group by group.
    pub fn apply(&mut self, ctx: &Context<'_>, batches: &[HitBatch], mut seen: impl FnMut(Touched<'_>)) {
        let mut order: Vec<(u64, u32, u32)> = Vec::new();
        for (b, batch) in batches.iter().enumerate() {
            order.extend(batch.heads.iter().enumerate().map(|(h, head)| (head.key as u64, b as u32, h as u32)));
        }
        // By key, and for one key in the order of arrival.
        order.sort_unstable();
        let mut hits = Vec::new();
        let mut at = 0;
        while at < order.len() {
            let key = batches[order[at].1 as usize].heads[order[at].2 as usize].key;
            let mut by: ById = SESSION;
            let mut next = at;
            let mut others = false;
            while next < order.len() && order[next].0 == order[at].0 {
                let batch = &batches[order[next].1 as usize];
                let head = &batch.heads[order[next].2 as usize];
                if head.key == key {
                    by = head.by;
                    hits.push((*head, batch.payload(head)));
                } else {
                    others = true;
                }
                next += 1;
            }
            self.apply_to(ctx, key, by, &mut hits, &mut seen);
            if others {
                // Two keys share their low half: take the other one's hits next.
                order[at..next].sort_unstable_by_key(|o| {
                    let k = batches[o.1 as usize].heads[o.2 as usize].key;
                    (k != key, k, o.1, o.2)
                });
                next = at
                    + order[at..next]
                        .iter()
                        .take_while(|o| batches[o.1 as usize].heads[o.2 as usize].key == key)
                        .count();
            }
            at = next;
        }
    }

    fn apply_to(
        &mut self,
        ctx: &Context<'_>,
        key: u128,
        by: ById,
        hits: &mut Vec<(super::hit::Head, Payload<'_>)>,
        seen: &mut impl FnMut(Touched<'_>),
    ) {
        let mut latest = i64::MIN;
        for (head, _) in hits.iter() {
            latest = latest.max(head.time);
        }
        let ended = &self.ended;
        let group = self.shards[Self::shard(key)].entry(key).or_insert_with(|| {
            let mut group = Group::new(by);
            group.had_lives = by == SESSION && ended.contains(&key);
            group
        });
        let mut changes = Changes::default();
        group.apply(ctx, hits, &mut changes);
        let due = group.absence_due().map_or(i64::MAX, |t| t.saturating_add(1)).min(latest.saturating_add(BUCKET));
        if due < group.due {
            if due / BUCKET < group.due / BUCKET {
                self.wheel.entry(due / BUCKET).or_default().push(key);
            }
            group.due = due;
        }
        seen(Touched { key, group, changes });
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
            let next = group.advance(ctx, &mut changes);
            group.due = next;
            seen(Touched { key, group, changes });
            if group.is_empty() {
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
}
