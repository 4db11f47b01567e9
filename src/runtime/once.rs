//! What can be read once only (standard input, a pipe), put aside on disk as it is read, until the archive has it (SPEC §8).
//!
//! A folder of segments below the state folder, each named by the position of its first byte and with the bytes from there on.
//! One process writes them, where the source is read; the archive reads them, and deletes those that the store has. The
//! latest stays, since its end says from where a later run counts on. What is full or can't be written is told and counted, and
//! stops nobody: detection goes on.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clawdstrike_telemetry::is_blank;

use crate::config::{Config, Source};
use crate::hex;
use crate::inbox::{BATCH_BYTES, MAX_RECORD, Message, PartitionId, RecordBatch, RecordRef};

/// A segment is closed at this size.
const SEGMENT: u64 = 8 << 20;
/// Bytes that may wait for the archive; of more nothing is put aside.
const MOST: u64 = 1 << 30;
/// What the folder is called in the state folder.
const FOLDER: &str = "once";

/// Where what is read of a source is put aside; `None`: events aren't archived, or process 0 is on another machine.
pub(super) fn folder(config: &Config, index: u16) -> Option<PathBuf> {
    let source = config.sources.get(usize::from(index))?;
    let Source::Jsonl { name, .. } = source else { return None };
    let partition = PartitionId { source: index, partition: 0 };
    let here = config.cluster.addresses.is_empty() || partition.owner(config.workers()) < config.cluster.threads;
    let kept = config.store.keeps().is_some() && here && !crate::source::can_be_read_again(source);
    kept.then(|| config.cluster.state.join(FOLDER).join(hex::encode(name.as_bytes())))
}

