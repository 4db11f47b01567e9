//! How workers ask for records that have been read before, for rules that were loaded since. All workers of a process ask at
//! one epoch; whoever answers reads the sources again, with positions of his own, into inboxes that are made for it.
//!
//! What a source doesn't have any more a worker then asks for by itself: a store may have kept it.
//!
//! What is asked later takes the place of what was asked before: there is one place for each worker, and one word that waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::{Inbox, Message, PartitionId, Waker};

/// What one worker asks for.
struct Asked {
    fill: u32,
    from: i64,
    inbox: Inbox,
}

/// A worker's place.
#[derive(Default)]
struct Place {
    asked: Option<Asked>,
    gone: Option<Gone>,
}

type Places = Arc<Mutex<Vec<Place>>>;

/// Pieces of what a store kept that may wait for a worker; the sender closes one at [`super::BATCH_BYTES`].
const PIECES: usize = 4;

/// A record as a store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastRecord {
    /// Where it was read.
    pub partition: PartitionId,
    /// The position there.
    pub offset: u64,
    /// Event time, microseconds since 1970.
    pub time: i64,
    /// JSON text.
    pub record: String,
    /// The text isn't the bytes that were read, though it says the same.
    pub reworded: bool,
}

/// What a worker asks for, since its sources don't have it any more. Dropped, the worker has had all of it.
pub struct Gone {
    /// Earlier events are of no interest, microseconds since 1970.
    pub from: i64,
    /// Records of these partitions, each before this position.
    pub until: BTreeMap<PartitionId, u64>,
    to: Option<Sender<Vec<PastRecord>>>,
    waker: Waker,
}

impl Gone {
    /// Waits until the worker has room; says whether it still wants them.
    pub fn send(&self, records: Vec<PastRecord>) -> bool {
        let sent = self.to.as_ref().is_some_and(|to| to.send(records).is_ok());
        self.waker.wake();
        sent
    }

    /// Whether the worker still wants them.
    pub fn is_wanted(&self) -> bool {
        let probe = |to: &Sender<Vec<PastRecord>>| to.try_send(Vec::new());
        !matches!(self.to.as_ref().map(probe), None | Some(Err(TrySendError::Disconnected(_))))
    }
}

impl Drop for Gone {
    fn drop(&mut self) {
        // First, so that the worker that wakes sees it.
        drop(self.to.take());
        self.waker.wake();
    }
}

fn lock(places: &Places) -> MutexGuard<'_, Vec<Place>> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A worker's way to ask.
pub struct AskAgain {
    place: usize,
    waker: Waker,
    places: Places,
    news: Sender<()>,
}

impl AskAgain {
    /// Asks for all records whose event time may be `from` (microseconds since 1970) or later. `fill` is the same on all
    /// workers, and another one each time, not 0.
    pub fn begin(&self, fill: u32, from: i64) -> Receiver<Message> {
        let (inbox, receiver) = Inbox::waking(self.waker.clone());
        self.put(|place| *place = Place { asked: Some(Asked { fill, from, inbox }), gone: None });
        receiver
    }

    /// Asks, besides, for what a store kept of these partitions before these positions, from this time on. What is received
    /// ends with the sender.
    pub fn gone(&self, from: i64, until: BTreeMap<PartitionId, u64>) -> Receiver<Vec<PastRecord>> {
        let (to, receiver) = bounded(PIECES);
        let gone = Gone { from, until, to: Some(to), waker: self.waker.clone() };
        self.put(|place| place.gone = Some(gone));
        receiver
    }

    /// Asks for nothing more.
    pub fn end(&self) {
        self.put(|place| *place = Place::default());
    }

    fn put(&self, change: impl FnOnce(&mut Place)) {
        if let Some(place) = lock(&self.places).get_mut(self.place) {
            change(place);
        }
        // One word that waits is enough.
        let _one_waits = self.news.try_send(());
    }
}

/// What all workers of the process ask for, or one of them.
pub enum Ask {
    /// Records from this time on, to these inboxes, which are in the order of the workers.
    Begin(i64, Vec<Inbox>),
    /// What sources have no more.
    Gone(Gone),
    /// Nothing more.
    End,
}

