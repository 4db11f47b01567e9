//! Reading the trail: pages of rows, and whether the chain is whole.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Audit, BEGINNING, Link, MAX_ROW_BYTES, Row, TORN, open, sha256};

/// What a whole chain holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verified {
    /// The first row's number; 0: there is none.
    pub first: u64,
    /// The last row's.
    pub last: u64,
    /// The last row's hash.
    pub hash: String,
    /// Torn lines that the row after them names, as `file:line`.
    pub torn: Vec<String>,
    /// The file's last line, if a writer was killed in the middle of it and nobody has written since.
    pub torn_end: Option<String>,
}

/// Rows, the latest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// As they stand in the file, with `hash`.
    pub rows: Vec<Value>,
    /// Lines among them that are no whole rows; `audit verify` names them.
    pub unreadable: u64,
}

/// One line of a file, without its end.
pub(super) struct Line {
    pub(super) bytes: Vec<u8>,
    whole: bool,
}

/// Calls `each` with the number of a line, from 1, and the line, in order.
pub(super) fn lines(path: &Path, mut each: impl FnMut(u64, Line) -> Result<(), String>) -> Result<(), String> {
    let said = |e: std::io::Error| format!("\"{}\" can't be read: {e}", path.display());
    let mut file = BufReader::new(File::open(path).map_err(said)?);
    for number in 1.. {
        let mut bytes = Vec::new();
        // Longer than any row: then it is none, and what follows it neither.
        (&mut file).take(2 * MAX_ROW_BYTES as u64).read_until(b'\n', &mut bytes).map_err(said)?;
        if bytes.is_empty() {
            break;
        }
        let whole = bytes.ends_with(b"\n");
        if whole {
            bytes.pop();
        }
        each(number, Line { bytes, whole })?;
    }
    Ok(())
}

pub(super) fn row(bytes: &[u8]) -> Option<(Row, String)> {
    open(std::str::from_utf8(bytes).ok()?)
}

/// A chain that is being followed.
struct Walk {
    verified: Verified,
    /// Number and hash of the row before; `None`: any will do.
    last: Option<Link>,
    /// A line that was no row, and where: the next row must name it.
    torn: Option<(String, Vec<u8>)>,
    head: Option<Link>,
}

impl Walk {
    fn take(&mut self, place: String, line: Line) -> Result<(), String> {
        let Some((row, hash)) = row(&line.bytes) else {
            let torn = format!("{place}: is no whole row: its text and its hash don't fit");
            if self.torn.is_some() {
                return Err(torn);
            }
            match line.whole {
                true => self.torn = Some((place, line.bytes)),
                false => self.verified.torn_end = Some(place),
            }
            return Ok(());
        };
        if let Some((place, bytes)) = self.torn.take() {
            let detail = &row.entry.detail;
            let named = row.entry.action == TORN
                && detail.get("bytes").and_then(Value::as_u64) == Some(bytes.len() as u64)
                && detail.get("sha256").and_then(Value::as_str) == Some(&sha256(&bytes));
            if !named {
                return Err(format!(
                    "{place}: is no whole row: its text and its hash don't fit, and the row after it doesn't name it as torn"
                ));
            }
            self.verified.torn.push(place);
        }
        if let Some(last) = &self.last {
            if row.seq != last.seq + 1 {
                return Err(format!(
                    "{place}: row {} follows row {}: rows are missing, doubled or out of order",
                    row.seq, last.seq
                ));
            }
            if row.prev != last.hash {
                return Err(format!(
                    "{place}: row {} doesn't name the hash of row {}: that one is another than it was",
                    row.seq, last.seq
                ));
            }
        }
        if let Some(head) = &self.head
            && head.seq == row.seq
            && head.hash != hash
        {
            return Err(format!("{place}: row {} is another than \"audit.head\" says", row.seq));
        }
        if self.verified.first == 0 {
            self.verified.first = row.seq;
        }
        (self.verified.last, self.verified.hash) = (row.seq, hash.clone());
        self.last = Some(Link { seq: row.seq, hash });
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<(), String> {
        lines(path, |number, line| self.take(format!("\"{}\" line {number}", path.display()), line))
    }

    fn end(self) -> Result<Verified, String> {
        if let Some((place, _)) = self.torn {
            return Err(format!("{place}: is no whole row: its text and its hash don't fit"));
        }
        match self.head {
            Some(head) if head.seq > self.verified.last => Err(format!(
                "rows {} to {} are missing at the end: \"audit.head\" names row {}",
                self.verified.last + 1,
                head.seq,
                head.seq
            )),
            _ => Ok(self.verified),
        }
    }
}

impl Audit {
    /// Whether one file, of this trail or a copy, is a whole part of a chain.
    ///
    /// # Errors
    /// The first broken row, or why the file can't be read.
    pub fn verify_file(path: &Path) -> Result<Verified, String> {
        let mut walk = Walk { verified: Verified::default(), last: None, torn: None, head: None };
        walk.file(path)?;
        walk.end()
    }

