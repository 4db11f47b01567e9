//! The engine: sources, dataflow, sinks, stores, API and command line of `clawdstrike-edr`.
//! `ARCHITECTURE.md` has the map.

pub mod alert;
pub mod api;
pub mod audit;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod dead_letter;
pub mod frame;
pub mod hex;
pub mod inbox;
pub mod loads;
pub mod log;
pub mod metrics;
pub mod render;
pub mod response;
pub mod rule_files;
pub mod runtime;
pub mod session;
pub mod simulate;
pub mod source;
pub mod spool;
pub mod store;
pub mod time_window;
pub mod timestamp;
pub mod view;
pub mod wall_clock;

/// Batches of records are allocated on one thread and freed on another, all the time.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
