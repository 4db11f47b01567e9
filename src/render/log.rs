//! A group's hits in total order: what late events, evidence and rebuilt machines look back at.
//!
//! A fresh entry shares its payload with the batch that it came in: 40 bytes an entry. The few that outlive the lateness
//! get a copy of their own, so that batches go as wholes.

use std::cmp::Ordering;
use std::sync::Arc;

use smallvec::SmallVec;

use super::class::Classes;
use super::hit::{Head, Payload};
use super::rules::ById;

/// A hit that is kept.
#[derive(Debug)]
pub struct Entry {
    /// Event time.
    pub time: i64,
    /// Hash of the normalised target.
    pub target: u64,
    /// Holds the encoded event.
    bytes: Arc<Vec<u8>>,
    /// Where in `bytes`.
    start: u32,
    /// Length of the encoded event.
    len: u32,
    /// The entry's name within its group, for as long as it is kept.
    pub uid: u32,
    /// Which matchers it satisfies.
    pub class: u32,
}

impl Entry {
    /// The encoded event.
    pub fn payload(&self) -> Payload<'_> {
        Payload::at(&self.bytes, self.start, self.len)
    }

    /// Looks at the payloads only where the times are equal: mostly they have left the caches.
    fn order(&self, other: &Entry) -> Ordering {
        self.time.cmp(&other.time).then_with(|| self.payload().compare(other.payload()))
    }

    /// Lets go of the batch.
    fn own(&mut self) {
        if self.bytes.len() > self.len as usize {
            (self.bytes, self.start) = (Arc::new(self.payload().bytes().to_vec()), 0);
        }
    }
}

/// Where hits are in a log.
pub type Places = SmallVec<[usize; 16]>;

/// The hits of a group that something may still look back at.
#[derive(Debug, Default)]
pub struct Log {
    entries: Vec<Entry>,
    next_uid: u32,
    /// Bytes of the entries' payloads, as if each had its own.
    payloads: usize,
}

