//! Where checkpoints are: a folder, or whatever else `object_store` reaches. Calls wait, so they are for threads of their
//! own, never for workers or tasks.
//!
//! An object of ours ends with 8 bytes, little-endian: xxh3 (64 bits, no seed) of all before them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use tokio::runtime::Runtime;
use xxhash_rust::xxh3::xxh3_64;

use super::direct;

/// What failed is tried again after so long.
pub(super) const AGAIN: Duration = Duration::from_millis(500);
/// Bytes of the checksum.
const CHECKSUM: usize = 8;

/// Why the storage didn't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// It can't be reached, or refused.
    #[error("checkpoint storage \"{place}\": {what} \"{name}\": {reason}")]
    Failed {
        /// Which storage.
        place: String,
        /// What it was asked.
        what: &'static str,
        /// With which object.
        name: String,
        /// What it said.
        reason: String,
    },
    /// An object isn't what was written.
    #[error("checkpoint storage \"{place}\": \"{name}\" is damaged: its checksum is wrong")]
    Damaged {
        /// Which storage.
        place: String,
        /// Which object.
        name: String,
    },
}

/// Of a server's answer this much is repeated, in characters.
const SAID: usize = 300;

/// What an error comes from. Leaves out what only repeats it: addresses, which may hold passwords, and times, by which the
/// same failure would look like another one.
fn reason(error: &dyn std::error::Error) -> String {
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !text.is_empty() {
            texts.retain(|outer| !outer.contains(&text));
            texts.push(text);
        }
        cause = error.source();
    }
    let text = texts.join(": ");
    // Of an answer in XML, its code and message: it may go on with the request's headers.
    let said = text.split_once('<').and_then(|(before, answer)| {
        let tag = |name: &str| answer.split_once(&format!("<{name}>"))?.1.split_once("</").map(|(said, _)| said);
        Some(format!("{before}{}: {}", tag("Code")?, tag("Message").unwrap_or_default()))
    });
    said.unwrap_or_else(|| text.split('<').next().unwrap_or_default().to_owned()).chars().take(SAID).collect()
}

/// Waits until a file, or the names in a folder, are on the disk.
fn sync(path: &Path) -> std::io::Result<()> {
    std::fs::File::open(path)?.sync_all()
}

/// An object's bytes with their checksum; cloned, it shares them.
#[derive(Clone)]
pub struct Sealed(PutPayload);

impl Sealed {
    /// Adds the checksum.
    pub fn new(mut body: Vec<u8>) -> Sealed {
        let checksum = xxh3_64(&body).to_le_bytes();
        body.extend_from_slice(&checksum);
        Sealed(body.into())
    }

    /// The memory that it was made in, if nobody shares it any more.
    pub(super) fn into_buffer(self) -> Option<Vec<u8>> {
        let mut chunks = self.0.into_iter();
        let only = chunks.next()?;
        drop(chunks);
        only.is_unique().then(|| only.into())
    }
}

/// A place for checkpoints.
#[derive(Clone)]
pub struct Storage {
    store: Arc<dyn ObjectStore>,
    /// Of a folder: its files are flushed to the disk, too.
    folder: Option<PathBuf>,
    place: String,
    runtime: Arc<Runtime>,
    hurries: bool,
    troubles: Troubles,
}

/// Why somebody waits for a storage, of all who do.
#[derive(Clone, Default)]
pub struct Troubles(Arc<Mutex<BTreeMap<u64, String>>>);

impl Troubles {
    /// Of the one who has waited longest.
    pub fn first(&self) -> Option<String> {
        self.lock().first_key_value().map(|(_, reason)| reason.clone())
    }

    /// By turn; one a thread at most.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who can't go on without the storage. As long as it fails him, that shows.
pub(super) struct Waiter<'a> {
    storage: &'a Storage,
    waits: &'static str,
    /// His turn, and what was told last.
    told: Option<(u64, String)>,
}

