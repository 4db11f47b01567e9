//! Reading events back, in the order of their times, from a store that may be in use: nothing is changed, no schema made, and
//! no more than some pages of rows are in memory, whatever agents wrote.

use super::Store;
use super::row::clamp;

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
}
