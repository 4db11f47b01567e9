//! The fault harness (SPEC §8, Recovery): the real binary in several processes, on a real broker or files and a real
//! database, while processes, broker and database are killed and stopped, the cluster is rescaled and its rules are
//! loaded again, at random moments. Afterwards the database holds, row by row, what the naive evaluator makes of the log; and each
//! alert has its actions in the ledger and at a receiver, each done once.
//!
//! A seed gives rules, records and the [`Schedule`]; the moments within it are the machine's.
//!
//! Three runs measure instead of judging, since what they are about takes many events: [`store_outage`], [`recovery`] and [`reloads`].
//!
//! Knows nothing of the engine but its command line, its configuration, and the tables of its stores and its ledger.

mod actions;
mod cluster;
mod database;
mod figures;
mod judge;
mod load;
mod log;
mod receiver;
mod recovery;
mod reloads;
mod run;
mod schedule;
mod services;
mod store_outage;
mod stream;
mod trial;
mod wait;

pub use recovery::{Recovery, recovery};
pub use reloads::{Reloads, reloads};
pub use run::{Report, run};
pub use schedule::{Fault, Kind, Moment, Schedule, Shape, Step};
pub use services::{Services, Setup, SourceKind, StoreKind};
pub use store_outage::{StoreOutage, store_outage};
pub use trial::Scale;
