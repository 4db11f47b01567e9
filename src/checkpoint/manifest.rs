//! Manifests, one cut each, and beginnings of runs. Both are JSON, and share one sequence of numbers: whoever knows of the
//! latest creates the next, and of two that try one fails. So a run whose next number another run's beginning has taken
//! makes no manifest any more, and what a run began with stays the latest cut until its own.
//!
//! A number that was taken and deleted may be taken again by a run that is long superseded, and by a request that the
//! storage carries out late. So what stands at a number names the cut that it follows, and cuts between the two are none.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::storage::{Sealed, Storage, StorageError};
use super::{FORMAT, number};
use crate::loads::InForce;
use crate::spool::Progress;

/// Other runs may make so many manifests while one begins.
const ATTEMPTS: usize = 10;

/// A cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// See [`FORMAT`].
    pub format: u32,
    /// The version of what frames hold.
    pub frames: u32,
    /// Its number.
    pub sequence: u64,
    /// The number of the cut that it follows; 0: there is none. `None` in checkpoints of before: the one with the next lower number.
    #[serde(default)]
    pub follows: Option<u64>,
    /// The number at which the run began that wrote it.
    pub generation: u64,
    /// Everything up to this epoch is in it, and nothing of a later one.
    pub epoch: u64,
    /// Stores and receivers have had everything up to this epoch.
    pub acked: u64,
    /// The event-time bound, in microseconds since 1970.
    pub watermark: Option<i64>,
    /// What matters only up to before this event time is over: see [`Cut`](crate::spool::Cut).
    #[serde(default)]
    pub over: Option<i64>,
    /// The secret of the hashes in keys and frames, in hexadecimal digits.
    pub secret: String,
    /// How far sources have been read.
    pub positions: Vec<Position>,
    /// Where its frames are.
    pub segments: Vec<Segment>,
    /// Bytes of class 0 that were left when its segments were last merged.
    pub merged: u64,
    /// The rules in force; `None`: not told.
    #[serde(default)]
    pub in_force: Option<InForce>,
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

/// What stands at the number at which a run began.
#[derive(Debug, Serialize, Deserialize)]
struct Beginning {
    format: u32,
    frames: u32,
    /// At random, so that of two runs that take the same number one sees that it isn't its own.
    began: u64,
    /// As in [`Manifest`].
    follows: u64,
}

/// A segment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Segment {
    /// The object's name.
    pub name: String,
    /// Bytes of frames.
    pub bytes: u64,
    /// How long its frames matter, see [`Piece`](crate::spool::Piece); 0 in format 1.
    #[serde(default)]
    pub class: u8,
    /// None of them matters beyond this event time; `None`: some may.
    #[serde(default)]
    pub until: Option<i64>,
}

fn name(sequence: u64) -> String {
    format!("manifests/{sequence:010}")
}

impl Manifest {
    /// As an object.
    pub fn seal(&self) -> Sealed {
        // Texts and numbers: there is nothing in it that JSON can't say.
        Sealed::new(serde_json::to_vec_pretty(self).unwrap_or_default())
    }

    /// Deletes this manifest and what it names, but for what the `kept` ones name.
    pub fn delete(&self, kept: &[&Manifest], storage: &Storage) {
        let named: BTreeSet<&str> = kept.iter().flat_map(|m| m.names()).collect();
        let unnamed = self.names().filter(|segment| !named.contains(segment)).map(str::to_owned);
        storage.delete([name(self.sequence), bad_name(self.sequence)].into_iter().chain(unnamed));
    }

    /// The first of its segments that isn't there as a whole.
    fn missing(&self, sizes: &HashMap<String, u64>) -> Option<&str> {
        let is_missing = |segment: &&Segment| sizes.get(&segment.name) != Some(&segment.bytes);
        self.segments.iter().find(is_missing).map(|segment| segment.name.as_str())
    }

    /// Names of its segments.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().map(|segment| segment.name.as_str())
    }
}

