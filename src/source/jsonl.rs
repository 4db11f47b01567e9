//! JSON lines from files, folders, pipes and standard input: an offset is the byte offset of a line's first byte.
//!
//! Several files are read in turn, a batch of each, so that their event times advance together. Read once, a file's
//! partition is its place in the list; followed, see `jsonl/folder.rs`. Every process lists the same files and reads those
//! that its workers own. Knows nothing of what a line says.

mod file;
mod folder;
mod follow;
mod lines;
mod stream;

use std::collections::{HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};
use tracing::info;

use self::file::FileReader;
use self::stream::StreamReader;
use super::{Feed, Halt, Message, PartitionId, RecordBatch, StartAt};

/// Files that stay open side by side; beyond, a file is opened for each batch of it.
const MAX_OPEN: usize = 256;
/// Most files of one source. Each costs some hundred bytes of memory and a look at its length now and then.
const MAX_FILES: usize = 1 << 16;
/// Most pipes of one source: each has a thread.
const MAX_STREAMS: usize = 64;
/// How often a followed source is looked at when nothing tells of changes, and a silent stream is thought of again.
const POLL: Duration = Duration::from_millis(200);

const NO_CLOCK: &str = "files have no trusted clock: a record ahead of its time can re-time those after it";

/// What one look at an input gave.
enum Chunk {
    Batch(RecordBatch),
    /// Got on without a line to hand over: look again.
    Progress,
    /// There is nothing yet.
    Pending,
    /// All there is has been read.
    Nothing,
}

/// What to read.
pub(super) struct Task {
    name: String,
    inputs: Inputs,
    start: StartAt,
}

enum Inputs {
    /// These, once.
    Listed(Vec<PathBuf>),
    /// A file or the files of a folder, once.
    Once(PathBuf),
    /// A file or the files of a folder, and what is added to them.
    Followed(PathBuf),
}

impl Task {
    /// A source of the configuration.
    pub(super) fn configured(name: &str, path: &Path, follow: bool, start: StartAt) -> Task {
        let path = path.to_path_buf();
        let inputs = match follow {
            true => Inputs::Followed(path),
            false => Inputs::Once(path),
        };
        Task { name: name.into(), inputs, start }
    }

    /// A list of files, from their beginnings.
    ///
    /// # Errors
    /// Standard input is named twice, or there are too many files.
    pub(super) fn listed(name: &str, paths: &[PathBuf]) -> Result<Task, String> {
        if paths.iter().filter(|p| is_stdin(p)).count() > 1 {
            return Err("\"-\" is named twice: standard input can be read once only".into());
        }
        if paths.len() > MAX_FILES {
            return Err(too_many(name));
        }
        Ok(Task { name: name.into(), inputs: Inputs::Listed(paths.to_vec()), start: StartAt::Committed })
    }

    /// Reads until the end, or the reader's stop.
    pub(super) fn run(self, feed: &Feed) -> Result<(), Halt> {
        let Task { name, inputs, start } = self;
        if !matches!(inputs, Inputs::Listed(_)) {
            info!(source = name, "{NO_CLOCK}");
        }
        match inputs {
            Inputs::Listed(paths) => read_once(feed, &name, &paths, &start, false),
            Inputs::Followed(path) if !is_stream(&path) => follow::Follower::new(feed, &name, &path, start).run(),
            Inputs::Followed(path) => read_once(feed, &name, &[path], &start, true),
            Inputs::Once(path) => {
                list_once(&name, &path).and_then(|paths| read_once(feed, &name, &paths, &start, false))
            }
        }
    }
}

fn too_many(name: &str) -> String {
    format!("source \"{name}\" has more than {MAX_FILES} files: move those that are done elsewhere, or join small ones")
}

/// Whether the path stands for standard input.
fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Whether it can be read only once, from its beginning to its end.
pub(super) fn is_stream(path: &Path) -> bool {
    let known = |p: &Path| p.metadata().is_ok_and(|m| !m.is_file() && !m.is_dir());
    is_stdin(path) || known(path)
}

/// The file, or the folder's files in order of their names.
fn list_once(name: &str, path: &Path) -> Result<Vec<PathBuf>, Halt> {
    if is_stdin(path) || !path.is_dir() {
        return Ok(vec![path.into()]);
    }
    let names = folder::list(path).map_err(|e| Halt::Failed(unreadable(name, path, &e)))?;
    let paths = names.iter().map(|n| path.join(n));
    let paths: Vec<PathBuf> = paths.filter(|p| p.is_file()).collect();
    if paths.len() > MAX_FILES {
        return Err(Halt::Failed(too_many(name)));
    }
    if paths.is_empty() {
        info!(
            source = name,
            folder = %path.display(),
            "no *.jsonl file: there is nothing to read"
        );
    }
    Ok(paths)
}

