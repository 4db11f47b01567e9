//! Reading the trail for a copy of it: rows in order, and how far the copy has come (`audit.copied`).

use clawdstrike_telemetry::time;

use super::trail::{lines, row};
use super::{Audit, Entry};

/// A row for a copy.
#[derive(Clone, Debug, PartialEq)]
pub struct Copied {
    /// Its number.
    pub seq: u64,
    /// When it was appended, microseconds since 1970.
    pub time: i64,
    /// What it tells.
    pub entry: Entry,
    /// Its hash.
    pub hash: String,
    /// As it stands in the file.
    pub line: String,
}

impl Audit {
    /// At most `limit` rows that the copy hasn't, the oldest first. Lines that are no whole rows are left out.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn uncopied(&self, limit: usize) -> Result<Vec<Copied>, String> {
        let last = self.read_head()?.map_or(0, |head| head.seq);
        // Further than the trail: it was restored from a backup, and goes on with other rows.
        let after = Some(self.read_copied()?).filter(|copied| *copied <= last).unwrap_or(0);
        let mut out = Vec::new();
        if after == last {
            return Ok(out);
        }
        let _lock = self.lock_shared()?;
        for (_, path) in self.files()?.into_iter().filter(|(last, _)| *last > after) {
            lines(&path, |_, line| {
                if out.len() < limit {
                    out.extend(copied(&line.bytes).filter(|copied| copied.seq > after));
                }
                Ok(())
            })?;
            if out.len() >= limit {
                break;
            }
        }
        Ok(out)
    }

    /// Notes that the copy has all rows up to this one.
    ///
    /// # Errors
    /// It can't be written.
    pub fn copied(&self, seq: u64) -> Result<(), String> {
        let path = self.folder.join("audit.copied");
        let new = self.folder.join("audit.copied.new");
        // Not flushed to disk: rows may be copied twice.
        std::fs::write(&new, seq.to_string())
            .and_then(|()| std::fs::rename(&new, &path))
            .map_err(|e| format!("\"{}\" can't be written: {e}", path.display()))
    }

    /// What can't be read as a number counts as none: everything is copied once more.
    fn read_copied(&self) -> Result<u64, String> {
        let path = self.folder.join("audit.copied");
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim().parse().unwrap_or(0)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(e) => Err(format!("\"{}\" can't be read: {e}", path.display())),
        }
    }
}

fn copied(line: &[u8]) -> Option<Copied> {
    let (row, hash) = row(line)?;
    Some(Copied {
        seq: row.seq,
        time: time::parse(&row.time)?,
        entry: row.entry,
        hash,
        line: String::from_utf8_lossy(line).into_owned(),
    })
}