/// Creates what stands at a number; says `false` if another run has taken it, or a later one.
///
/// # Errors
/// It may not be there.
pub fn take(storage: &Storage, sequence: u64, body: &Sealed) -> Result<bool, StorageError> {
    // A number that was taken long ago may be free again. The highest never is.
    Ok(storage.create(&name(sequence), body)? && highest(storage)? == sequence)
}

/// The latest number that is taken; 0: none is.
///
/// # Errors
/// The storage doesn't answer.
pub fn highest(storage: &Storage) -> Result<u64, StorageError> {
    Ok(numbers(storage, "manifests")?.last().copied().unwrap_or(0))
}

/// The object that marks a manifest as bad.
pub fn bad_name(sequence: u64) -> String {
    format!("bad/{sequence:010}")
}

/// What a storage holds.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The latest cut that can be used; `None`: there was none yet.
    pub latest: Option<Manifest>,
    /// The one before it, if there still is one.
    pub before: Option<Manifest>,
    /// The latest number that is taken; 0: none is.
    pub highest: u64,
}

/// Looks for the latest cut. `frames`: the latest version of frames that can be read.
///
/// # Errors
/// The storage doesn't answer, or what is there was written by a later version, or none of it can be used.
pub fn find(storage: &Storage, frames: u32) -> Result<Found, String> {
    let text = |e: StorageError| e.to_string();
    let bad: BTreeSet<u64> = numbers(storage, "bad").map_err(text)?.into_iter().collect();
    let all = numbers(storage, "manifests").map_err(text)?;
    let segments: HashMap<String, u64> = storage.sizes("segments").map_err(text)?.into_iter().collect();
    let mut found = Found { highest: all.last().copied().unwrap_or(0), ..Found::default() };
    let (mut unusable, mut up_to) = (0, u64::MAX);
    for sequence in all.into_iter().rev() {
        if sequence > up_to {
            continue;
        }
        let (follows, stands) = read(storage, sequence, frames)?;
        up_to = follows.unwrap_or(up_to);
        match stands {
            Stands::Cut(_) if bad.contains(&sequence) => unusable += 1,
            Stands::Cut(manifest) => match manifest.missing(&segments) {
                None if found.latest.is_none() => found.latest = Some(*manifest),
                None => {
                    found.before = Some(*manifest);
                    return Ok(found);
                }
                Some(segment) => {
                    unusable += 1;
                    let reason = format!("checkpoint {sequence}: segment \"{segment}\" is not whole");
                    found.pass_over(&reason);
                }
            },
            Stands::Beginning => {}
            Stands::Unusable(reason) => {
                unusable += 1;
                found.pass_over(&reason);
            }
        }
    }
    match found.latest {
        None if unusable > 0 => Err(format!(
            "none of the {unusable} checkpoints can be used (see the messages before); to begin with nothing, delete the checkpoint's folder"
        )),
        _ => Ok(found),
    }
}

impl Found {
    fn pass_over(&self, reason: &str) {
        match self.latest {
            None => tracing::error!("{reason}; the checkpoint before it is used"),
            Some(_) => tracing::debug!("{reason}; it is not the latest"),
        }
    }
}

