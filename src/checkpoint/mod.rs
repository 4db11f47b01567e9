//! Checkpoints: what the cluster goes on from after a stop, however it came. Frames in segments, and manifests that name the
//! segments of one consistent cut.
//!
//! ```text
//! generations/<n>                 taken by one cluster's run each; the highest is the one that may write
//! segments/<run>-<process>-<n>    frames; written once
//! parts/<epoch>-<process>         the segments of one process up to a cut, and how far it had read
//! manifests/<n>                   a cut: all its segments, positions, the event-time bound; written once, the highest counts
//! bad/<n>                         a manifest with a segment that was found to be damaged
//! ```
//!
//! A manifest is created, never replaced, after everything that it names is durable; of two runs that write the same one, one
//! fails. The two latest are kept with all that they name, so that a damaged cut has one before it.
//!
//! Knows nothing of what frames hold; their kinds say how long they matter.

mod coordinator;
mod load;
mod manifest;
mod merge;
mod open;
mod probe;
mod storage;
mod writer;

pub use coordinator::{Coordinator, Given};
pub use load::feed;
pub use manifest::{Manifest, Position, latest as load};
pub use open::{open, open_with};
pub use probe::{Tried, try_out};
pub use storage::{Sealed, Storage, StorageError};
pub use writer::{Writer, start as start_writer};

/// The version of what is written here. A folder with a later one is refused; one that is earlier would be read.
pub const FORMAT: u32 = 1;

/// Takes the next generation: from now on those before may write no manifest.
///
/// # Errors
/// The storage doesn't answer.
pub fn take_generation(storage: &Storage) -> Result<u64, StorageError> {
    let mut next = latest_generation(storage)? + 1;
    // At random, so that of two that take the same one sees that it isn't its own.
    let own = Sealed::new(rand::random::<[u8; 16]>().to_vec());
    while !storage.create(&format!("generations/{next:010}"), &own)? {
        next += 1;
    }
    // Those before are only there to be counted.
    let old = storage.list("generations")?.into_iter().filter(|name| number(name).is_some_and(|n| n < next));
    storage.delete(old);
    Ok(next)
}

/// The latest generation that was taken; 0: none was.
///
/// # Errors
/// The storage doesn't answer.
pub fn latest_generation(storage: &Storage) -> Result<u64, StorageError> {
    Ok(storage.list("generations")?.iter().filter_map(|name| number(name)).max().unwrap_or(0))
}

/// The number at the end of a name.
fn number(name: &str) -> Option<u64> {
    name.rsplit('/').next()?.parse().ok()
}
