//! Records that are no valid events, on their way to the dead-letter output.

/// A record with its position and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadRecord {
    /// The source's name.
    pub source: String,
    /// The partition within the source.
    pub partition: u32,
    /// The position in it.
    pub offset: u64,
    /// Why, as a code.
    pub reason: &'static str,
    /// Why, for people.
    pub detail: String,
    /// The record, cut one byte beyond the size limit.
    pub raw: Vec<u8>,
}