impl Waiter<'_> {
    /// It has failed, for this reason.
    pub fn fails(&mut self, reason: &str) {
        if self.told.as_ref().is_some_and(|(_, told)| told == reason) {
            return;
        }
        tracing::warn!("{}: {reason}; trying again", self.waits);
        let mut troubles = self.storage.troubles.lock();
        let last = troubles.last_key_value().map_or(0, |(turn, _)| *turn);
        let turn = self.told.take().map_or(last + 1, |(turn, _)| turn);
        troubles.insert(turn, format!("{}: {reason}", self.waits));
        self.told = Some((turn, reason.to_owned()));
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if let Some((turn, _)) = &self.told {
            self.storage.troubles.lock().remove(turn);
            tracing::info!("{}: no longer", self.waits);
        }
    }
}

impl Storage {
    /// A folder; made if it isn't there.
    ///
    /// # Errors
    /// It can't be made or written; the text says why.
    pub fn folder(path: &Path) -> Result<Storage, String> {
        let failed = |e: &dyn std::fmt::Display| {
            format!("checkpoint folder \"{}\": {e}; name a folder that can be written", path.display())
        };
        std::fs::create_dir_all(path).map_err(|e| failed(&e))?;
        let store = LocalFileSystem::new_with_prefix(path).map_err(|e| failed(&e))?;
        Storage::new(Arc::new(store), Some(path.to_owned()), path.display().to_string())
    }

