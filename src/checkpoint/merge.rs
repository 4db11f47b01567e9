//! Merging: segments that mostly hold what no longer matters become few that hold what does.

use std::collections::{BTreeMap, HashMap};

use super::manifest::{Manifest, Segment};
use super::storage::{Sealed, Storage, StorageError};
use crate::frame::{self, Frame, Kind};

/// Segments are written at this size.
const SEGMENT: usize = 16 << 20;
/// A segment that is smaller may be merged only because there are many.
const SMALL: u64 = SEGMENT as u64 / 2;
/// Less than this isn't worth the work.
const LEAST: u64 = 32 << 20;
/// So many small segments are, whatever is in them.
pub const MOST_SEGMENTS: usize = 512;

/// What is merged, by class, and what stays as it is.
pub(super) struct Chosen<'a> {
    merged: BTreeMap<u8, Vec<&'a Segment>>,
    left: Vec<Segment>,
}

/// Bytes of what only the latest of a key counts in.
pub(super) fn bytes_of_class_0(segments: &[Segment]) -> u64 {
    segments.iter().filter(|s| s.class == 0).map(|s| s.bytes).sum()
}

/// Once as much has come of class 0 as was left of it by the last merge, all of that. Other classes end by themselves:
/// only if there are too many segments, the small ones.
pub(super) fn choose(manifest: &Manifest, most_segments: usize) -> Option<Chosen<'_>> {
    let is_small = |segment: &&Segment| segment.class == 0 || segment.bytes < SMALL;
    let are_many = manifest.segments.iter().filter(is_small).count() > most_segments;
    if !are_many && bytes_of_class_0(&manifest.segments) < LEAST.max(2 * manifest.merged) {
        return None;
    }
    let mut chosen = Chosen { merged: BTreeMap::new(), left: Vec::new() };
    for segment in &manifest.segments {
        if segment.class == 0 || are_many && is_small(&segment) {
            chosen.merged.entry(segment.class).or_default().push(segment);
        } else {
            chosen.left.push(segment.clone());
        }
    }
    Some(chosen)
}

/// Writes what still matters of the chosen segments of a cut into new ones; gives all of the cut's. Holds one segment at a
/// time, and for each group and alert 40 bytes.
///
/// # Errors
/// A segment can't be read or written: the old ones stay.
pub(super) fn merge(
    storage: &Storage,
    manifest: &Manifest,
    chosen: Chosen<'_>,
    mut name: impl FnMut() -> String,
) -> Result<Vec<Segment>, StorageError> {
    let mut out = chosen.left;
    for (class, segments) in chosen.merged {
        merge_class(storage, manifest, class, &segments, &mut name, &mut out)?;
    }
    Ok(out)
}

fn merge_class(
    storage: &Storage,
    manifest: &Manifest,
    class: u8,
    segments: &[&Segment],
    name: &mut impl FnMut() -> String,
    out: &mut Vec<Segment>,
) -> Result<(), StorageError> {
    // Of two of one epoch the later in its segment counts: frames are numbered.
    let mut latest: HashMap<(Kind, u128), (u64, usize)> = HashMap::new();
    let mut number = 0;
    // Those of other classes are all of events.
    for segment in segments.iter().filter(|segment| segment.class == 0) {
        for frame in frame::read(&storage.get(&segment.name)?).flatten() {
            if frame.kind.is_latest_only() {
                let known = latest.entry((frame.kind, frame.key)).or_default();
                *known = (frame.epoch, number).max(*known);
            }
            number += 1;
        }
    }
    let over = manifest.over.unwrap_or(i64::MIN);
    let matters = |frame: &Frame<'_>, number: usize| match frame.kind {
        Kind::Hit => frame.until >= over,
        Kind::Leaving => frame.epoch > manifest.acked,
        Kind::Group | Kind::Alert => {
            let is_latest = latest.get(&(frame.kind, frame.key)) == Some(&(frame.epoch, number));
            is_latest && !frame.body.is_empty() && frame.until >= over
        }
    };
    let mut filling = Vec::new();
    let mut until = i64::MIN;
    let mut flush = |filling: &mut Vec<u8>, until: &mut i64| -> Result<(), StorageError> {
        if !filling.is_empty() {
            let (name, bytes) = (name(), filling.len() as u64);
            storage.put_once(&name, &Sealed::new(std::mem::take(filling)))?;
            let until = std::mem::replace(until, i64::MIN);
            out.push(Segment { name, bytes, class, until: (class > 0).then_some(until) });
        }
        Ok(())
    };
    let mut number = 0;
    for segment in segments {
        for frame in frame::read(&storage.get(&segment.name)?).flatten() {
            if matters(&frame, number) {
                frame.write(&mut filling);
                until = until.max(frame.until);
            }
            number += 1;
            if filling.len() >= SEGMENT {
                flush(&mut filling, &mut until)?;
            }
        }
    }
    flush(&mut filling, &mut until)
}