/// Positions of segments and their lengths, in order.
fn segments(folder: &Path) -> io::Result<Vec<(u64, u64)>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut begins: Vec<u64> = Vec::new();
    for entry in entries {
        begins.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    begins.sort_unstable();
    // Asked now, since none but the last grows once the one behind it is there.
    let mut found = Vec::new();
    for begin in begins {
        match segment(folder, begin).metadata() {
            Ok(metadata) => found.push((begin, metadata.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

fn segment(folder: &Path, begin: u64) -> PathBuf {
    folder.join(format!("{begin:020}"))
}

/// Where an earlier run has come to, as far as it put it aside.
pub(super) fn end(folder: &Path) -> Result<u64, String> {
    let segments = segments(folder).map_err(|e| told(folder, &e))?;
    Ok(segments.last().map_or(0, |(begin, len)| begin + len))
}

fn told(folder: &Path, error: &io::Error) -> String {
    format!("folder \"{}\": {error}; let the engine's user read and write it", folder.display())
}

/// Puts aside.
pub(super) struct Writer {
    source: String,
    folder: PathBuf,
    /// What comes next.
    next: u64,
    /// The current segment and its length.
    current: Option<(File, u64)>,
    /// The last byte was a line's end.
    whole: bool,
    /// Bytes that could not be put aside since that was last possible.
    left_out: u64,
}

impl Writer {
    /// Puts aside what comes from this position on.
    ///
    /// # Errors
    /// The folder can't be made.
    pub(super) fn new(source: &str, folder: PathBuf, next: u64) -> Result<Writer, String> {
        std::fs::create_dir_all(&folder).map_err(|e| told(&folder, &e))?;
        Ok(Writer { source: source.into(), folder, next, current: None, whole: true, left_out: 0 })
    }

    /// Takes what the source tells a worker.
    pub(super) fn take(&mut self, message: &Message) {
        match message {
            Message::Batch(batch) => {
                let whole = self.next + batch.bytes.len() as u64 == batch.next_offset;
                // Of a line that is too long, and so no event, not all bytes are there.
                let kept = if whole { self.put(&batch.bytes) } else { Ok(()) };
                self.next = batch.next_offset;
                if !whole {
                    self.current = None;
                }
                self.note(kept, batch.bytes.len() as u64);
            }
            Message::Finished(_) if !self.whole => {
                let kept = self.put(b"\n");
                self.note(kept, 1);
            }
            _ => {}
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), String> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (mut file, len) = match self.current.take() {
            Some((file, len)) if len < SEGMENT => (file, len),
            _ => (self.begin()?, 0),
        };
        file.write_all(bytes).map_err(|e| told(&self.folder, &e))?;
        self.whole = bytes.ends_with(b"\n");
        self.current = Some((file, len + bytes.len() as u64));
        Ok(())
    }

    fn begin(&self) -> Result<File, String> {
        let waiting: u64 = segments(&self.folder).map_err(|e| told(&self.folder, &e))?.iter().map(|(_, len)| len).sum();
        if waiting >= MOST {
            return Err(format!("{MOST} bytes wait for the store already: see what keeps it"));
        }
        let mut options = OpenOptions::new();
        // An empty one may be there from a run that ended at once.
        options
            .create(true)
            .append(true)
            .mode(0o600)
            .open(segment(&self.folder, self.next))
            .map_err(|e| told(&self.folder, &e))
    }

    /// Tells of what is left out when that begins, and how much it was when it has ended.
    fn note(&mut self, kept: Result<(), String>, bytes: u64) {
        let source = &self.source;
        match kept {
            Ok(()) if self.left_out > 0 => {
                let bytes = std::mem::take(&mut self.left_out);
                tracing::error!(source, bytes, "not archived, and new rules won't see it: it could not be put aside");
            }
            Ok(()) => {}
            Err(reason) => {
                // What follows is in another segment.
                self.current = None;
                if self.left_out == 0 {
                    tracing::error!(source, "what is read from now on is not archived: {reason}");
                }
                self.left_out += bytes;
            }
        }
    }
}

/// Reads what was put aside.
pub(super) struct Reader {
    folder: PathBuf,
    partition: PartitionId,
    /// What comes next.
    next: u64,
}

impl Reader {
    /// Reads from this position on.
    pub(super) fn new(folder: PathBuf, partition: PartitionId, next: u64) -> Reader {
        Reader { folder, partition, next }
    }

    /// The next lines, as far as there are any.
    ///
    /// # Errors
    /// The folder or a segment can't be read.
    pub(super) fn read(&mut self) -> Result<Option<RecordBatch>, String> {
        let segments = segments(&self.folder).map_err(|e| told(&self.folder, &e))?;
        for (n, &(begin, len)) in segments.iter().enumerate() {
            let is_last = n + 1 == segments.len();
            if begin + len <= self.next {
                continue;
            }
            let from = self.next.max(begin);
            let bytes = self.bytes(begin, from).map_err(|e| told(&self.folder, &e))?;
            let ends = from + bytes.len() as u64 >= begin + len;
            // A line that isn't complete may become so only in the latest one.
            let used = match memchr::memrchr(b'\n', &bytes) {
                Some(end) => end + 1,
                None if ends && is_last => return Ok(None),
                None => bytes.len(),
            };
            let used = if ends && !is_last { bytes.len() } else { used };
            self.next = from + used as u64;
            return Ok(Some(self.batch(bytes, used, from)));
        }
        Ok(None)
    }

    fn bytes(&self, begin: u64, from: u64) -> io::Result<Vec<u8>> {
        let mut file = File::open(segment(&self.folder, begin))?;
        file.seek(SeekFrom::Start(from - begin))?;
        let mut bytes = Vec::new();
        // So much that a line which may be an event is there to its end.
        file.take((BATCH_BYTES + MAX_RECORD) as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn batch(&self, mut bytes: Vec<u8>, used: usize, from: u64) -> RecordBatch {
        bytes.truncate(used);
        let mut records = Vec::new();
        let mut start = 0;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = line.strip_suffix(b"\n").unwrap_or(line);
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            if !is_blank(text) {
                let offset = from + start as u64;
                records.push(RecordRef { start: start as u32, len: text.len() as u32, offset, append: None });
            }
            start += line.len();
        }
        RecordBatch { partition: self.partition, bytes, records, next_offset: self.next, end: None }
    }

    /// Whether there is more than the latest segment.
    ///
    /// # Errors
    /// The folder can't be read.
    pub(super) fn has_old(&self) -> Result<bool, String> {
        Ok(segments(&self.folder).map_err(|e| told(&self.folder, &e))?.len() > 1)
    }

    /// Deletes what lies before this position, as far as those are whole segments; the latest stays.
    ///
    /// # Errors
    /// One can't be deleted.
    pub(super) fn forget(&self, before: u64) -> Result<(), String> {
        let mut segments = segments(&self.folder).map_err(|e| told(&self.folder, &e))?;
        segments.pop();
        for (begin, _) in segments.into_iter().filter(|(begin, len)| begin + len <= before) {
            std::fs::remove_file(segment(&self.folder, begin)).map_err(|e| told(&self.folder, &e))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITION: PartitionId = PartitionId { source: 0, partition: 0 };

    fn batch(bytes: &[u8], next_offset: u64) -> Message {
        Message::Batch(RecordBatch {
            partition: PARTITION,
            bytes: bytes.to_vec(),
            records: Vec::new(),
            next_offset,
            end: None,
        })
    }

    /// Lines with their positions.
    fn lines(reader: &mut Reader) -> Vec<(u64, String)> {
        let mut lines = Vec::new();
        while let Some(batch) = reader.read().unwrap() {
            let text = |r: &RecordRef| {
                String::from_utf8(batch.bytes[r.start as usize..][..r.len as usize].to_vec()).expect("text")
            };
            lines.extend(batch.records.iter().map(|record| (record.offset, text(record))));
        }
        lines
    }

    #[test]
    fn what_is_put_aside_is_read_at_its_positions_and_forgotten_when_it_is_stored() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("once/s");
        let mut writer = Writer::new("s", place.clone(), 7).unwrap();
        let mut reader = Reader::new(place.clone(), PARTITION, 0);
        writer.take(&batch(b"one\n\ntwo\n", 16));
        assert_eq!(lines(&mut reader), [(7, "one".into()), (12, "two".into())]);
        assert_eq!(lines(&mut reader), []);
        // Of a line that is too long not all is there: what follows has its position all the same.
        writer.take(&batch(b"giant", 100));
        writer.take(&batch(b"three\nfo", 108));
        assert_eq!(lines(&mut reader), [(100, "three".into())]);
        writer.take(&batch(b"ur", 110));
        writer.take(&Message::Finished(PARTITION));
        assert_eq!(lines(&mut reader), [(106, "four".into())]);
        assert_eq!(end(&place), Ok(111));
        reader.forget(111).unwrap();
        assert_eq!(segments(&place).unwrap(), [(100, 11)], "the latest says where to count on");
        // A later run goes on behind it.
        let mut writer = Writer::new("s", place.clone(), 111).unwrap();
        writer.take(&batch(b"five\n", 116));
        assert_eq!(lines(&mut Reader::new(place, PARTITION, 106)), [(106, "four".into()), (111, "five".into())]);
    }

    #[test]
    fn a_line_that_was_cut_off_by_the_end_of_a_run_holds_nothing_back() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().to_path_buf();
        Writer::new("s", place.clone(), 0).unwrap().take(&batch(b"one\nha", 6));
        Writer::new("s", place.clone(), 6).unwrap().take(&batch(b"two\n", 10));
        let read = lines(&mut Reader::new(place, PARTITION, 0));
        assert_eq!(read, [(0, "one".into()), (4, "ha".into()), (6, "two".into())]);
    }

    #[test]
    fn what_cannot_be_put_aside_stops_nobody_and_what_follows_keeps_its_position() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("s");
        let mut writer = Writer::new("s", place.clone(), 0).unwrap();
        std::fs::remove_dir(&place).unwrap();
        writer.take(&batch(b"lost\n", 5));
        assert_eq!(writer.left_out, 5);
        std::fs::create_dir(&place).unwrap();
        writer.take(&batch(b"kept\n", 10));
        assert_eq!(writer.left_out, 0);
        assert_eq!(lines(&mut Reader::new(place, PARTITION, 0)), [(5, "kept".into())]);
    }
}
