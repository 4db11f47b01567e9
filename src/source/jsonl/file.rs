//! Reads one file, batch by batch. Between two batches it holds a position and no bytes, so any number of files can be
//! read side by side; a line that doesn't fit a batch is read again from its start.
//!
//! Knows nothing of other files, of workers, or of why a file is read.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::Chunk;
use super::lines::{Giant, WINDOW, cut};
use crate::source::{BATCH_BYTES, MAX_RECORD, PartitionId, RecordBatch, RecordRef};

/// A file that is being read.
pub(super) struct FileReader {
    pub(super) partition: PartitionId,
    pub(super) path: PathBuf,
    file: Option<File>,
    /// Stays open between two reads; the others are opened for each, so that few are open at once.
    pub(super) keep_open: bool,
    /// First byte of the first line that hasn't been handed over.
    pub(super) position: u64,
    giant: Option<Giant>,
}

impl FileReader {
    /// A reader from `position` on, which must be the start of a line.
    pub(super) fn new(partition: PartitionId, path: &Path, position: u64) -> FileReader {
        FileReader { partition, path: path.into(), file: None, keep_open: false, position, giant: None }
    }

    /// Reads from this open file, whatever its name stands for later.
    pub(super) fn hold(&mut self, file: File) {
        self.file = Some(file);
        self.keep_open = true;
    }

    /// The next lines. With `last` the end of the file ends the last line, else that waits for its line end.
    ///
    /// # Errors
    /// The file can't be opened or read.
    pub(super) fn read(&mut self, last: bool) -> io::Result<Chunk> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.path)?,
        };
        let chunk = self.read_from(&mut file, last);
        if self.keep_open {
            self.file = Some(file);
        }
        chunk
    }

    fn read_from(&mut self, file: &mut File, last: bool) -> io::Result<Chunk> {
        let end = file.metadata()?.len();
        if self.giant.is_some() {
            return self.read_giant(file, end, last);
        }
        let mut records = Vec::new();
        for window in [BATCH_BYTES, WINDOW] {
            let bytes = read_at(file, self.position, end, window)?;
            if bytes.is_empty() {
                return Ok(Chunk::Nothing);
            }
            let at_end = bytes.len() < window || self.position + window as u64 >= end;
            let used = cut(&bytes, self.position, last && at_end, &mut records);
            if used > 0 {
                return Ok(Chunk::Batch(self.batch(bytes, used, records, end)));
            }
            if at_end {
                return Ok(Chunk::Nothing);
            }
            if window == WINDOW {
                self.giant = Some(Giant::new(&bytes, self.position));
            }
        }
        Ok(Chunk::Progress)
    }

    /// Looks for the end of a line that is too long, a batch's worth of it at a time.
    fn read_giant(&mut self, file: &mut File, end: u64, last: bool) -> io::Result<Chunk> {
        let Some(giant) = &mut self.giant else {
            return Ok(Chunk::Nothing);
        };
        let bytes = read_at(file, giant.scanned, end, BATCH_BYTES)?;
        let next = match giant.scan(&bytes) {
            Some(next) => next,
            None if giant.scanned < end && !bytes.is_empty() => return Ok(Chunk::Progress),
            None if last => giant.scanned,
            None => return Ok(Chunk::Nothing),
        };
        let head = read_at(file, self.position, end, MAX_RECORD)?;
        let records = giant.record(&head, self.position);
        self.giant = None;
        self.position = next;
        Ok(Chunk::Batch(RecordBatch {
            partition: self.partition,
            bytes: head,
            records,
            next_offset: next,
            end: Some(end),
        }))
    }

    fn batch(&mut self, mut bytes: Vec<u8>, used: usize, records: Vec<RecordRef>, end: u64) -> RecordBatch {
        bytes.truncate(used);
        self.position += used as u64;
        RecordBatch { partition: self.partition, bytes, records, next_offset: self.position, end: Some(end) }
    }
}

/// At most `limit` bytes from `position` on, fewer at the end of the file.
fn read_at(file: &mut File, position: u64, end: u64, limit: usize) -> io::Result<Vec<u8>> {
    let wanted = end.saturating_sub(position).min(limit as u64);
    let mut bytes = Vec::with_capacity(wanted as usize);
    if wanted > 0 {
        file.seek(SeekFrom::Start(position))?;
        file.take(wanted).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}