impl Log {
    /// The entries, in total order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Adds hits, in total order, whose payloads are in these bytes, at their places; gives those.
    pub fn insert_all<'a>(&mut self, hits: impl Iterator<Item = (&'a Head, &'a Arc<Vec<u8>>)>) -> Places {
        let (old, name) = (self.entries.len(), self.next_uid);
        for (head, bytes) in hits {
            let entry = self.entry(head, bytes);
            self.next_uid = self.next_uid.wrapping_add(1);
            self.payloads += entry.len as usize;
            self.entries.push(entry);
        }
        let new = self.entries.len() - old;
        let (before, added) = self.entries.split_at(old);
        let late = match (before.last(), added.first()) {
            (Some(last), Some(first)) if last.order(first).is_gt() => {
                before.partition_point(|e| e.order(first).is_lt())
            }
            _ => return (old..old + new).collect(),
        };
        // Two runs, which a stable sort only merges.
        self.entries[late..].sort_by(Entry::order);
        let is_new = |entry: &Entry| (entry.uid.wrapping_sub(name) as usize) < new;
        (late..).zip(&self.entries[late..]).filter(|(_, entry)| is_new(entry)).map(|(at, _)| at).collect()
    }

    fn entry(&self, head: &Head, bytes: &Arc<Vec<u8>>) -> Entry {
        let (uid, bytes) = (self.next_uid, bytes.clone());
        let Head { time, target, start, len, class, .. } = *head;
        Entry { time, target, bytes, start, len, uid, class }
    }

    /// Adds a hit that was read again; gives the index. If its event is there already, it keeps its name, and is from now on
    /// as the rules in force see it.
    pub fn put_again(&mut self, head: &Head, bytes: &Arc<Vec<u8>>) -> usize {
        let entry = self.entry(head, bytes);
        let found = match head.reworded {
            true => self.place_of_same(&entry),
            false => self.entries.binary_search_by(|known| known.order(&entry)),
        };
        match found {
            Ok(at) => {
                let known = &mut self.entries[at];
                self.payloads = self.payloads - known.len as usize + entry.len as usize;
                *known = Entry { uid: known.uid, ..entry };
                at
            }
            Err(at) => {
                self.next_uid = self.next_uid.wrapping_add(1);
                self.payloads += entry.len as usize;
                self.entries.insert(at, entry);
                at
            }
        }
    }

    /// Where the event is whose record this one says in other words; else where it belongs.
    fn place_of_same(&self, entry: &Entry) -> Result<usize, usize> {
        let place = self.entries.binary_search_by(|known| known.order(entry));
        let Err(at) = place else { return place };
        let from = self.first_at_or_after(entry.time);
        let same = self.entries[from..].iter().take_while(|known| known.time == entry.time);
        let known = same.into_iter().position(|known| known.payload().is_same_event(entry.payload()));
        known.map(|n| from + n).ok_or(at)
    }

    /// Takes out the event of this time that has this id and record, in whatever words if it is `reworded`.
    pub fn take_out(&mut self, time: i64, like: Payload<'_>, reworded: bool) {
        let from = self.first_at_or_after(time);
        let same = self.entries[from..].iter().take_while(|e| e.time == time);
        let is_it = |p: Payload<'_>| if reworded { p.is_same_event(like) } else { p.is_copy_of(like) };
        let at = same.into_iter().position(|e| is_it(e.payload()));
        if let Some(at) = at {
            let out = self.entries.remove(from + at);
            self.payloads -= out.len as usize;
        }
    }

    /// Puts back a hit under the name that it had. Once all are back, [`Log::arrange`] them.
    pub fn put_back(&mut self, head: &Head, bytes: &Arc<Vec<u8>>, uid: u32) {
        let entry = Entry { uid, ..self.entry(head, bytes) };
        self.payloads += entry.len as usize;
        self.entries.push(entry);
    }

    /// Brings what was put back into order; of two with one event the later one counts. The next entry gets this name.
    pub fn arrange(&mut self, next_uid: u32) {
        self.next_uid = next_uid;
        self.entries.sort_by(Entry::order);
        let payloads = &mut self.payloads;
        self.entries.dedup_by(|later, earlier| {
            // A record that was read again in other words has its event's name.
            let same = later.order(earlier).is_eq() || (later.time, later.uid) == (earlier.time, earlier.uid);
            if same {
                std::mem::swap(later, earlier);
                *payloads -= later.len as usize;
            }
            same
        });
    }

    /// Entries get the classes that `class_of` gives; says whether any has another one now.
    pub fn reclass(&mut self, mut class_of: impl FnMut(&Entry) -> Option<u32>) -> bool {
        let mut changed = false;
        for entry in &mut self.entries {
            if let Some(class) = class_of(entry) {
                entry.class = class;
                changed = true;
            }
        }
        changed
    }

    /// The name that the next entry gets.
    pub fn next_uid(&self) -> u32 {
        self.next_uid
    }

    /// Bytes that the entries hold.
    pub fn held(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>() + self.payloads
    }

    /// Drops the earliest entries until the rest hold no more than `bytes`.
    pub fn trim(&mut self, bytes: usize) {
        let mut n = 0;
        while n < self.entries.len() && (self.entries.len() - n) * size_of::<Entry>() + self.payloads > bytes {
            self.payloads -= self.entries[n].len as usize;
            n += 1;
        }
        self.entries.drain(..n);
        self.entries.iter_mut().for_each(Entry::own);
        self.entries.shrink_to_fit();
    }

    /// Where an entry is, by its time and name.
    pub fn find(&self, time: i64, uid: u32) -> Option<usize> {
        let from = self.first_at_or_after(time);
        let same = self.entries[from..].iter().take_while(|e| e.time == time);
        same.into_iter().position(|e| e.uid == uid).map(|n| from + n)
    }

    /// The first index whose time is not before `time`.
    pub fn first_at_or_after(&self, time: i64) -> usize {
        self.entries.partition_point(|e| e.time < time)
    }

    /// Drops what nothing can need any more once no event before `watermark` comes; what is from before `old` lets go of
    /// its batch.
    pub fn compact(&mut self, by: ById, classes: &Classes, watermark: i64, old: i64) {
        let n = self.first_at_or_after(watermark);
        let mut latest: Vec<u32> = Vec::new();
        let mut keep = vec![false; n];
        for (i, entry) in self.entries[..n].iter().enumerate().rev() {
            let Some(class) = classes.get(entry.class) else { continue };
            let age = watermark - entry.time;
            let retain = class.retain(by);
            let is_latest = age <= retain.latest && !latest.contains(&entry.class);
            if is_latest {
                latest.push(entry.class);
            }
            keep[i] = is_latest || age <= retain.all || age <= retain.opener || entry.time >= class.filling(by);
        }
        let mut opened = false;
        for (i, entry) in self.entries[..n].iter().enumerate() {
            let Some(class) = classes.get(entry.class) else { continue };
            let retain = class.retain(by);
            let age = watermark - entry.time;
            keep[i] |= opened && age <= retain.after_opener;
            opened |= age <= retain.opener;
        }
        let mut i = 0;
        let payloads = &mut self.payloads;
        self.entries.retain_mut(|entry| {
            i += 1;
            let kept = i > n || keep[i - 1];
            if !kept {
                *payloads -= entry.len as usize;
            } else if entry.time < old {
                entry.own();
            }
            kept
        });
        if self.entries.len() * 4 < self.entries.capacity() {
            self.entries.shrink_to_fit();
        }
    }
}
