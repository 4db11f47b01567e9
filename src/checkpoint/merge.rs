//! Merging: segments that mostly hold what no longer matters become few that hold what does.

use std::collections::HashMap;

use super::manifest::{Manifest, Segment};
use super::storage::{Sealed, Storage, StorageError};
use crate::frame::{self, Frame, Kind};

/// Segments are written at this size.
const SEGMENT: usize = 16 << 20;
/// Less than this isn't worth the work.
const LEAST: u64 = 32 << 20;
/// So many segments are, whatever is in them.
pub const MOST_SEGMENTS: usize = 512;

/// Whether as much has come since the last merge as was left by it.
pub(super) fn is_due(manifest: &Manifest, most_segments: usize) -> bool {
    let bytes: u64 = manifest.segments.iter().map(|s| s.bytes).sum();
    bytes >= LEAST.max(2 * manifest.merged) || manifest.segments.len() > most_segments
}

/// Writes what still matters of all segments of a cut into new ones. Holds one segment at a time, and for each group and
/// alert 40 bytes.
///
/// # Errors
/// A segment can't be read or written: the old ones stay.
pub(super) fn merge(
    storage: &Storage,
    manifest: &Manifest,
    mut name: impl FnMut() -> String,
) -> Result<Vec<Segment>, StorageError> {
    // Of two of one epoch the later in its segment counts: frames are numbered.
    let mut latest: HashMap<(Kind, u128), (u64, usize)> = HashMap::new();
    let mut number = 0;
    for segment in &manifest.segments {
        for frame in frame::read(&storage.get(&segment.name)?).flatten() {
            if frame.kind.is_latest_only() {
                let known = latest.entry((frame.kind, frame.key)).or_default();
                *known = (frame.epoch, number).max(*known);
            }
            number += 1;
        }
    }
    let watermark = manifest.watermark.unwrap_or(i64::MIN);
    let matters = |frame: &Frame<'_>, number: usize| match frame.kind {
        Kind::Hit => frame.until >= watermark,
        Kind::Leaving => frame.epoch > manifest.acked,
        Kind::Group | Kind::Alert => {
            let is_latest = latest.get(&(frame.kind, frame.key)) == Some(&(frame.epoch, number));
            is_latest && !frame.body.is_empty() && frame.until >= watermark
        }
    };
    let mut out: Vec<Segment> = Vec::new();
    let mut filling = Vec::new();
    let mut flush = |filling: &mut Vec<u8>| -> Result<(), StorageError> {
        if !filling.is_empty() {
            let (name, bytes) = (name(), filling.len() as u64);
            storage.put(&name, &Sealed::new(std::mem::take(filling)))?;
            out.push(Segment { name, bytes });
        }
        Ok(())
    };
    let mut number = 0;
    for segment in &manifest.segments {
        for frame in frame::read(&storage.get(&segment.name)?).flatten() {
            if matters(&frame, number) {
                frame.write(&mut filling);
            }
            number += 1;
            if filling.len() >= SEGMENT {
                flush(&mut filling)?;
            }
        }
    }
    flush(&mut filling)?;
    Ok(out)
}