    /// Whether the whole trail is there, from its first row to its last.
    ///
    /// # Errors
    /// The first broken row, or why a file can't be read.
    pub fn verify(&self) -> Result<Verified, String> {
        // While nobody appends, so that rows and head belong together.
        let _lock = self.lock_shared()?;
        let head = self.read_head()?;
        let last = Some(Link { seq: 0, hash: BEGINNING.into() });
        let mut walk = Walk { verified: Verified::default(), last, torn: None, head };
        for (_, path) in self.files()? {
            walk.file(&path)?;
        }
        walk.end()
    }

    /// Keeps writers away until it is dropped; a trail that nobody has written to has no lock.
    pub(super) fn lock_shared(&self) -> Result<Option<File>, String> {
        let Ok(lock) = File::open(self.folder.join("audit.lock")) else { return Ok(None) };
        lock.lock_shared().map_err(|e| format!("the audit trail can't be locked: {e}"))?;
        Ok(Some(lock))
    }

    /// The files in order, each with the number of its last row (the current one has none yet).
    pub(super) fn files(&self) -> Result<Vec<(u64, PathBuf)>, String> {
        let said = |e: std::io::Error| format!("\"{}\" can't be read: {e}", self.folder.display());
        let mut files = Vec::new();
        let entries = match std::fs::read_dir(&self.folder) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(files),
            entries => entries.map_err(said)?,
        };
        for entry in entries {
            let path = entry.map_err(said)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let closed = name.strip_prefix("audit-").and_then(|name| name.strip_suffix(".jsonl"));
            match closed.map(str::parse) {
                Some(Ok(last)) => files.push((last, path)),
                _ if name == "audit.jsonl" => files.push((u64::MAX, path)),
                _ => {}
            }
        }
        files.sort();
        Ok(files)
    }

    /// At most `limit` rows before row `before` (`None`: the latest).
    ///
    /// # Errors
    /// A file can't be read.
    pub fn page(&self, before: Option<u64>, limit: usize) -> Result<Page, String> {
        let _lock = self.lock_shared()?;
        let before = before.unwrap_or(u64::MAX);
        let files = self.files()?;
        let mut page = Page::default();
        for at in (0..files.len()).rev() {
            let first = if at == 0 { 1 } else { files[at - 1].0 + 1 };
            if first >= before || page.rows.len() >= limit {
                continue;
            }
            let mut rows = Vec::new();
            lines(&files[at].1, |_, line| {
                match row(&line.bytes) {
                    Some((row, _)) if row.seq < before => rows.push(line.bytes),
                    Some(_) => {}
                    None => page.unreadable += 1,
                }
                Ok(())
            })?;
            let wanted = limit - page.rows.len();
            let latest = rows.iter().rev().take(wanted).filter_map(|line| serde_json::from_slice(line).ok());
            page.rows.extend(latest);
        }
        Ok(page)
    }

    pub(super) fn read_head(&self) -> Result<Option<Link>, String> {
        match std::fs::read(self.head()) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|e| format!("\"{}\" is damaged: {e}", self.head().display())),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(format!("\"{}\" can't be read: {e}", self.head().display())),
        }
    }
}
