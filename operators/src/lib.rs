//! Incremental windowed operators over one key's events in total order, and the plumbing that feeds them epoch by epoch.
//!
//! Each condition kind is a machine with one `step` function that takes the next event in order and says whether a
//! match ends there. An event in order costs one step. A late one makes the caller rebuild the machine by stepping again
//! through the events of the window before it, with the same function: so the answer can't depend on arrival order.
//!
//! Times are `i64` in one unit of the caller's choice. Windows are closed: `x` is in the window of `e` if it isn't after
//! `e` and `time(e) - time(x) <= window`. Knows no event, no rule, no clock.

pub mod absence;
pub mod chain;
pub mod epochs;
pub mod new_value;
pub mod pattern;
pub mod sequence;
pub mod threshold;

/// A time before all others: "never".
pub const NEVER: i64 = i64::MIN;

/// Whether `then` (or [`NEVER`]) lies within the closed window that ends at `now`.
#[inline]
pub fn within(now: i64, then: i64, window: i64) -> bool {
    then != NEVER && now.saturating_sub(then) <= window
}
