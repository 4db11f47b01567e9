//! Manifests: one cut each, as JSON.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::storage::{Sealed, Storage, StorageError};
use super::{FORMAT, number};
use crate::spool::Progress;

/// A cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// See [`FORMAT`].
    pub format: u32,
    /// The version of what frames hold.
    pub frames: u32,
    /// Counts manifests.
    pub sequence: u64,
    /// Who wrote it.
    pub generation: u64,
    /// Everything up to this epoch is in it, and nothing of a later one.
    pub epoch: u64,
    /// Stores and receivers have had everything up to this epoch.
    pub acked: u64,
    /// The event-time bound, in microseconds since 1970.
    pub watermark: Option<i64>,
    /// The secret of the hashes in keys and frames, in hexadecimal digits.
    pub secret: String,
    /// How far sources have been read.
    pub positions: Vec<Position>,
    /// Where its frames are.
    pub segments: Vec<Segment>,
    /// Bytes that were left when segments were last merged.
    pub merged: u64,
}

/// How far a partition has been read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The source's name.
    pub source: String,
    /// The partition.
    pub partition: u32,
    /// How far.
    #[serde(flatten)]
    pub progress: Progress,
}

/// A segment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Segment {
    /// The object's name.
    pub name: String,
    /// Bytes of frames.
    pub bytes: u64,
}

fn name(sequence: u64) -> String {
    format!("manifests/{sequence:010}")
}

impl Manifest {
    /// Writes it; says `false` if there is one of its number: another run has taken over.
    ///
    /// # Errors
    /// It may not be there.
    pub fn create(&self, storage: &Storage) -> Result<bool, StorageError> {
        // Texts and numbers: there is nothing in it that JSON can't say.
        let json = serde_json::to_vec_pretty(self).unwrap_or_default();
        storage.create(&name(self.sequence), &Sealed::new(json))
    }

    /// Deletes this manifest and what it names, but for what the `kept` ones name.
    pub fn delete(&self, kept: &[&Manifest], storage: &Storage) {
        let named: BTreeSet<&str> = kept.iter().flat_map(|m| m.names()).collect();
        let unnamed = self.names().filter(|segment| !named.contains(segment)).map(str::to_owned);
        storage.delete([name(self.sequence), bad_name(self.sequence)].into_iter().chain(unnamed));
    }

    /// Names of its segments.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().map(|segment| segment.name.as_str())
    }
}

/// The object that marks a manifest as bad.
pub fn bad_name(sequence: u64) -> String {
    format!("bad/{sequence:010}")
}

/// The latest manifest that can be used (`None`: there was none yet), and the number of the latest there is. `frames`: the
/// latest version of frames that can be read.
///
/// # Errors
/// The storage doesn't answer, or what is there was written by a later version.
pub fn latest(storage: &Storage, frames: u32) -> Result<(Option<Manifest>, u64), String> {
    let bad: BTreeSet<u64> = numbers(storage, "bad")?.into_iter().collect();
    let all = numbers(storage, "manifests")?;
    let highest = all.last().copied().unwrap_or(0);
    for sequence in all.into_iter().rev().filter(|n| !bad.contains(n)) {
        match read(storage, sequence, frames)? {
            Ok(manifest) => return Ok((Some(manifest), highest)),
            Err(reason) => tracing::error!("{reason}; the checkpoint before it is used"),
        }
    }
    match highest {
        0 => Ok((None, 0)),
        _ => Err(format!(
            "none of the {highest} checkpoints can be used (see the messages before); to begin with nothing, delete the checkpoint's folder"
        )),
    }
}

fn numbers(storage: &Storage, folder: &str) -> Result<Vec<u64>, String> {
    let names = storage.list(folder).map_err(|e| e.to_string())?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// A manifest whose segments are there; the inner error is why it can't be used, the outer why nothing should be done.
fn read(storage: &Storage, sequence: u64, frames: u32) -> Result<Result<Manifest, String>, String> {
    let json = match storage.get(&name(sequence)) {
        Ok(json) => json,
        Err(damaged @ StorageError::Damaged { .. }) => return Ok(Err(damaged.to_string())),
        Err(failed) => return Err(failed.to_string()),
    };
    let versions: Versions = match serde_json::from_slice(&json) {
        Ok(versions) => versions,
        Err(e) => return Ok(Err(format!("checkpoint {sequence}: {e}"))),
    };
    if versions.format > FORMAT || versions.frames > frames {
        return Err(format!(
            "checkpoint {sequence} was written by a later version of clawdstrike-edr (format {}.{}; this one reads up to {FORMAT}.{frames}): start that version again, or delete the checkpoint's folder to begin with nothing",
            versions.format, versions.frames
        ));
    }
    let manifest: Manifest = match serde_json::from_slice(&json) {
        Ok(manifest) => manifest,
        Err(e) => return Ok(Err(format!("checkpoint {sequence}: {e}"))),
    };
    for segment in &manifest.segments {
        let size = storage.size(&segment.name).map_err(|e| e.to_string())?;
        if size != Some(segment.bytes) {
            return Ok(Err(format!("checkpoint {sequence}: segment \"{}\" is not whole", segment.name)));
        }
    }
    Ok(Ok(manifest))
}

#[derive(Deserialize)]
struct Versions {
    format: u32,
    frames: u32,
}
