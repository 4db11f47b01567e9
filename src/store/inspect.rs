//! A look at a store that changes nothing: does it answer, whose schema does it have, what time is it there.

use super::Store;

/// What was found.
#[derive(Debug)]
pub struct Condition {
    /// Where the store is, for people; without user and password.
    pub place: String,
    /// What it is, with its version.
    pub product: String,
    /// Its schema.
    pub schema: Schema,
    /// Migrations that it has yet to get, by name, in order.
    pub outstanding: Vec<String>,
    /// How far its clock is ahead of this machine's, in microseconds, if it has one of its own.
    pub clock_ahead: Option<i64>,
    /// What it lacks.
    pub lacks: Vec<Lack>,
}

/// Something that a store lacks.
#[derive(Debug, PartialEq, Eq)]
pub struct Lack {
    /// How much it matters.
    pub weight: Weight,
    /// What.
    pub what: String,
    /// How it can be had.
    pub way_out: &'static str,
}

/// How much a lack matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// It can be done without.
    Optional,
    /// Something doesn't happen that should.
    Matters,
    /// The engine can't keep things.
    Fatal,
}

impl Lack {
    pub(super) fn new(weight: Weight, what: impl Into<String>, way_out: &'static str) -> Lack {
        Lack { weight, what: what.into(), way_out }
    }
}

/// A database's schema against this program's.
#[derive(Debug, PartialEq, Eq)]
pub enum Schema {
    /// None of ours yet: the start makes it.
    Absent,
    /// This program's.
    Current(i32),
    /// An earlier one: the start brings it up to date.
    Older {
        /// Its version.
        has: i32,
        /// This program's.
        latest: i32,
    },
    /// One that this program can't use; why, and the way out.
    Foreign(String),
}

impl Store {
    /// Looks at the store without changing it.
    ///
    /// # Errors
    /// It doesn't answer; the text names it and says why.
    pub async fn inspect(&self) -> Result<Condition, String> {
        match self {
            Store::Sqlite(store) => store.inspect(),
            Store::Postgres(store) => store.inspect().await,
        }
    }
}
