//! Reading events back, in the order of their times, from a store that may be in use: nothing is changed, no schema made, and
//! no more than some pages of rows are in memory, whatever agents wrote.

use super::row::{clamp, position as position_of};
use super::{Store, StoreError};

/// An event as a store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastEvent {
    /// Event time, microseconds since 1970.
    pub time: i64,
    /// Its identity: `source/partition/offset` of an event without an event_id, else a hash; empty in rows that others wrote.
    pub key: String,
    /// The whole record, JSON text. PostgreSQL keeps its meaning, not its bytes.
    pub record: String,
    /// It is one of a share: others like it were left out.
    pub sampled: bool,
    /// Where it was read, `source/partition/offset`, if the key doesn't say it; `None` in rows from before there was the column.
    pub source_position: Option<String>,
}

impl PastEvent {
    /// Where it was read: source, partition, offset.
    pub fn position(&self) -> Option<(&str, u32, u64)> {
        position(self.source_position.as_deref().unwrap_or(&self.key))
    }
}

fn position(text: &str) -> Option<(&str, u32, u64)> {
    let (rest, offset) = text.rsplit_once('/')?;
    let (source, partition) = rest.rsplit_once('/')?;
    Some((source, partition.parse().ok()?, offset.parse().ok()?))
}

impl Store {
    /// Gives the events from `from` to `to` (both included, microseconds since 1970) to `each`, until it says `false`.
    ///
    /// # Errors
    /// The store doesn't answer, or has no events table; the text names it and says why.
    pub async fn past_events(&self, from: i64, to: i64, mut each: impl FnMut(PastEvent) -> bool) -> Result<(), String> {
        // Databases write no other times.
        let (from, to) = (clamp(from), clamp(to));
        match self {
            Store::Sqlite(store) => store.past_events(from, to, &mut each).await,
            Store::Postgres(store) => store.past_events(from, to, &mut each).await,
        }
    }

    /// How far events are archived, as [`Store::archive_positions`], by looking only.
    ///
    /// # Errors
    /// The store doesn't answer, or has no such table; the text names it and says why.
    pub async fn archived_until(&self) -> Result<Vec<(String, u32, u64)>, String> {
        let rows = match self {
            Store::Sqlite(store) => store.archived_until().await?,
            Store::Postgres(store) => store.archived_until().await?,
        };
        rows.into_iter().map(position_of).collect::<Result<_, _>>().map_err(|e: StoreError| e.to_string())
    }

    /// Whether records come back with the bytes that they were written with.
    pub fn keeps_bytes(&self) -> bool {
        matches!(self, Store::Sqlite(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_ends_with_two_numbers_whatever_the_source_is_called() {
        assert_eq!(position("a/b/3/77"), Some(("a/b", 3, 77)));
        for none in ["", "77", "a/77", "a/x/77", "0123456789abcdef"] {
            assert_eq!(position(none), None, "{none}");
        }
    }
}
