//! What there is to follow: finds files, sees them grow, be replaced and vanish, and numbers them.
//!
//! A followed file's partition is a 32-bit hash (xxh3) of its name and its first line, of that at most [`HEAD_BYTES`]. So
//! every process finds the same number without talking to the others, a restart finds it again, and a file that is
//! rotated or truncated, which begins with another line, is another partition. A file has no number, and isn't read,
//! before its first line is complete. Where numbers collide, or a file is replaced by one with an equal first line, the
//! next seed is taken: then only do the numbers depend on what this process has seen. (A file that is renamed to
//! another `*.jsonl` name is read again: rotate to names that end otherwise.)
//!
//! Knows nothing of lines but where the first one ends, and nothing of who reads the files.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tracing::{info, warn};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::MAX_FILES;

/// How much of a file's first line tells it from others.
const HEAD_BYTES: u64 = 1024;
/// Names that are looked at in a folder.
const EXTENSION: &str = "jsonl";

/// What a look at the folder found.
pub(super) enum Change {
    /// A file to read from its beginning, or from where an earlier run got to.
    Found { number: u32, path: PathBuf, file: File, len: u64 },
    /// There may be more to read.
    Touched(u32),
    /// The name stands for another file now, or for none: nothing comes any more but what the open file still has.
    Left(u32),
    /// The file was cut off: what hadn't been read is gone.
    Truncated(u32),
}

/// A file as it was seen last.
#[derive(Clone, Copy, PartialEq)]
struct Seen {
    len: u64,
    modified: Option<SystemTime>,
    inode: u64,
}

impl Seen {
    fn new(metadata: &Metadata) -> Seen {
        Seen { len: metadata.len(), modified: metadata.modified().ok(), inode: inode(metadata) }
    }
}

#[cfg(unix)]
fn inode(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

/// Without inodes a replaced file shows by its length and its first line alone.
#[cfg(not(unix))]
fn inode(_: &Metadata) -> u64 {
    0
}

/// What is known under one name.
struct Tracked {
    /// `None`: there is no such file at the moment.
    seen: Option<Seen>,
    /// Its first line.
    head: Vec<u8>,
    /// `None`: there is no file, or its first line isn't complete.
    number: Option<u32>,
    /// Files with this name and first line before this one.
    generation: u32,
}

/// A followed file or folder.
pub(super) struct Folder {
    source: String,
    /// The folder.
    pub(super) path: PathBuf,
    /// The one file that is followed; `None`: all `*.jsonl`.
    only: Option<OsString>,
    tracked: BTreeMap<OsString, Tracked>,
    numbers: HashMap<u32, OsString>,
    /// What was said last about a path, so that it is said once.
    complaints: HashMap<PathBuf, String>,
}

impl Folder {
    /// What `path` stands for. If there is nothing yet, a name with an extension is a file to come, any other a folder.
    pub(super) fn new(source: &str, path: &Path) -> Folder {
        let is_file = path.is_file() || (!path.is_dir() && path.extension().is_some());
        let (folder, only) = match (is_file, path.file_name()) {
            (true, Some(name)) => (path.parent().unwrap_or(Path::new("")), Some(name.into())),
            _ => (path, None),
        };
        let here = folder.as_os_str().is_empty();
        Folder {
            source: source.into(),
            path: if here { ".".into() } else { folder.into() },
            only,
            tracked: BTreeMap::new(),
            numbers: HashMap::new(),
            complaints: HashMap::new(),
        }
    }

    /// Whether a change of this path may matter.
    pub(super) fn concerns(only: Option<&OsStr>, path: &Path) -> bool {
        match only {
            Some(name) => path.file_name() == Some(name),
            None => path.extension() == Some(OsStr::new(EXTENSION)),
        }
    }

    /// The one file that is followed, if it isn't a folder's.
    pub(super) fn only(&self) -> Option<&OsStr> {
        self.only.as_deref()
    }

    /// Looks at everything once.
    ///
    /// # Errors
    /// There are too many files: their number.
    pub(super) fn scan(&mut self) -> Result<Vec<Change>, usize> {
        let mut changes = Vec::new();
        let Some(names) = self.names() else {
            return Ok(changes);
        };
        if names.len() > MAX_FILES {
            return Err(names.len());
        }
        for (name, tracked) in &mut self.tracked {
            if tracked.seen.is_some() && !names.contains(name) {
                tracked.seen = None;
                if let Some(number) = tracked.number.take() {
                    self.numbers.remove(&number);
                    changes.push(Change::Left(number));
                }
            }
        }
        if self.tracked.len() > MAX_FILES {
            self.tracked.retain(|_, tracked| tracked.seen.is_some());
        }
        for name in names {
            let path = self.path.join(&name);
            match self.look(name, &path, &mut changes) {
                Ok(()) => self.content(&path),
                Err(e) => self.complain(&path, format!("can't be read: {e}; trying again")),
            }
        }
        Ok(changes)
    }

    /// The files there are; `None` if that can't be told at the moment.
    fn names(&mut self) -> Option<BTreeSet<OsString>> {
        let path = self.path.clone();
        if let Some(name) = self.only.clone() {
            let file = path.join(&name);
            if file.is_file() {
                return Some(BTreeSet::from([name]));
            }
            self.complain(&file, "no such file yet; waiting for it".into());
            return Some(BTreeSet::new());
        }
        match list(&path) {
            Ok(names) => {
                self.content(&path);
                Some(names)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                match fs::create_dir_all(&path) {
                    Ok(()) => info!(source = self.source, folder = %path.display(), "created"),
                    Err(e) => {
                        let text = format!("no such folder, and it can't be made: {e}; waiting");
                        self.complain(&path, text);
                    }
                }
                Some(BTreeSet::new())
            }
            Err(e) => {
                self.complain(&path, format!("can't be listed: {e}; trying again"));
                None
            }
        }
    }

    fn look(&mut self, name: OsString, path: &Path, changes: &mut Vec<Change>) -> io::Result<()> {
        let before = self.tracked.get(&name).and_then(|t| t.seen);
        let metadata = fs::metadata(path)?;
        if !metadata.is_file() || before == Some(Seen::new(&metadata)) {
            return Ok(());
        }
        let file = File::open(path)?;
        // Of the open file: the name may stand for another by now.
        let seen = Seen::new(&file.metadata()?);
        let head = read_head(&file)?;
        let tracked = self.tracked.entry(name.clone()).or_insert(Tracked {
            seen: None,
            head: Vec::new(),
            number: None,
            generation: 0,
        });
        tracked.seen = Some(seen);
        let same_head = head.as_ref() == Some(&tracked.head);
        if let (Some(number), Some(before)) = (tracked.number, before) {
            let moved = seen.inode != before.inode;
            if same_head && !moved && seen.len >= before.len {
                changes.push(Change::Touched(number));
                return Ok(());
            }
            self.numbers.remove(&number);
            tracked.number = None;
            changes.push(if moved { Change::Left(number) } else { Change::Truncated(number) });
        }
        let Some(head) = head else {
            return Ok(());
        };
        tracked.generation = match same_head {
            true => tracked.generation + 1,
            false => 0,
        };
        tracked.head = head;
        let number = number(&name, tracked, &self.numbers);
        tracked.number = Some(number);
        self.numbers.insert(number, name);
        changes.push(Change::Found { number, path: path.into(), file, len: seen.len });
        Ok(())
    }

    /// Says something about a path, once.
    pub(super) fn complain(&mut self, path: &Path, text: String) {
        if self.complaints.get(path) != Some(&text) {
            warn!(source = self.source, path = %path.display(), "{text}");
            self.complaints.insert(path.into(), text);
        }
        if self.complaints.len() > MAX_FILES {
            self.complaints.clear();
        }
    }

    fn content(&mut self, path: &Path) {
        if !self.complaints.is_empty() {
            self.complaints.remove(path);
        }
    }
}

/// The `*.jsonl` names in a folder.
pub(super) fn list(folder: &Path) -> io::Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        if Path::new(&name).extension() == Some(OsStr::new(EXTENSION)) {
            names.insert(name);
        }
    }
    Ok(names)
}

