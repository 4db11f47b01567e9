//! Reads sources again for rules that were loaded after their events: one thread a process, with readers of their own, which
//! commit nothing and end when their process's workers have what they asked for.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::archive::own_group;
use super::what_if::ReadAgain;
use crate::config::{self, Config};
use crate::inbox::again::{Ask, AskAgain, Asks, ask_again};
use crate::inbox::{Inbox, Inboxes, Message, PartitionId};
use crate::source::{self, Reader, StartAt};

/// What the group of the readers is called behind the engine's own. It never commits.
const GROUP: &str = "-backfill";

/// Starts answering the workers whose inboxes these are; gives each its way to ask.
///
/// # Errors
/// No thread can be had.
pub fn start(config: &Config, inboxes: &Inboxes) -> Result<Vec<AskAgain>, String> {
    let (workers, asks) = ask_again(&inboxes.local);
    let (config, places) = (config.clone(), (inboxes.first, inboxes.peers));
    std::thread::Builder::new()
        .name("backfill".into())
        .spawn(move || answer(asks, &config, places))
        .map_err(|e| format!("no thread to read sources again: {e}; raise the limit of processes"))?;
    Ok(workers)
}

/// Reads sources again for a what-if, all their partitions, and notes what couldn't be had.
pub fn noting(config: &Config) -> ReadAgain {
    let config = config.clone();
    Arc::new(move |asks, until| {
        let names: Vec<&str> = config.sources.iter().map(config::Source::name).collect();
        let notes = Mutex::new(Notes::default());
        std::thread::scope(|scope| {
            let mut readers: Vec<Reader> = Vec::new();
            for ask in asks {
                readers.drain(..).for_each(Reader::stop);
                let Ask::Begin(from, mut local) = ask else { continue };
                let Some(to) = local.pop() else { continue };
                let (inbox, receiver) = Inbox::new();
                let inboxes = Inboxes { first: 0, peers: 1, local: vec![inbox] };
                lock(&notes).asked = true;
                let noted = &notes;
                scope.spawn(move || {
                    for message in receiver {
                        lock(noted).note(&message);
                        if to.send(message).is_err() {
                            break;
                        }
                    }
                });
                let (begun, refused) = begin_noting(&config, from, &inboxes);
                readers = begun;
                lock(&notes).refused(refused);
            }
            readers.into_iter().for_each(Reader::stop);
        });
        let notes = notes.into_inner().unwrap_or_else(PoisonError::into_inner);
        notes.tell(&config, &names, until)
    })
}

fn lock(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How far partitions were read again, and what went wrong.
#[derive(Default)]
struct Notes {
    /// Something was to be read again.
    asked: bool,
    /// What to read next; 0: it is there.
    reached: HashMap<PartitionId, u64>,
    /// Read to where they end.
    ended: HashSet<PartitionId>,
    lost: BTreeMap<PartitionId, u64>,
    /// Why sources can't be read, by their places.
    troubles: BTreeMap<u16, String>,
    failed: Option<String>,
    /// Sources that can't even be begun.
    refused: BTreeSet<u16>,
}

impl Notes {
    fn refused(&mut self, refused: Vec<(u16, String)>) {
        self.refused.extend(refused.iter().map(|(source, _)| *source));
        self.troubles.extend(refused);
    }

    fn note(&mut self, message: &Message) {
        match message {
            Message::Assigned(id) => drop(self.reached.entry(*id).or_default()),
            Message::Batch(batch) => {
                let reached = self.reached.entry(batch.partition).or_default();
                *reached = (*reached).max(batch.next_offset);
            }
            Message::CaughtUp(id) | Message::Finished(id) => drop(self.ended.insert(*id)),
            Message::Lost(id, records) => *self.lost.entry(*id).or_default() += records,
            Message::Degraded(source, Some(reason)) => drop(self.troubles.insert(*source, reason.clone())),
            Message::Degraded(source, None) => drop(self.troubles.remove(source)),
            Message::Failed(reason) => self.failed = Some(reason.clone()),
            Message::Listed(_) | Message::Ended(_) => {}
        }
    }

    /// What is missing, of what had been read up to these positions.
    fn tell(&self, config: &Config, names: &[&str], until: &HashMap<PartitionId, u64>) -> Vec<String> {
        if !self.asked {
            return Vec::new();
        }
        let name = |source: u16| names.get(usize::from(source)).copied().unwrap_or("?");
        let mut out: Vec<String> = self.failed.iter().cloned().collect();
        for (source, reason) in &self.troubles {
            out.push(format!("source \"{}\": earlier events weren't read again: {reason}", name(*source)));
        }
        let mut short: BTreeMap<u16, usize> = BTreeMap::new();
        for (id, next) in until {
            // A topic is read by time: what ends before the position may have nothing as late as that.
            let by_time = matches!(config.sources.get(usize::from(id.source)), Some(config::Source::Kafka { .. }));
            let whole = match self.reached.get(id) {
                Some(reached) => reached >= next || by_time && self.ended.contains(id),
                None => *next == 0,
            };
            if !whole && !self.refused.contains(&id.source) {
                *short.entry(id.source).or_default() += 1;
            }
        }
        for (source, partitions) in short {
            out.push(format!(
                "source \"{}\": {partitions} of its partitions or files can't be read again by process 0 as far as they \
                 had been read: they are gone, or on another machine",
                name(source)
            ));
        }
        for (id, records) in &self.lost {
            out.push(format!(
                "source \"{}\", partition {}: {records} records are gone from it",
                name(id.source),
                id.partition
            ));
        }
        out
    }
}

/// Begins to read all sources again; gives those that can't be, with the reason. They count as listed.
fn begin_noting(config: &Config, from: i64, inboxes: &Inboxes) -> (Vec<Reader>, Vec<(u16, String)>) {
    let (mut readers, mut refused) = (Vec::new(), Vec::new());
    for (index, source) in (0u16..).zip(&config.sources) {
        let reader = match source::can_be_read_again(source) {
            true => source::start(index, &own_group(source, GROUP), inboxes.clone(), StartAt::Time(from)),
            false => Err("it can be read once only".into()),
        };
        match reader {
            Ok(reader) => readers.push(reader),
            Err(reason) => {
                refused.push((index, reason));
                for inbox in &inboxes.local {
                    // Whoever asked may have given up.
                    let _given_up = inbox.send(Message::Listed(index));
                }
            }
        }
    }
    (readers, refused)
}

fn answer(asks: Asks, config: &Config, (first, peers): (usize, usize)) {
    let mut readers: Vec<Reader> = Vec::new();
    for ask in asks {
        readers.drain(..).for_each(Reader::stop);
        if let Ask::Begin(from, local) = ask {
            readers = begin(config, from, &Inboxes { first, peers, local });
        }
    }
    readers.into_iter().for_each(Reader::stop);
}

fn begin(config: &Config, from: i64, inboxes: &Inboxes) -> Vec<Reader> {
    let (readers, refused) = begin_noting(config, from, inboxes);
    for (index, reason) in refused {
        let source = config.sources.get(usize::from(index)).map_or("?", config::Source::name);
        tracing::warn!(source, "new and changed rules don't see its earlier events: {reason}");
    }
    readers
}
