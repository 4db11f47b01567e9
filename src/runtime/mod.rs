//! Runtime: joins sources, the dataflow, stores, responses and the API into processes. The only place that knows them all.

pub mod archive;
pub mod backtest;
pub mod dead_letters;
pub mod driver;
pub mod feed;
mod giving_way;
pub mod handle;
pub mod journal;
pub mod mirror;
mod once;
pub mod process;
pub mod recovery;
mod refill;
pub mod replay;
pub mod rule_tests;
pub mod rules;
mod sampling;
pub mod sinks;
pub mod up;
pub mod what_if;
