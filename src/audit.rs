//! The audit trail: `audit.jsonl` in the state folder, one row for each write and each refused one, only ever appended to.
//!
//! A row's hash is the SHA-256 of its text without the hash, and each row names the hash of the one before: a row that was
//! removed, changed or moved shows. `audit.head` has the last row's, so that rows missing at the end show too. Whoever may
//! write both files can still make a trail of their own: copies elsewhere, or the last number and hash, show that.
//!
//! A full file is renamed `audit-<its last row>.jsonl` and never deleted; the chain goes on in the next. The engine and
//! commands may append at the same time: each takes the lock and looks at the last row. Knows no route and no rule.

mod copy;
mod trail;

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clawdstrike_telemetry::time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::hex;
use crate::timestamp::Timestamp;
use crate::wall_clock;

pub use copy::Copied;
pub use trail::{Page, Verified};

/// A file of rows is closed, and the next begun, before it would be longer.
pub const FILE_BYTES: u64 = 16 << 20;
/// The longest row; what doesn't fit leaves its details out, and says so.
pub const MAX_ROW_BYTES: usize = 32 << 10;
/// The longest text of an entry, in characters.
const MAX_TEXT: usize = 1_000;
/// What the first row names as the hash before it.
const BEGINNING: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// The row that names a torn line.
const TORN: &str = "audit.torn";
/// What stands between a row's other members and its hash.
const HASH: &str = ",\"hash\":\"";

/// Who did it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Who {
    /// Which kind of caller; `nobody`: without a token that holds.
    #[schemars(extend("enum" = Who::KINDS))]
    pub kind: String,
    /// A token's name, a user.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// A token's id.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// A token's role.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub role: String,
}

impl Who {
    /// The kinds that there are. Not a type: rows of later versions stay readable.
    pub const KINDS: [&str; 7] = ["token", "oidc", "anonymous", "nobody", "command line", "rules folder", "engine"];

    /// Somebody of this kind alone, which is one of [`Who::KINDS`].
    pub fn kind(kind: &str) -> Who {
        debug_assert!(Who::KINDS.contains(&kind), "{kind}");
        Who { kind: kind.to_owned(), ..Who::default() }
    }

    /// In one word: the name, else the kind.
    pub fn label(self) -> String {
        if self.name.is_empty() { self.kind } else { self.name }
    }
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// About to be done; the row that says how it ended names this one as `of`.
    Begun,
    /// Done.
    Done,
    /// Tried, and nothing has changed.
    Failed,
    /// Not even tried.
    Refused,
}

impl Outcome {
    /// As rows have it.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Begun => "begun",
            Outcome::Done => "done",
            Outcome::Failed => "failed",
            Outcome::Refused => "refused",
        }
    }
}

/// What a row tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AuditEntry")]
pub struct Entry {
    /// Who.
    pub who: Who,
    /// From which address, if from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What, such as `rules.load`.
    pub action: String,
    /// How it went.
    pub outcome: Outcome,
    /// What else there is to know of such an action.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub detail: Map<String, Value>,
}

impl Entry {
    /// Without an address and details.
    pub fn new(who: Who, action: &str, outcome: Outcome) -> Entry {
        Entry { who, from: None, action: action.to_owned(), outcome, detail: Map::new() }
    }

    /// With a further detail; texts are cut to a bounded length.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Entry {
        let value = match value.into() {
            Value::String(text) => Value::String(text.chars().take(MAX_TEXT).collect()),
            other => other,
        };
        self.detail.insert(name.to_owned(), value);
        self
    }
}

/// A row as it stands in the file, but for its hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Row {
    /// From 1, without gaps.
    #[schemars(range(min = 1))]
    seq: u64,
    /// When; UTC, microseconds.
    #[schemars(with = "Timestamp")]
    time: String,
    #[serde(flatten)]
    entry: Entry,
    /// The hash of the row before.
    prev: String,
}

/// A row of the trail, as it stands in the file.
// To be described only: whoever reads rows takes them as they are, so that their hashes can be computed again.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AuditRow")]
pub struct Shown {
    #[serde(flatten)]
    row: Row,
    /// SHA-256 of the row's text without this member.
    hash: String,
}

/// Where the chain stands: the last row's number and hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Link {
    seq: u64,
    hash: String,
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The line of a row, and its hash.
fn seal(row: &Row) -> Result<(String, String), String> {
    let mut line = serde_json::to_string(row).map_err(|e| e.to_string())?;
    let hash = sha256(line.as_bytes());
    line.pop();
    line.push_str(&format!("{HASH}{hash}\"}}\n"));
    Ok((line, hash))
}

/// The row of a line, and its hash, if the hash is right.
fn open(line: &str) -> Option<(Row, String)> {
    let at = line.len().checked_sub(HASH.len() + 64 + 2)?;
    let (body, tail) = (line.get(..at)?, line.get(at..)?);
    let hash = tail.strip_prefix(HASH)?.strip_suffix("\"}")?;
    let body = format!("{body}}}");
    (sha256(body.as_bytes()) == hash).then(|| Some((serde_json::from_str(&body).ok()?, hash.to_owned())))?
}

/// The trail of one state folder.
#[derive(Clone, Debug)]
pub struct Audit {
    folder: PathBuf,
    file_bytes: u64,
}

impl Audit {
    /// The one of this state folder; nothing is read yet.
    pub fn of(state: &Path) -> Audit {
        Audit { folder: state.to_owned(), file_bytes: FILE_BYTES }
    }

    fn current(&self) -> PathBuf {
        self.folder.join("audit.jsonl")
    }

