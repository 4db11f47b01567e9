//! Threads that take turns: each stops before every request to the storage until it is its turn, so a schedule decides on
//! everything that happens, and the same schedule makes the same happen.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::store::{Fate, What};

/// A request: what, and of which object.
pub type Asked = (What, String);

/// What a thread waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It does something, or has been told to go on.
    Running,
    /// It asks the storage; `None`: it only looks again whether others have come further.
    Waiting(Option<Asked>),
    /// Its request meets this; `None`: it dies first.
    Granted(Option<Fate>),
    /// It has ended; if it panicked, with this.
    Ended(Option<String>),
}

#[derive(Default)]
struct Table {
    turns: Mutex<Vec<Turn>>,
    changed: Condvar,
}

impl Table {
    fn turns(&self) -> MutexGuard<'_, Vec<Turn>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, place: usize, turn: Turn) {
        self.turns()[place] = turn;
        self.changed.notify_all();
    }

    fn wait(&self, place: usize, turn: Turn) -> Fate {
        self.set(place, turn);
        let mut turns = self.turns();
        loop {
            if let Turn::Granted(fate) = turns[place] {
                turns[place] = Turn::Running;
                drop(turns);
                return fate.unwrap_or_else(|| resume_unwind(Box::new(Killed)));
            }
            turns = self.changed.wait(turns).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// How a thread dies that is killed.
struct Killed;

/// A thread's place among the others.
#[derive(Clone)]
pub struct Place {
    table: Arc<Table>,
    at: usize,
}

impl Place {
    /// Waits for the turn to ask this.
    pub fn ask(&self, what: What, name: &str) -> Fate {
        self.table.wait(self.at, Turn::Waiting(Some((what, name.to_owned()))))
    }

    /// Lets others go first.
    pub fn pass(&self) {
        self.table.wait(self.at, Turn::Waiting(None));
    }
}

/// All threads, and whose turn it is.
#[derive(Default)]
pub struct Turns {
    table: Arc<Table>,
    threads: Vec<JoinHandle<()>>,
}

impl Turns {
    /// Starts one; gives its number.
    pub fn start(&mut self, run: impl FnOnce(&Place) + Send + 'static) -> usize {
        let at = self.threads.len();
        self.table.turns().push(Turn::Running);
        let place = Place { table: self.table.clone(), at };
        self.threads.push(std::thread::spawn(move || {
            let ended = catch_unwind(AssertUnwindSafe(|| run(&place)));
            let panicked = ended.err().filter(|why| !why.is::<Killed>());
            let text = panicked.map(|why| {
                let text = why.downcast_ref::<String>().cloned();
                text.or_else(|| why.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
            });
            place.table.set(at, Turn::Ended(text));
        }));
        at
    }

    /// What each waits for, once none runs.
    pub fn all(&self) -> Vec<Turn> {
        let mut turns = self.table.turns();
        while turns.iter().any(|turn| matches!(turn, Turn::Running | Turn::Granted(_))) {
            turns = self.table.changed.wait(turns).unwrap_or_else(PoisonError::into_inner);
        }
        turns.clone()
    }

    /// It is this one's turn; `None`: it dies.
    pub fn grant(&self, at: usize, fate: Option<Fate>) {
        self.table.set(at, Turn::Granted(fate));
    }
}

impl Drop for Turns {
    /// Kills those that wait.
    fn drop(&mut self) {
        loop {
            let waiting = self.all().iter().position(|turn| matches!(turn, Turn::Waiting(_)));
            let Some(at) = waiting else { break };
            self.grant(at, None);
        }
        for thread in self.threads.drain(..) {
            // Its panic was told in its turn.
            let _told = thread.join();
        }
    }
}