/// Where to begin in a file of that length: `from`, unless the file has become shorter since that was noted.
pub(super) fn checked_start(path: &Path, len: u64, from: u64) -> u64 {
    if from <= len {
        return from;
    }
    warn!(
        path = %path.display(),
        "has {len} bytes, fewer than the {from} that had been read: reading from its start"
    );
    0
}

/// The first line with its end, or its first [`HEAD_BYTES`]; `None` while it isn't complete.
fn read_head(file: &File) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    file.take(HEAD_BYTES).read_to_end(&mut head)?;
    match memchr::memchr(b'\n', &head) {
        Some(end) => head.truncate(end + 1),
        None if (head.len() as u64) < HEAD_BYTES => return Ok(None),
        None => {}
    }
    Ok(Some(head))
}

/// A free number for the file; see the top of this file.
fn number(name: &OsStr, tracked: &Tracked, taken: &HashMap<u32, OsString>) -> u32 {
    let mut bytes = name.as_encoded_bytes().to_vec();
    bytes.push(0);
    bytes.extend_from_slice(&tracked.head);
    let mut seed = u64::from(tracked.generation);
    loop {
        // Of 2^32 numbers at most MAX_FILES are taken: a free one is soon found.
        let number = xxh3_64_with_seed(&bytes, seed) as u32;
        if !taken.contains_key(&number) {
            return number;
        }
        seed += 1 << 32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracked(head: &str, generation: u32) -> Tracked {
        Tracked { seen: None, head: head.into(), number: None, generation }
    }

    #[test]
    fn numbers_are_those_of_earlier_runs() {
        let none = HashMap::new();
        let of = |name: &str, head, generation| number(OsStr::new(name), &tracked(head, generation), &none);
        let numbers = [0, 1].map(|generation| of("a.jsonl", "{1}\n", generation));
        assert_eq!(numbers, [3_643_325_510, 3_895_720_576]);
        assert_ne!(of("a.jsonl", "{1}\n", 0), of("b.jsonl", "{1}\n", 0));
        assert_ne!(of("a.jsonl", "{1}\n", 0), of("a.jsonl", "{2}\n", 0));
    }

    #[test]
    fn a_number_that_is_taken_is_not_given_again() {
        let name = OsStr::new("a.jsonl");
        let mut taken = HashMap::new();
        for _ in 0..3 {
            let number = number(name, &tracked("{1}\n", 0), &taken);
            assert!(taken.insert(number, name.into()).is_none());
        }
    }
}
