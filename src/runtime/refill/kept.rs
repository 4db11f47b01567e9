//! What sources have no more for rules that were loaded after it, from the events that the store keeps.
//!
//! A row says where its event was read, so that a worker gets what its partitions had before a position and nothing else. The
//! archive may not be there yet: it is waited for, a while. Whatever can't be had is told, and rules begin without it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::inbox::again::{Gone, PastRecord};
use crate::inbox::{BATCH_BYTES, PartitionId};
use crate::runtime::once;
use crate::source;
use crate::store::{PastEvent, Store};

/// How long the archive is waited for, and a store that doesn't answer.
const WITHIN: Duration = Duration::from_secs(10);
/// The pause before the next look.
const LOOK: Duration = Duration::from_millis(100);

/// Before which positions of which partitions.
type Wanted = BTreeMap<PartitionId, u64>;

/// Sends a worker what the store kept of what it asks for; gives what it doesn't get, and why.
pub(super) fn give(config: &Config, gone: &Gone) -> Vec<String> {
    let is_kept = |id: &PartitionId| {
        let again = config.sources.get(usize::from(id.source)).is_some_and(source::can_be_read_again);
        again || config.store.keeps().is_none() || once::folder(config, id.source).is_some()
    };
    let (wanted, once): (Wanted, Wanted) = gone.until.iter().partition(|(id, _)| is_kept(id));
    let mut unseen = Vec::new();
    if !once.is_empty() {
        unseen.push(format!(
            "{}: what can be read once only isn't archived where another machine than that of process 0 reads it; have it write \
             files, and read those",
            sources(config, &once)
        ));
    }
    if wanted.is_empty() {
        return unseen;
    }
    let of = sources(config, &wanted);
    if config.store.keeps().is_none() {
        unseen.push(format!(
            "{of}: gone from there, and the store keeps no events; [store] with events = true keeps them for later rules"
        ));
        return unseen;
    }
    let Given { events, sampled, unplaced, behind } = match look(config, gone, &wanted) {
        Ok(given) => given,
        Err(reason) => {
            unseen.push(format!("{of}: {reason}; once the store answers, load the rules again with a change"));
            return unseen;
        }
    };
    tracing::info!(of, events, "earlier events that sources have no more were read from the store");
    if sampled {
        unseen.push(format!("{of}: the store keeps only a share of low-risk events, see [store.sampling]"));
    }
    if unplaced > 0 {
        unseen.push(format!("{of}: {unplaced} rows of an earlier version don't say where their events were read"));
    }
    for (id, lacks) in behind {
        unseen.push(format!(
            "{}, partition {}: {lacks} positions are gone from there, and not archived yet; later rules see them once they are",
            name(config, id.source),
            id.partition
        ));
    }
    unseen
}

/// How it went.
#[derive(Default)]
struct Given {
    events: u64,
    sampled: bool,
    /// Rows that don't say where their event was read.
    unplaced: u64,
    /// How much of each partition the archive hasn't got.
    behind: BTreeMap<PartitionId, u64>,
}

fn look(config: &Config, gone: &Gone, wanted: &Wanted) -> Result<Given, String> {
    let store = Store::prepare(&config.store)?.ok_or("there is no store")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| format!("no runtime for the store's connection: {e}"))?;
    let until = Instant::now() + WITHIN;
    let behind = loop {
        let behind = runtime.block_on(behind(config, &store, wanted));
        let settled = matches!(&behind, Ok(lacks) if lacks.is_empty());
        if settled || Instant::now() >= until || !gone.is_wanted() {
            break behind?;
        }
        std::thread::sleep(LOOK);
    };
    let until = Instant::now() + WITHIN;
    loop {
        let mut giving = Giving::new(config, gone, wanted, !store.keeps_bytes());
        let read = runtime.block_on(store.past_events(gone.from, i64::MAX, |event| giving.take(event)));
        match read {
            // What was given before is recognised.
            Err(_) if Instant::now() < until && gone.is_wanted() => std::thread::sleep(LOOK),
            Err(reason) => return Err(reason),
            Ok(()) => {
                giving.hand_over();
                return Ok(Given { behind, ..giving.given });
            }
        }
    }
}

/// What the archive hasn't got of what is wanted.
async fn behind(config: &Config, store: &Store, wanted: &Wanted) -> Result<BTreeMap<PartitionId, u64>, String> {
    let archived = store.archived_until().await?;
    let archived: BTreeMap<_, _> =
        archived.iter().map(|(name, partition, next)| ((&**name, *partition), *next)).collect();
    let lacks = |(id, until): (&PartitionId, &u64)| {
        let next = archived.get(&(name(config, id.source), id.partition)).copied().unwrap_or(0);
        (next < *until).then(|| (*id, until - next))
    };
    Ok(wanted.iter().filter_map(lacks).collect())
}

/// The rows that are wanted, on their way to the worker.
struct Giving<'a> {
    gone: &'a Gone,
    wanted: &'a Wanted,
    places: BTreeMap<&'a str, u16>,
    reworded: bool,
    piece: Vec<PastRecord>,
    bytes: usize,
    given: Given,
}

impl<'a> Giving<'a> {
    fn new(config: &'a Config, gone: &'a Gone, wanted: &'a Wanted, reworded: bool) -> Giving<'a> {
        let places = (0u16..).zip(&config.sources).map(|(index, source)| (source.name(), index)).collect();
        Giving { gone, wanted, places, reworded, piece: Vec::new(), bytes: 0, given: Given::default() }
    }

    /// Takes a row; says whether more are wanted.
    fn take(&mut self, event: PastEvent) -> bool {
        let Some((source, partition, offset)) = event.position() else {
            self.given.unplaced += 1;
            return true;
        };
        let Some(&source) = self.places.get(source) else { return true };
        let partition = PartitionId { source, partition };
        if self.wanted.get(&partition).is_none_or(|until| offset >= *until) {
            return true;
        }
        self.given.events += 1;
        self.given.sampled |= event.sampled;
        // What is known by its position has no bytes to differ in.
        let reworded = self.reworded && event.source_position.is_some();
        self.bytes += event.record.len();
        self.piece.push(PastRecord { partition, offset, time: event.time, record: event.record, reworded });
        self.bytes < BATCH_BYTES || self.hand_over()
    }

    fn hand_over(&mut self) -> bool {
        self.bytes = 0;
        self.gone.send(std::mem::take(&mut self.piece))
    }
}

fn name(config: &Config, source: u16) -> &str {
    config.sources.get(usize::from(source)).map_or("", |source| source.name())
}

/// Names of the sources that something is wanted of.
fn sources(config: &Config, wanted: &Wanted) -> String {
    let names: BTreeSet<&str> = wanted.keys().map(|id| name(config, id.source)).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}
