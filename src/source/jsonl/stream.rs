//! Reads standard input and pipes: what can be read once only. A thread of its own does the blocking reads and hands
//! over a few pieces ahead, so that the reader can always be stopped; it ends at the stream's end or with the process.
//!
//! Knows nothing of workers, or of other inputs.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use super::lines::{Giant, WINDOW, cut};
use super::{Chunk, is_stdin};
use crate::source::{BATCH_BYTES, MAX_RECORD, PartitionId, RecordBatch};

/// Pieces that wait for the reader, of at most [`BATCH_BYTES`] each.
const PIECES: usize = 2;
/// A stream that was silent for so long is caught up.
const QUIET: Duration = Duration::from_millis(200);

/// A stream that is being read.
pub(super) struct StreamReader {
    pub(super) partition: PartitionId,
    pieces: Receiver<io::Result<Vec<u8>>>,
    /// What has been read and not handed over; its first byte has the position `offset`.
    rest: Vec<u8>,
    offset: u64,
    /// `rest` is the beginning of a line that is too long, and its end is being looked for.
    giant: Option<Giant>,
    /// `rest` may hold whole lines.
    uncut: bool,
    heard: Instant,
}

impl StreamReader {
    /// Opens the stream; its positions count from `offset`. `wake` is told when there is something to read.
    ///
    /// # Errors
    /// There is no thread to read it.
    pub(super) fn open(partition: PartitionId, path: &Path, offset: u64, wake: Sender<()>) -> io::Result<StreamReader> {
        let (sender, pieces) = bounded(PIECES);
        let path = path.to_path_buf();
        // Opening a pipe waits for its writer, so that too is done there.
        let body = move || {
            if is_stdin(&path) {
                return pump(io::stdin(), sender, &wake);
            }
            match File::open(&path) {
                Ok(pipe) => pump(pipe, sender, &wake),
                Err(e) => {
                    // Disconnected: the reader is gone.
                    let _nobody_left = sender.send(Err(e));
                }
            }
        };
        std::thread::Builder::new().name("source-stream".into()).spawn(body)?;
        Ok(StreamReader {
            partition,
            pieces,
            rest: Vec::new(),
            offset,
            giant: None,
            uncut: false,
            heard: Instant::now(),
        })
    }

    /// Nothing came for a while.
    pub(super) fn quiet(&self) -> bool {
        self.heard.elapsed() >= QUIET
    }

    /// The next lines, as far as they are there: never waits.
    ///
    /// # Errors
    /// The stream can't be read.
    pub(super) fn read(&mut self) -> io::Result<Chunk> {
        if self.uncut {
            return Ok(self.cut(false));
        }
        match self.pieces.try_recv() {
            Ok(piece) => {
                self.heard = Instant::now();
                Ok(self.take(piece?))
            }
            Err(TryRecvError::Empty) => Ok(Chunk::Pending),
            Err(TryRecvError::Disconnected) => Ok(self.finish()),
        }
    }

    fn take(&mut self, piece: Vec<u8>) -> Chunk {
        let Some(giant) = &mut self.giant else {
            if self.rest.is_empty() {
                self.rest = piece;
            } else {
                self.rest.extend_from_slice(&piece);
            }
            return self.cut(false);
        };
        let scanned = giant.scanned;
        match giant.scan(&piece) {
            Some(next) => {
                let tail = piece[(next - scanned) as usize..].to_vec();
                self.end_giant(next, tail)
            }
            None => Chunk::Progress,
        }
    }

    /// Hands over the whole lines of what is there.
    fn cut(&mut self, last: bool) -> Chunk {
        self.uncut = false;
        let mut records = Vec::new();
        let used = cut(&self.rest, self.offset, last, &mut records);
        if used == 0 {
            if self.rest.len() >= WINDOW {
                self.giant = Some(Giant::new(&self.rest, self.offset));
                self.rest.truncate(MAX_RECORD);
            }
            return Chunk::Progress;
        }
        let tail = self.rest[used..].to_vec();
        let mut bytes = std::mem::replace(&mut self.rest, tail);
        bytes.truncate(used);
        self.offset += used as u64;
        Chunk::Batch(RecordBatch { partition: self.partition, bytes, records, next_offset: self.offset, end: None })
    }

    fn end_giant(&mut self, next: u64, tail: Vec<u8>) -> Chunk {
        self.uncut = !tail.is_empty();
        let head = std::mem::replace(&mut self.rest, tail);
        let start = std::mem::replace(&mut self.offset, next);
        let giant = self.giant.take();
        Chunk::Batch(RecordBatch {
            partition: self.partition,
            records: giant.map_or_else(Vec::new, |g| g.record(&head, start)),
            bytes: head,
            next_offset: next,
            end: None,
        })
    }

    /// The stream has ended: the last line needs no line end.
    fn finish(&mut self) -> Chunk {
        match &self.giant {
            Some(giant) => {
                let next = giant.scanned;
                self.end_giant(next, Vec::new())
            }
            None if !self.rest.is_empty() => self.cut(true),
            None => Chunk::Nothing,
        }
    }
}

fn pump(mut input: impl Read, pieces: Sender<io::Result<Vec<u8>>>, wake: &Sender<()>) {
    let mut buffer = vec![0; BATCH_BYTES];
    loop {
        let read = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => Ok(buffer[..n].to_vec()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => Err(e),
        };
        let failed = read.is_err();
        if pieces.send(read).is_err() || failed {
            break;
        }
        notify(wake);
    }
    drop(pieces);
    notify(wake);
}

/// Leaves word that there is something to do; one word is enough.
pub(super) fn notify(wake: &Sender<()>) {
    // Full: the reader will look anyway. Disconnected: it is gone.
    let _already_told = wake.try_send(());
}
