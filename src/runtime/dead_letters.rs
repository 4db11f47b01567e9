//! The dead-letter output: a file of JSON lines with position, reason and bytes of each record that is no valid event.
//! When it reaches [`FILE_BYTES`] it becomes `<name>.1`, which replaces the one before: attackers can't fill the disk.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::json;

use crate::dead_letter::DeadRecord;
use crate::hex;

/// Dead letters that may wait; a worker whose letter doesn't fit stops reading until it does.
const WAITING: usize = 256;
/// Size at which a file is put aside.
const FILE_BYTES: u64 = 256 << 20;

/// Starts the writer; it ends when all senders are gone. Without a path letters are only counted by their workers.
///
/// # Errors
/// The file can't be opened; the text names it.
pub fn start(path: Option<PathBuf>) -> Result<(Sender<DeadRecord>, JoinHandle<()>), String> {
    let (sender, receiver) = bounded(WAITING);
    let output = path.map(Output::open).transpose()?;
    let thread = std::thread::Builder::new()
        .name("dead-letters".into())
        .spawn(move || write_all(&receiver, output))
        .map_err(|e| format!("no thread for dead letters: {e}; raise the limit of processes"))?;
    Ok((sender, thread))
}

fn write_all(letters: &Receiver<DeadRecord>, mut output: Option<Output>) {
    while let Ok(letter) = letters.recv() {
        let Some(out) = &mut output else { continue };
        let mut result = out.write(&letter);
        if letters.is_empty() {
            result = result.and_then(|()| out.file.flush());
        }
        if let Err(error) = result {
            tracing::warn!(file = %out.path.display(), %error, "a dead letter is counted, but could not be written");
        }
    }
}

struct Output {
    path: PathBuf,
    file: BufWriter<File>,
    written: u64,
}

fn append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

impl Output {
    fn open(path: PathBuf) -> Result<Output, String> {
        let explain = |e: std::io::Error| format!("dead letters \"{}\": {e}; check [cluster] state", path.display());
        let file = append(&path).map_err(explain)?;
        let written = file.metadata().map_err(explain)?.len();
        Ok(Output { file: BufWriter::new(file), path, written })
    }

    fn write(&mut self, letter: &DeadRecord) -> std::io::Result<()> {
        if self.written >= FILE_BYTES {
            self.file.flush()?;
            std::fs::rename(&self.path, self.path.with_extension("jsonl.1"))?;
            (self.file, self.written) = (BufWriter::new(append(&self.path)?), 0);
        }
        let mut line = json!({
            "source": letter.source,
            "partition": letter.partition,
            "offset": letter.offset,
            "reason": letter.reason,
            "detail": letter.detail,
        });
        match std::str::from_utf8(&letter.raw) {
            Ok(text) => line["raw"] = json!(text),
            Err(_) => line["raw_hex"] = json!(hex::encode(&letter.raw)),
        }
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        self.written += bytes.len() as u64;
        self.file.write_all(&bytes)
    }
}
