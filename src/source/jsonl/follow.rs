//! Follows a file or a folder: reads what is there, then what is added.
//!
//! Changes are told by the system (crate `notify`), and looked for every [`POLL`] besides, since not every file system
//! tells. Knows nothing of how files are found and numbered.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tracing::{info, warn};

use super::file::FileReader;
use super::folder::{Change, Folder, checked_start};
use super::stream::notify as tell;
use super::{Chunk, MAX_OPEN, POLL, too_many, wait};
use crate::source::{Feed, Halt, Message, StartAt};

/// However often files change, they aren't looked at more often.
const SCAN_APART: Duration = Duration::from_millis(5);
/// Looking takes at most one part in so many of the time.
const SCAN_SHARE: u32 = 50;
/// A file that has lost its name is read on until it hasn't grown for so long: its writer may not have noticed.
const LINGER: Duration = Duration::from_secs(5);

/// A file that is read here.
struct Followed {
    reader: FileReader,
    /// There may be more to read.
    unread: bool,
    /// The worker knows that there is no more.
    caught_up: bool,
    /// It has lost its name, and has been silent since then.
    left: Option<Instant>,
}

/// Reads one followed source.
pub(super) struct Follower<'a> {
    feed: &'a Feed,
    name: &'a str,
    start: StartAt,
    folder: Folder,
    files: BTreeMap<u32, Followed>,
    wake: Sender<()>,
    woken: Receiver<()>,
    watcher: Option<RecommendedWatcher>,
}

