//! How workers ask for records that have been read before, for rules that were loaded since. All workers of a process ask at
//! one epoch; whoever answers reads the sources again, with positions of his own, into inboxes that are made for it.
//!
//! What is asked later takes the place of what was asked before: there is one place for each worker, and one word that waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Inbox, Message, Waker};

/// What one worker asks for.
struct Asked {
    fill: u32,
    from: i64,
    inbox: Inbox,
}

type Places = Arc<Mutex<Vec<Option<Asked>>>>;

fn lock(places: &Places) -> MutexGuard<'_, Vec<Option<Asked>>> {
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
        self.put(Some(Asked { fill, from, inbox }));
        receiver
    }

    /// Asks for nothing more.
    pub fn end(&self) {
        self.put(None);
    }

    fn put(&self, asked: Option<Asked>) {
        if let Some(place) = lock(&self.places).get_mut(self.place) {
            *place = asked;
        }
        // One word that waits is enough.
        let _one_waits = self.news.try_send(());
    }
}

/// What all workers of the process ask for.
pub enum Ask {
    /// Records from this time on, to these inboxes, which are in the order of the workers.
    Begin(i64, Vec<Inbox>),
    /// Nothing more.
    End,
}

/// The answering side.
pub struct Asks {
    places: Places,
    news: Receiver<()>,
    begun: u32,
}

/// Waits for what is asked next; ends when the workers are gone.
impl Iterator for Asks {
    type Item = Ask;

    fn next(&mut self) -> Option<Ask> {
        loop {
            self.news.recv().ok()?;
            let places = lock(&self.places);
            let fill = places.first().and_then(|asked| asked.as_ref()).map_or(0, |asked| asked.fill);
            let same = places.iter().all(|asked| asked.as_ref().map_or(0, |asked| asked.fill) == fill);
            if !same || fill == self.begun {
                continue;
            }
            self.begun = fill;
            let Some(Some(Asked { from, .. })) = places.first() else { return Some(Ask::End) };
            return Some(Ask::Begin(*from, places.iter().flatten().map(|asked| asked.inbox.clone()).collect()));
        }
    }
}

/// Both sides, for the workers of a process whose inboxes these are.
pub fn ask_again(inboxes: &[Inbox]) -> (Vec<AskAgain>, Asks) {
    let places: Places = Arc::new(Mutex::new(inboxes.iter().map(|_| None).collect()));
    let (news, told) = bounded(1);
    let worker = |(place, inbox): (usize, &Inbox)| AskAgain {
        place,
        waker: inbox.waker().clone(),
        places: places.clone(),
        news: news.clone(),
    };
    let workers = inboxes.iter().enumerate().map(worker).collect();
    (workers, Asks { places, news: told, begun: 0 })
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
}
