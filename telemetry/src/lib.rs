//! The telemetry event: its wire form, how a record becomes an event or a dead letter, its times and its normalised
//! target.
//!
//! Shared by the engine and by the agents' SDK, so it has few dependencies. It knows nothing of rules, of dataflow, of
//! sources or of stores, and it never reads a clock: whoever calls it gives the time.

mod clock;
mod dead_letter;
mod decode;
mod event;
mod event_type;
mod host;
mod path;
mod scan;
pub mod target;
pub mod time;
mod wire;

pub use clock::{ClockRule, Reference, Stamp};
pub use dead_letter::{DeadLetter, Reason};
pub use decode::{MAX_DEPTH, MAX_ID_BYTES, MAX_RECORD_BYTES, MAX_TARGET_BYTES, decode, is_blank};
pub use event::{ACTION_FIELDS, Event, RESULT_FIELDS, TOP_LEVEL_FIELDS};
pub use event_type::{EventType, UnknownEventType};
pub use wire::{ActionDetails, AgentTelemetry, GuardResultSummary, SCHEMA_VERSION};