    fn head(&self) -> PathBuf {
        self.folder.join("audit.head")
    }

    /// Appends a row, away from threads that answer others.
    ///
    /// # Errors
    /// See [`Audit::append`].
    pub async fn record(&self, entry: Entry) -> Result<u64, String> {
        let audit = self.clone();
        let appended = tokio::task::spawn_blocking(move || audit.append(entry)).await;
        appended.unwrap_or_else(|e| Err(format!("the audit trail: {e}")))
    }

    /// Appends a row and makes it durable; gives its number.
    ///
    /// # Errors
    /// It can't be written, or there is nothing whole to chain it to.
    pub fn append(&self, entry: Entry) -> Result<u64, String> {
        let said = |e: std::io::Error| {
            format!(
                "the audit trail \"{}\" can't be written: {e}; make room, or let the engine's user write there",
                self.current().display()
            )
        };
        std::fs::create_dir_all(&self.folder).map_err(said)?;
        let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(self.folder.join("audit.lock"));
        let lock = lock.map_err(said)?;
        lock.lock().map_err(said)?;
        let mut file = self.open_current().map_err(said)?;
        let length = file.metadata().map_err(said)?.len();
        let (mut last, torn) = self.last(&mut file, length)?;
        let mut length = file.metadata().map_err(said)?.len();
        if let Some(torn) = torn {
            file.write_all(b"\n").map_err(said)?;
            length += 1;
            let named = Entry::new(Who::kind("engine"), TORN, Outcome::Failed)
                .with("bytes", torn.len())
                .with("sha256", sha256(&torn));
            last = self.write(&mut file, &mut length, last, named).map_err(said)?;
        }
        if length > self.file_bytes.saturating_sub(MAX_ROW_BYTES as u64) {
            let full = self.folder.join(format!("audit-{:012}.jsonl", last.seq));
            std::fs::rename(self.current(), full).map_err(said)?;
            (file, length) = (self.open_current().map_err(said)?, 0);
        }
        let last = self.write(&mut file, &mut length, last, entry).map_err(said)?;
        tracing::debug!(seq = last.seq, hash = last.hash, "audit");
        Ok(last.seq)
    }

    fn open_current(&self) -> std::io::Result<File> {
        let file = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(self.current())?;
        File::open(&self.folder)?.sync_all()?;
        Ok(file)
    }

    /// The last whole row, and what a writer that was killed has left behind it.
    fn last(&self, file: &mut File, length: u64) -> Result<(Link, Option<Vec<u8>>), String> {
        let said = |e: std::io::Error| format!("the audit trail \"{}\" can't be read: {e}", self.current().display());
        // The last row and a torn one fit in.
        let from = length.saturating_sub(2 * MAX_ROW_BYTES as u64);
        file.seek(SeekFrom::Start(from)).map_err(said)?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail).map_err(said)?;
        let torn = tail.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let torn = tail.split_off(torn);
        let torn = (!torn.is_empty()).then_some(torn);
        let line = tail.strip_suffix(b"\n").map(|tail| tail.rsplit(|b| *b == b'\n').next().unwrap_or_default());
        if let Some((row, hash)) = line.and_then(|line| std::str::from_utf8(line).ok()).and_then(open) {
            let last = Link { seq: row.seq, hash };
            // Only the line's end is missing: a row like any other.
            let next = torn.as_deref().and_then(|torn| std::str::from_utf8(torn).ok()).and_then(open);
            return match next {
                Some((row, hash)) if row.prev == last.hash => {
                    file.write_all(b"\n").map_err(said)?;
                    Ok((Link { seq: row.seq, hash }, None))
                }
                _ => Ok((last, torn)),
            };
        }
        // Nothing whole in this file: it is new, or somebody was at it, which `verify` then names.
        let head = match std::fs::read(self.head()) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| {
                format!("the audit trail: \"{}\" is damaged ({e}), and no whole row tells where the chain ends: restore both files", self.head().display())
            })?,
            Err(e) if e.kind() == ErrorKind::NotFound && line.is_none() => Link { seq: 0, hash: BEGINNING.into() },
            Err(e) => return Err(said(e)),
        };
        Ok((head, torn))
    }

    /// Writes one row; the file ends with a whole row afterwards, also when that fails.
    fn write(&self, file: &mut File, length: &mut u64, last: Link, entry: Entry) -> std::io::Result<Link> {
        let mut row = Row { seq: last.seq + 1, time: time::format(wall_clock::now()), entry, prev: last.hash };
        let mut sealed = seal(&row).map_err(std::io::Error::other)?;
        if sealed.0.len() > MAX_ROW_BYTES {
            row.entry.detail = Map::from_iter([("left_out_bytes".to_owned(), json!(sealed.0.len()))]);
            sealed = seal(&row).map_err(std::io::Error::other)?;
        }
        let (line, hash) = sealed;
        if let Err(error) = file.write_all(line.as_bytes()).and_then(|()| file.sync_data()) {
            // If this fails as well, the next row names what is left.
            let _named_later = file.set_len(*length);
            return Err(error);
        }
        *length += line.len() as u64;
        let link = Link { seq: row.seq, hash };
        self.set_head(&link)?;
        Ok(link)
    }

    /// Never ahead of the rows: those are durable already.
    fn set_head(&self, link: &Link) -> std::io::Result<()> {
        let new = self.folder.join("audit.head.new");
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
        serde_json::to_writer(&mut file, link)?;
        file.sync_all()?;
        std::fs::rename(new, self.head())
    }
}

#[cfg(test)]
mod tests;