    /// Anything that `object_store` reaches; `place`: its name in messages.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn object_store(store: Arc<dyn ObjectStore>, place: &str) -> Result<Storage, String> {
        Storage::new(store, None, place.to_owned())
    }

    fn new(store: Arc<dyn ObjectStore>, folder: Option<PathBuf>, place: String) -> Result<Storage, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| format!("no thread for checkpoints: {e}; raise the limit of processes"))?;
        Ok(Storage { store, folder, place, runtime: Arc::new(runtime), hurries: false, troubles: Troubles::default() })
    }

    /// Whoever waits for it doesn't pause between two attempts: for a test in which no time passes.
    pub fn without_pauses(mut self) -> Storage {
        self.hurries = true;
        self
    }

    /// Before another attempt.
    pub(super) fn pause(&self, pause: Duration) {
        if !self.hurries {
            std::thread::sleep(pause);
        }
    }

    fn failed(&self, what: &'static str, name: &str, error: impl std::error::Error) -> StorageError {
        StorageError::Failed { place: self.place.clone(), what, name: name.to_owned(), reason: reason(&error) }
    }

    /// Writes an object; it is durable afterwards.
    ///
    /// # Errors
    /// It isn't there, or perhaps isn't.
    pub fn put(&self, name: &str, body: &Sealed) -> Result<(), StorageError> {
        self.write(name, body, PutMode::Overwrite).map(|_| ())
    }

    /// As [`Storage::put`], of an object whose name is given once and that nobody looks for before it is there. So a file needs no
    /// other name meanwhile, which a process that is killed would leave behind.
    ///
    /// # Errors
    /// It isn't there, or only a part of it.
    pub fn put_once(&self, name: &str, body: &Sealed) -> Result<(), StorageError> {
        let Some(folder) = &self.folder else { return self.put(name, body) };
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        let parts: Vec<&[u8]> = body.0.iter().map(|part| &**part).collect();
        let written = std::fs::create_dir_all(parent).and_then(|()| direct::write(&path, &parts));
        written.and_then(|()| sync(parent)).map_err(|e| self.failed("writing", name, e))
    }

    /// As [`Storage::put`], and again until it is there; `waits` says who waits for it.
    pub fn put_until_there(&self, name: &str, body: &Sealed, waits: &'static str) {
        self.until_done(waits, || false, || self.put(name, body));
    }

    /// Tries until it works, or (`None`) until nobody wants it any more.
    pub(super) fn until_done<T>(
        &self,
        waits: &'static str,
        is_over: impl Fn() -> bool,
        what: impl Fn() -> Result<T, StorageError>,
    ) -> Option<T> {
        let mut waiter = self.waiter(waits);
        loop {
            match what() {
                Ok(done) => return Some(done),
                Err(error) => waiter.fails(&error.to_string()),
            }
            if is_over() {
                return None;
            }
            self.pause(AGAIN);
        }
    }

    /// Somebody who can't go on without the storage.
    pub(super) fn waiter(&self, waits: &'static str) -> Waiter<'_> {
        Waiter { storage: self, waits, told: None }
    }

    /// Who waits for it, as it goes.
    pub fn troubles(&self) -> Troubles {
        self.troubles.clone()
    }

    /// As [`Storage::put`], unless there is another object of the name: then says `false`.
    ///
    /// # Errors
    /// As [`Storage::put`].
    pub fn create(&self, name: &str, body: &Sealed) -> Result<bool, StorageError> {
        Ok(self.write(name, body, PutMode::Create)? || self.is_there(name, body)?)
    }

    /// The same was written before, and the answer was lost.
    fn is_there(&self, name: &str, Sealed(body): &Sealed) -> Result<bool, StorageError> {
        let is_same = body.iter().flatten().eq(&self.read(name)?);
        if is_same {
            self.flush(name)?;
        }
        Ok(is_same)
    }

    fn write(&self, name: &str, Sealed(body): &Sealed, mode: PutMode) -> Result<bool, StorageError> {
        let options = PutOptions::from(mode);
        let path = object_store::path::Path::from(name);
        let put = self.store.put_opts(&path, body.clone(), options);
        match self.runtime.block_on(put) {
            Ok(_) => self.flush(name).map(|()| true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(self.failed("writing", name, error)),
        }
    }

    /// object_store renames a file into its place, but doesn't wait for the disk.
    fn flush(&self, name: &str) -> Result<(), StorageError> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let path = folder.join(name);
        sync(&path).and_then(|()| path.parent().map_or(Ok(()), sync)).map_err(|e| self.failed("flushing", name, e))
    }

    /// An object without its checksum.
    ///
    /// # Errors
    /// It isn't there, can't be read, or is damaged.
    pub fn get(&self, name: &str) -> Result<Vec<u8>, StorageError> {
        let body = self.read(name)?;
        let damaged = || StorageError::Damaged { place: self.place.clone(), name: name.to_owned() };
        let (body, checksum) = body.split_last_chunk::<CHECKSUM>().ok_or_else(damaged)?;
        if xxh3_64(body).to_le_bytes() != *checksum {
            return Err(damaged());
        }
        Ok(body.to_vec())
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, StorageError> {
        let read = async { self.store.get(&name.into()).await?.bytes().await };
        Ok(self.runtime.block_on(read).map_err(|e| self.failed("reading", name, e))?.into())
    }

    /// Bytes of an object without its checksum; `None`: there is none.
    ///
    /// # Errors
    /// The storage doesn't answer.
    pub fn size(&self, name: &str) -> Result<Option<u64>, StorageError> {
        match self.runtime.block_on(self.store.head(&name.into())) {
            Ok(found) => Ok(Some(found.size.saturating_sub(CHECKSUM as u64))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("looking for", name, error)),
        }
    }

    /// Names of all objects below a prefix.
    ///
    /// # Errors
    /// The storage doesn't answer.
    pub fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        Ok(self.sizes(prefix)?.into_iter().map(|(name, _)| name).collect())
    }

    /// As [`Storage::list`], with each object's bytes without its checksum.
    ///
    /// # Errors
    /// As [`Storage::list`].
    pub fn sizes(&self, prefix: &str) -> Result<Vec<(String, u64)>, StorageError> {
        let path = object_store::path::Path::from(prefix);
        let size = |object: ObjectMeta| (object.location.to_string(), object.size.saturating_sub(CHECKSUM as u64));
        let found: Result<Vec<_>, _> = self.runtime.block_on(self.store.list(Some(&path)).map_ok(size).try_collect());
        found.map_err(|e| self.failed("listing", prefix, e))
    }

    /// Deletes objects; what can't be deleted is only in the way, and tried again when it is found again.
    pub fn delete(&self, names: impl IntoIterator<Item = String>) {
        for name in names {
            match self.runtime.block_on(self.store.delete(&name.as_str().into())) {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => tracing::debug!(name, %error, "an object that nothing needs was not deleted"),
            }
        }
    }
}
