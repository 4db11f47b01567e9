//! Reads sources again for rules that were loaded after their events: one thread a process, with readers of their own, which
//! commit nothing and end when their process's workers have what they asked for.

use super::archive::own_group;
use crate::config::Config;
use crate::inbox::again::{Ask, AskAgain, Asks, ask_again};
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
    std::thread::Builder::new()
        .name("backfill".into())
        .spawn(move || answer(asks, &config, places))
        .map_err(|e| format!("no thread to read sources again: {e}; raise the limit of processes"))?;
    Ok(workers)
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
    let mut readers = Vec::new();
    for (index, source) in (0u16..).zip(&config.sources) {
        let reader = match source::can_be_read_again(source) {
            true => source::start(index, &own_group(source, GROUP), inboxes.clone(), StartAt::Time(from)),
            false => Err("it can be read once only".into()),
        };
        match reader {
            Ok(reader) => readers.push(reader),
            Err(reason) => {
                tracing::warn!(source = source.name(), "new and changed rules don't see its earlier events: {reason}");
                for inbox in &inboxes.local {
                    // Whoever asked may have given up.
                    let _given_up = inbox.send(Message::Listed(index));
                }
            }
        }
    }
    readers
}
