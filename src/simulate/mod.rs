//! `simulate`: seeded agents with normal work and named attacks, to files, standard output or Kafka (SPEC §13).
//!
//! It makes input for the engine and benchmarks, and knows nothing of the engine: neither rules nor what becomes of events.

mod args;
mod arrival;
mod generator;
mod line;
mod output;
mod run;
mod scenario;
mod work;

pub use args::SimulateArgs;
pub use generator::{Attack, Emitted, Options, Simulator};
pub use run::run;
pub use scenario::Scenario;