fn unreadable(name: &str, path: &Path, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::PermissionDenied => "let the engine's user read it",
        io::ErrorKind::IsADirectory => "name its files, or make the folder a source's path",
        _ => "check the disk it is on",
    };
    let shown = path.display();
    format!("source \"{name}\": \"{shown}\" can't be read: {error}; {advice}")
}

/// A file or stream of a list.
enum Input {
    File(FileReader),
    Stream(StreamReader),
}

impl Input {
    fn open(id: PartitionId, path: &Path, start: &StartAt, wake: &Sender<()>) -> io::Result<Input> {
        let from = start.of(id).unwrap_or(0);
        if is_stream(path) {
            return StreamReader::open(id, path, from, wake.clone()).map(Input::Stream);
        }
        let known = path.metadata()?;
        if known.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let from = folder::checked_start(path, known.len(), from);
        Ok(Input::File(FileReader::new(id, path, from)))
    }

    fn partition(&self) -> PartitionId {
        match self {
            Input::File(file) => file.partition,
            Input::Stream(stream) => stream.partition,
        }
    }

    fn read(&mut self) -> io::Result<Chunk> {
        match self {
            Input::File(file) => file.read(true),
            Input::Stream(stream) => stream.read(),
        }
    }

    /// A stream that was silent for a while.
    fn is_quiet(&self) -> bool {
        matches!(self, Input::Stream(stream) if stream.quiet())
    }
}

/// Reads each input to its end. With `live` a silent stream counts as caught up; without, what is computed must not
/// depend on how fast its writer is.
fn read_once(feed: &Feed, name: &str, paths: &[PathBuf], start: &StartAt, live: bool) -> Result<(), Halt> {
    let (wake, woken) = bounded(1);
    let mut inputs = open_all(feed, name, paths, start, &wake)?;
    let mut caught_up = HashSet::new();
    while !inputs.is_empty() {
        let mut progress = false;
        for _ in 0..inputs.len() {
            let Some((path, mut input)) = inputs.pop_front() else {
                break;
            };
            let id = input.partition();
            let chunk = input.read().map_err(|e| Halt::Failed(unreadable(name, path, &e)))?;
            match chunk {
                Chunk::Batch(batch) => {
                    caught_up.remove(&id);
                    feed.send(id, Message::Batch(batch))?;
                    progress = true;
                }
                Chunk::Progress => progress = true,
                Chunk::Pending => {
                    if live && input.is_quiet() && caught_up.insert(id) {
                        feed.send(id, Message::CaughtUp(id))?;
                    }
                }
                Chunk::Nothing => {
                    feed.send(id, Message::Finished(id))?;
                    progress = true;
                    continue;
                }
            }
            inputs.push_back((path, input));
        }
        if !progress {
            wait(feed, &woken, POLL);
        }
        if feed.stopped() {
            return Err(Halt::Closed);
        }
    }
    feed.send_all(|| Message::Ended(feed.index))?;
    Ok(())
}

type Opened<'a> = VecDeque<(&'a Path, Input)>;

/// Opens what this process's workers own, and tells them so. Every process looks at all of them, so that a missing file
/// is found before anything is read.
fn open_all<'a>(
    feed: &Feed,
    name: &str,
    paths: &'a [PathBuf],
    start: &StartAt,
    wake: &Sender<()>,
) -> Result<Opened<'a>, Halt> {
    let streams = paths.iter().filter(|p| is_stream(p)).count();
    if streams > MAX_STREAMS {
        let text =
            format!("source \"{name}\" has {streams} pipes, and {MAX_STREAMS} at most can be read at once: use files");
        return Err(Halt::Failed(text));
    }
    let mut inputs = VecDeque::new();
    for (place, path) in paths.iter().enumerate() {
        let failed = |e: io::Error| Halt::Failed(unreadable(name, path, &e));
        let id = feed.id(place as u32);
        if !feed.owns(id) {
            if !is_stream(path) {
                path.metadata().map_err(failed)?;
            }
            continue;
        }
        let mut input = Input::open(id, path, start, wake).map_err(failed)?;
        if let Input::File(file) = &mut input {
            file.keep_open = inputs.len() < MAX_OPEN;
        }
        inputs.push_back((path.as_path(), input));
    }
    for (_, input) in &inputs {
        feed.send(input.partition(), Message::Assigned(input.partition()))?;
    }
    feed.send_all(|| Message::Listed(feed.index))?;
    Ok(inputs)
}

/// Until something happens, the reader is stopped, or the time is over. Whether something happened.
fn wait(feed: &Feed, woken: &Receiver<()>, at_most: Duration) -> bool {
    select! {
        recv(woken) -> word => word.is_ok(),
        recv(feed.stop) -> _ => false,
        default(at_most) => false,
    }
}