fn numbers(storage: &Storage, folder: &str) -> Result<Vec<u64>, StorageError> {
    let mut numbers: Vec<u64> = storage.list(folder)?.iter().filter_map(|name| number(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// What stands at a number.
enum Stands {
    Cut(Box<Manifest>),
    Beginning,
    /// Why.
    Unusable(String),
}

/// What stands at a number, and the number of the cut that it follows, if it says so; the error is why nothing should be done.
fn read(storage: &Storage, sequence: u64, frames: u32) -> Result<(Option<u64>, Stands), String> {
    let json = match storage.get(&name(sequence)) {
        Ok(json) => json,
        Err(damaged @ StorageError::Damaged { .. }) => return Ok((None, Stands::Unusable(damaged.to_string()))),
        Err(failed) => return Err(failed.to_string()),
    };
    let unusable = |e: serde_json::Error| Ok((None, Stands::Unusable(format!("checkpoint {sequence}: {e}"))));
    let head: Head = match serde_json::from_slice(&json) {
        Ok(head) => head,
        Err(e) => return unusable(e),
    };
    if head.format > FORMAT || head.frames > frames {
        return Err(format!(
            "checkpoint {sequence} was written by a later version of clawdstrike-edr (format {}.{}; this one reads up to {FORMAT}.{frames}): start that version again, or delete the checkpoint's folder to begin with nothing",
            head.format, head.frames
        ));
    }
    if head.began.is_some() {
        return Ok((head.follows, Stands::Beginning));
    }
    serde_json::from_slice(&json).map_or_else(unusable, |manifest| Ok((head.follows, Stands::Cut(Box::new(manifest)))))
}

/// What all that stands at a number has.
#[derive(Deserialize)]
struct Head {
    format: u32,
    frames: u32,
    began: Option<u64>,
    #[serde(default)]
    follows: Option<u64>,
}

/// The beginning of a run.
#[derive(Clone, Debug)]
pub struct Begun {
    /// What it begins with.
    pub found: Found,
    /// The number at which it begins.
    pub generation: u64,
    /// The latest epoch of which runs before it have left a part of a cut; 0: there is none.
    pub epoch: u64,
    /// What runs before it have left there, and nothing needs.
    pub(super) leftovers: Vec<String>,
}

/// Begins a run: from now on those before it make no manifest any more.
///
/// # Errors
/// As of [`find`], or others begin all the time.
pub fn begin(storage: &Storage, frames: u32) -> Result<Begun, String> {
    for _ in 0..ATTEMPTS {
        let found = find(storage, frames)?;
        // Before the number is taken: what later runs write is none of it.
        let (epoch, leftovers) = found.leftovers(storage).map_err(|e| e.to_string())?;
        let follows = found.latest.as_ref().map_or(0, |latest| latest.sequence);
        let beginning = Beginning { format: FORMAT, frames, began: rand::random(), follows };
        let body = Sealed::new(serde_json::to_vec(&beginning).unwrap_or_default());
        let generation = found.highest + 1;
        if take(storage, generation, &body).map_err(|e| e.to_string())? {
            return Ok(Begun { found, generation, epoch, leftovers });
        }
    }
    Err("another run of this cluster makes checkpoints in the same place: stop it, or give each a `state` folder of its own".into())
}

impl Found {
    /// Names of what neither of the two cuts needs, and the latest epoch of a part among them.
    fn leftovers(&self, storage: &Storage) -> Result<(u64, Vec<String>), StorageError> {
        let cuts = || [&self.latest, &self.before].into_iter().flatten();
        let named: BTreeSet<&str> = cuts().flat_map(Manifest::names).collect();
        let of_cuts: BTreeSet<u64> = cuts().map(|m| m.sequence).collect();
        let is_of_cut = |name: &str| number(name).is_some_and(|n| of_cuts.contains(&n));
        let manifests = storage.list("manifests")?;
        let marked = storage.list("bad")?;
        // A mark goes once its manifest has gone.
        let stands: BTreeSet<u64> = manifests.iter().filter_map(|name| number(name)).collect();
        let mut names: Vec<String> = manifests.into_iter().filter(|name| !is_of_cut(name)).collect();
        names.extend(marked.into_iter().filter(|name| number(name).is_none_or(|n| !stands.contains(&n))));
        names.extend(storage.list("segments")?.into_iter().filter(|name| !named.contains(name.as_str())));
        let parts = storage.list("parts")?;
        let epoch = parts.iter().filter_map(|name| super::writer::part_epoch(name)).max().unwrap_or(0);
        names.extend(parts);
        // Of format 1, which counted runs apart.
        names.extend(storage.list("generations")?);
        Ok((epoch, names))
    }
}
