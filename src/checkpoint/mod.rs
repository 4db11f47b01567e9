//! Checkpoints: what the cluster goes on from after a stop, however it came. Frames in segments, and manifests that name the
//! segments of one consistent cut.
//!
//! ```text
//! segments/<run>-<process>-<n>    frames; written once
//! parts/<epoch>-<process>         the segments of one process up to a cut, and how far it had read
//! manifests/<n>                   a cut: all its segments, positions, the event-time bound; or a run's beginning.
//!                                 Written once, the highest cut counts
//! bad/<n>                         a manifest with a segment that was found to be damaged
//! ```
//!
//! A manifest is created, never replaced, after everything that it names is durable. Beginnings and cuts are numbered in one
//! sequence: once a run has begun, those before it find their next number taken. The two latest cuts are kept with all that they name, so that a damaged cut has one before it.
//!
//! Knows nothing of what frames hold; their kinds say how long they matter.

mod coordinator;
mod direct;
mod load;
mod manifest;
mod merge;
mod open;
mod probe;
mod storage;
mod writer;

pub use coordinator::{Coordinator, Given, Maker};
pub use load::feed;
pub use manifest::{Begun, Found, Manifest, Position, begin, find};
pub use merge::MOST_SEGMENTS;
pub use open::{open, open_with};
pub use probe::{Tried, try_out};
pub use storage::{Sealed, Storage, StorageError, Troubles};
pub use writer::{Parts, Writer, start as start_writer};

/// The version of what is written here. A folder with a later one is refused; one that is earlier would be read.
pub const FORMAT: u32 = 2;

/// The number at the end of a name.
fn number(name: &str) -> Option<u64> {
    name.rsplit('/').next()?.parse().ok()
}