impl<'a> Follower<'a> {
    pub(super) fn new(feed: &'a Feed, name: &'a str, path: &Path, start: StartAt) -> Follower<'a> {
        let (wake, woken) = bounded(1);
        Follower {
            feed,
            name,
            start,
            folder: Folder::new(name, path),
            files: BTreeMap::new(),
            wake,
            woken,
            watcher: None,
        }
    }

    /// Reads until it is stopped.
    pub(super) fn run(mut self) -> Result<(), Halt> {
        let mut changed = true;
        let mut next_look = Instant::now();
        let mut next_poll = next_look;
        let mut listed = false;
        loop {
            let now = Instant::now();
            if (changed && now >= next_look) || now >= next_poll {
                self.watch();
                self.scan()?;
                if !std::mem::replace(&mut listed, true) {
                    self.feed.send_all(|| Message::Listed(self.feed.index))?;
                }
                changed = false;
                let apart = (now.elapsed() * SCAN_SHARE).max(SCAN_APART);
                next_look = Instant::now() + apart;
                next_poll = Instant::now() + apart.max(POLL);
            }
            if self.round()? {
                changed |= self.woken.try_recv().is_ok();
            } else if changed {
                // More words of change are no news until the next look.
                let pause = next_look.saturating_duration_since(Instant::now());
                wait(self.feed, &never(), pause);
            } else {
                let pause = next_poll.saturating_duration_since(Instant::now());
                changed = wait(self.feed, &self.woken, pause);
            }
            if self.feed.stopped() {
                return Err(Halt::Closed);
            }
        }
    }

    /// Asks the system to tell of changes, as soon as the folder is there.
    fn watch(&mut self) {
        if !self.folder.path.is_dir() {
            self.watcher = None;
        }
        if self.watcher.is_some() || !self.folder.path.is_dir() {
            return;
        }
        let wake = self.wake.clone();
        let only = self.folder.only().map(ToOwned::to_owned);
        let on_event = move |event: notify::Result<notify::Event>| {
            let concerns = |p: &PathBuf| Folder::concerns(only.as_deref(), p);
            // Errors (lost events) are a reason to look, and reading is none.
            if event.is_ok_and(|e| matches!(e.kind, EventKind::Access(_)) || !e.paths.iter().any(concerns)) {
                return;
            }
            tell(&wake);
        };
        let path = self.folder.path.clone();
        let watching = notify::recommended_watcher(on_event).and_then(|mut watcher| {
            watcher.watch(&path, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match watching {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(e) => {
                let text = format!("changes aren't told ({e}); looking every {POLL:?} instead");
                self.folder.complain(&path.join("*"), text);
            }
        }
    }

    fn scan(&mut self) -> Result<(), Halt> {
        let changes = self.folder.scan().map_err(|_| Halt::Failed(too_many(self.name)))?;
        for change in changes {
            match change {
                Change::Found { number, path, file, len } => self.found(number, &path, file, len)?,
                Change::Touched(number) => {
                    if let Some(followed) = self.files.get_mut(&number) {
                        followed.unread = true;
                    }
                }
                Change::Left(number) => self.left(number)?,
                Change::Truncated(number) => self.finish(number, "truncated")?,
            }
        }
        self.linger()
    }

    fn found(&mut self, number: u32, path: &Path, file: File, len: u64) -> Result<(), Halt> {
        let id = self.feed.id(number);
        if !self.feed.owns(id) {
            return Ok(());
        }
        let from = checked_start(path, len, self.start.of(id).unwrap_or(0));
        info!(
            source = self.name,
            path = %path.display(),
            partition = number,
            from,
            "following"
        );
        let mut reader = FileReader::new(id, path, from);
        if self.files.len() < MAX_OPEN {
            reader.hold(file);
        }
        self.feed.send(id, Message::Assigned(id))?;
        let followed = Followed { reader, unread: true, caught_up: false, left: None };
        self.files.insert(number, followed);
        Ok(())
    }

    /// The file's name is gone. As long as it is open it can be read to its end.
    fn left(&mut self, number: u32) -> Result<(), Halt> {
        match self.files.get_mut(&number) {
            Some(followed) if followed.reader.keep_open => {
                followed.left = Some(Instant::now());
                followed.unread = true;
                Ok(())
            }
            Some(_) => self.finish(number, "removed or replaced"),
            None => Ok(()),
        }
    }

    /// Ends the files that have lost their names and stay silent.
    fn linger(&mut self) -> Result<(), Halt> {
        let mut over = Vec::new();
        for (number, followed) in &mut self.files {
            match followed.left {
                Some(since) if since.elapsed() >= LINGER && !followed.unread => over.push(*number),
                Some(_) => followed.unread = true,
                None => {}
            }
        }
        for number in over {
            self.last_line(number)?;
            self.finish(number, "removed or replaced")?;
        }
        Ok(())
    }

    /// Nobody will end the last line any more: it counts as it is.
    fn last_line(&mut self, number: u32) -> Result<(), Halt> {
        let Some(followed) = self.files.get_mut(&number) else {
            return Ok(());
        };
        let id = followed.reader.partition;
        loop {
            match followed.reader.read(true) {
                Ok(Chunk::Batch(batch)) => self.feed.send(id, Message::Batch(batch))?,
                Ok(Chunk::Progress) => {}
                Ok(Chunk::Nothing | Chunk::Pending) => return Ok(()),
                Err(e) => {
                    let path = followed.reader.path.clone();
                    self.folder.complain(&path, format!("its last line is lost: {e}"));
                    return Ok(());
                }
            }
            if self.feed.stopped() {
                return Err(Halt::Closed);
            }
        }
    }

    fn finish(&mut self, number: u32, why: &str) -> Result<(), Halt> {
        let Some(followed) = self.files.remove(&number) else {
            return Ok(());
        };
        let FileReader { partition, path, position, .. } = followed.reader;
        warn!(
            source = self.name,
            path = %path.display(),
            partition = number,
            position,
            "{why}: this partition ends; what the name stands for next is a new one"
        );
        self.feed.send(partition, Message::Finished(partition))?;
        Ok(())
    }

    /// One batch of each file that has one. Whether there may be more.
    fn round(&mut self) -> Result<bool, Halt> {
        let mut more = false;
        for followed in self.files.values_mut().filter(|f| f.unread) {
            let id = followed.reader.partition;
            match followed.reader.read(false) {
                Ok(Chunk::Batch(batch)) => {
                    self.feed.send(id, Message::Batch(batch))?;
                    followed.caught_up = false;
                    followed.left = followed.left.map(|_| Instant::now());
                    more = true;
                }
                Ok(Chunk::Progress) => more = true,
                Ok(Chunk::Nothing | Chunk::Pending) => {
                    followed.unread = false;
                    if !followed.caught_up {
                        followed.caught_up = true;
                        self.feed.send(id, Message::CaughtUp(id))?;
                    }
                }
                Err(e) => {
                    let path = followed.reader.path.clone();
                    self.folder.complain(&path, format!("can't be read: {e}; trying again"));
                }
            }
            if self.feed.stopped() {
                return Err(Halt::Closed);
            }
        }
        Ok(more)
    }
}
