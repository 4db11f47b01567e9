//! The engine: sources, dataflow, sinks, stores, API and command line of `clawdstrike-edr`.
//! `ARCHITECTURE.md` has the map.

pub mod alert;
pub mod config;
pub mod session;
pub mod source;
pub mod store;
