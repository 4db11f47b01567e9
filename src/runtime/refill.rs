//! Reads sources again for rules that were loaded after their events: one thread a process, with readers of their own, which
//! commit nothing and end when their process's workers have what they asked for. What sources have no more comes from the
//! store, by another thread (`refill/kept.rs`).

mod kept;

use std::sync::Arc;

use crossbeam_channel::{Sender, bounded};

use super::archive::own_group;
use super::what_if::ReadAgain;
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
    let (to_store, gone): (Sender<Gone>, _) = bounded(inboxes.local.len());
    let no_thread = |e| format!("no thread to read sources again: {e}; raise the limit of processes");
    let kept = config.clone();
    let look = move || {
        for unseen in gone.iter().flat_map(|gone| kept::give(&kept, &gone)) {
            tracing::warn!("new and changed rules don't see all earlier events: {unseen}");
        }
    };
    let store = std::thread::Builder::new().name("backfill-store".into());
    store.spawn(look).map_err(no_thread)?;
    let answer = move || {
        answer(asks, &config, places, |gone| {
            // Its thread ends after this one.
            let _ended = to_store.send(gone);
        });
    };
    std::thread::Builder::new().name("backfill".into()).spawn(answer).map_err(no_thread)?;
    Ok(workers)
}

/// Reads sources again for a what-if, all their partitions, and tells what couldn't be had.
pub fn for_what_if(config: &Config) -> ReadAgain {
    let config = config.clone();
    Arc::new(move |asks| {
        let mut unseen = Vec::new();
        answer(asks, &config, (0, 1), |gone| unseen.extend(kept::give(&config, &gone)));
        unseen
    })
}

fn answer(asks: Asks, config: &Config, (first, peers): (usize, usize), mut is_gone: impl FnMut(Gone)) {
    let mut readers: Vec<Reader> = Vec::new();
    for ask in asks {
        match ask {
            Ask::Begin(from, local) => {
                readers.drain(..).for_each(Reader::stop);
                readers = begin(config, from, &Inboxes { first, peers, local });
            }
            Ask::Gone(gone) => is_gone(gone),
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
                tracing::info!(source = source.name(), "not read again: {reason}");
                for inbox in &inboxes.local {
                    // Whoever asked may have given up.
                    let _given_up = inbox.send(Message::Listed(index));
                }
            }
        }
    }
    readers
}
