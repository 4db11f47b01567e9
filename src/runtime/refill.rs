//! Reads sources again for rules that were loaded after their events: one thread a process, with readers of their own, which
//! commit nothing and end when their process's workers have what they asked for. What sources have no more comes from the
//! store, by another thread (`refill/kept.rs`).

mod kept;

use crossbeam_channel::bounded;

use super::archive::own_group;
use crate::config::Config;
use crate::inbox::again::{Ask, AskAgain, Asks, Gone, ask_again};
use crate::inbox::{Inboxes, Message};
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
    // One for each worker: whoever asks anew gives up what it asked for before.
    let (to_store, gone) = bounded::<Gone>(inboxes.local.len());
    let no_thread = |e| format!("no thread to read sources again: {e}; raise the limit of processes");
    let kept = config.clone();
    let store = std::thread::Builder::new().name("backfill-store".into());
    store.spawn(move || gone.iter().for_each(|gone| kept::give(&kept, &gone))).map_err(no_thread)?;
    std::thread::Builder::new()
        .name("backfill".into())
        .spawn(move || answer(asks, &config, places, &to_store))
        .map_err(no_thread)?;
    Ok(workers)
}

fn answer(asks: Asks, config: &Config, (first, peers): (usize, usize), to_store: &crossbeam_channel::Sender<Gone>) {
    let mut readers: Vec<Reader> = Vec::new();
    for ask in asks {
        match ask {
            Ask::Begin(from, local) => {
                readers.drain(..).for_each(Reader::stop);
                readers = begin(config, from, &Inboxes { first, peers, local });
            }
            Ask::Gone(gone) => {
                // Its thread ends after this one.
                let _ended = to_store.send(gone);
            }
            Ask::End => readers.drain(..).for_each(Reader::stop),
        }
    }
    readers.into_iter().for_each(Reader::stop);
}

fn begin(config: &Config, from: i64, inboxes: &Inboxes) -> Vec<Reader> {
    let mut readers = Vec::new();
    for (index, source) in (0u16..).zip(&config.sources) {
        let reader = match source::can_be_read_again(source) {
            true => source::start(index, &own_group(source, GROUP), inboxes.clone(), StartAt::Time(from)),
            false => Err("it can be read once only".into()),
        };
        match reader {
            Ok(reader) => readers.push(reader),
            Err(reason) => {
                tracing::info!(source = source.name(), "not read again for new and changed rules: {reason}");
                for inbox in &inboxes.local {
                    // Whoever asked may have given up.
                    let _given_up = inbox.send(Message::Listed(index));
                }
            }
        }
    }
    readers
}
