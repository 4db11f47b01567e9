//! The detection language: YAML text in, typed plan out.
//!
//! Pure: no timely, no async, no I/O, no clock. Knows nothing of how events are decoded or plans are run.

pub mod plan;
