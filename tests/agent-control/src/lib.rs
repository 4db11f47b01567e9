//! The other end of responses: the agents' control API as `docs/agent-control.openapi.json` describes it, and a SOC's webhook
//! beside it. Whoever builds an agent platform can read here what it takes to honour idempotency keys; tests and the demo run it.
//!
//! Knows nothing of the engine but that document and what `docs/operations.md` says of signatures. It stops no agent: what it
//! would do is kept in memory, as [`Deed`]s.

mod deed;
mod receiver;
mod signature;

pub use deed::{Deed, Refusal};
pub use receiver::{Received, Receiver};
pub use signature::Keys;
