//! Loading: a cut's frames, to the workers that ask for a share.

use crossbeam_channel::Sender;

use super::manifest::{self, Manifest};
use super::storage::{Sealed, Storage, StorageError};

/// Gives each of this process's workers its share of the frames: segments are dealt out to all workers in turn. `first` is
/// the place of the first of them among all `peers`. Ends when all have theirs.
///
/// # Errors
/// A segment is damaged: the manifest is marked as bad, and the next start uses the one before it. Or one can't be read.
pub fn feed(
    storage: &Storage,
    manifest: &Manifest,
    first: usize,
    peers: usize,
    workers: &[Sender<Vec<u8>>],
) -> Result<(), String> {
    for (at, segment) in manifest.segments.iter().enumerate() {
        let Some(worker) = (at % peers).checked_sub(first).and_then(|at| workers.get(at)) else { continue };
        match storage.get(&segment.name) {
            Ok(frames) => {
                // A worker that has ended takes its process with it.
                let _ended = worker.send(frames);
            }
            Err(damaged @ StorageError::Damaged { .. }) => {
                let marked = storage.put(&manifest::bad_name(manifest.sequence), &Sealed::new(Vec::new()));
                return Err(match marked {
                    Ok(()) => format!("{damaged}; the next start uses the checkpoint before it"),
                    Err(error) => format!("{damaged}; and it can't be marked: {error}"),
                });
            }
            Err(failed) => return Err(failed.to_string()),
        }
    }
    Ok(())
}
