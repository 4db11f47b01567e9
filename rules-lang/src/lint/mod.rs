//! Lints that look at more than one part of a rule: what can never match, and what is covered by something beside it.
//!
//! They warn of what is certain and are silent otherwise: what they say holds for every event. Knows how patterns and
//! fields are tested; never changes a plan.

mod cover;
mod target;
mod value;

pub(crate) use cover::shadowed;
pub(crate) use target::contradiction;
pub(crate) use value::never;