/// The answering side.
pub struct Asks {
    places: Places,
    news: Receiver<()>,
    begun: u32,
    /// There may be more to answer than the word that came last.
    look: bool,
}

/// Waits for what is asked next; ends when the workers are gone.
impl Iterator for Asks {
    type Item = Ask;

    fn next(&mut self) -> Option<Ask> {
        loop {
            // One word may have been about several of them.
            if !std::mem::take(&mut self.look) {
                self.news.recv().ok()?;
            }
            let mut places = lock(&self.places);
            if let Some(gone) = places.iter_mut().find_map(|place| place.gone.take()) {
                self.look = true;
                return Some(Ask::Gone(gone));
            }
            let number = |place: &Place| place.asked.as_ref().map_or(0, |asked| asked.fill);
            let fill = places.first().map_or(0, number);
            if fill == self.begun || places.iter().any(|place| number(place) != fill) {
                continue;
            }
            self.begun = fill;
            let asked = || places.iter().filter_map(|place| place.asked.as_ref());
            let Some(Asked { from, .. }) = asked().next() else { return Some(Ask::End) };
            return Some(Ask::Begin(*from, asked().map(|asked| asked.inbox.clone()).collect()));
        }
    }
}

/// Both sides, for the workers of a process whose inboxes these are.
pub fn ask_again(inboxes: &[Inbox]) -> (Vec<AskAgain>, Asks) {
    let places: Places = Arc::new(Mutex::new(inboxes.iter().map(|_| Place::default()).collect()));
    let (news, told) = bounded(1);
    let worker = |(place, inbox): (usize, &Inbox)| AskAgain {
        place,
        waker: inbox.waker().clone(),
        places: places.clone(),
        news: news.clone(),
    };
    let workers = inboxes.iter().enumerate().map(worker).collect();
    (workers, Asks { places, news: told, begun: 0, look: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_when_all_have_asked_for_the_same_and_ends_when_none_asks() {
        let (first, second) = (Inbox::new().0, Inbox::new().0);
        let (workers, asks) = ask_again(&[first, second]);
        let waiting = std::thread::spawn(move || {
            let mut seen = Vec::new();
            for ask in asks {
                match ask {
                    Ask::Begin(from, inboxes) => {
                        inboxes[1].send(Message::Listed(7)).unwrap();
                        seen.push(Some((from, inboxes.len())));
                    }
                    Ask::Gone(_) => unreachable!("nobody asked for it"),
                    Ask::End => seen.push(None),
                }
            }
            seen
        });
        let _superseded = workers[0].begin(1, 10);
        let _first = workers[0].begin(2, 20);
        let second = workers[1].begin(2, 20);
        assert!(matches!(second.recv(), Ok(Message::Listed(7))));
        workers.iter().for_each(AskAgain::end);
        drop(workers);
        let seen = waiting.join().unwrap();
        assert_eq!(seen[0], Some((20, 2)));
        assert!(seen.len() <= 2 && seen.get(1).is_none_or(Option::is_none));
    }

    #[test]
    fn what_is_gone_is_asked_for_by_each_worker_and_ends_with_its_sender() {
        let (workers, mut asks) = ask_again(&[Inbox::new().0, Inbox::new().0]);
        let partition = PartitionId { source: 0, partition: 3 };
        let none = workers[0].gone(1, BTreeMap::new());
        let some = workers[1].gone(2, BTreeMap::from([(partition, 9)]));
        // Two have asked, and one word was left.
        let (Some(Ask::Gone(first)), Some(Ask::Gone(second))) = (asks.next(), asks.next()) else {
            panic!("two ask for what is gone")
        };
        assert_eq!((first.from, second.from, second.until[&partition]), (1, 2, 9));
        let record = PastRecord { partition, offset: 8, time: 5, record: "{}".into(), reworded: false };
        assert!(second.send(vec![record.clone()]) && second.is_wanted());
        drop((first, second));
        assert!(none.recv().is_err());
        assert_eq!(some.iter().flatten().collect::<Vec<_>>(), [record]);
        // Who asks for something else gives up what came before.
        let given_up = workers[0].gone(3, BTreeMap::new());
        let Some(Ask::Gone(gone)) = asks.next() else { panic!("it is asked for") };
        drop(given_up);
        assert!(!gone.is_wanted() && !gone.send(Vec::new()));
    }
}
