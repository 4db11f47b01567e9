//! Rendering: the dataflow, built once on every worker. Rules are data to it; adding one adds rows, not operators.
//!
//! ```text
//! commands (worker 0) --broadcast--> ingest --hits, by key--> detect --alerts, by session--> alerts --> export (worker 0)
//!                                       \---notices, to all-----^  \---answers--------------^
//! ```
//!
//! What must not be lost goes into the worker's spool (`keep`, `snapshot`, `revive`); what was kept comes back through
//! ingest (`restore`), before anything is read.
//!
//! Time is the ingest epoch; event time is a value. Every operator applies an epoch when it is closed, whole.
//! Knows nothing of sources, sinks, stores or the API.

mod again;
pub mod alerting;
pub mod alerts;
mod broadcast;
mod class;
mod classify;
pub mod control;
mod copies;
pub mod detect;
pub mod export;
mod field;
mod fill;
mod group;
mod groups;
mod hit;
pub mod ingest;
mod json;
mod keep;
mod key;
mod log;
mod matched;
pub mod needs;
mod partitions;
mod patterns;
mod peek;
mod reallow;
mod restore;
mod revive;
mod rules;
mod session;
pub mod settings;
pub mod snapshot;
mod units;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use timely::dataflow::operators::Probe as _;
use timely::dataflow::operators::core::Inspect;
use timely::dataflow::operators::probe::Handle as Probe;
use timely::dataflow::operators::vec::Input;
use timely::worker::Worker;

use key::SECRET_BYTES;

pub use alerts::kept_alerts;
use broadcast::broadcast;
use control::Command;
use detect::{Shared, Totals};
use export::Exports;
use groups::Groups;
use ingest::IngestParts;

use crate::view::Held;

/// Draws a cluster's secret for hashes.
///
/// # Errors
/// The operating system has no random numbers.
pub fn draw_secret() -> Result<Vec<u8>, String> {
    let mut secret = vec![0u8; SECRET_BYTES];
    getrandom::fill(&mut secret).map_err(|e| format!("no random numbers from the operating system: {e}"))?;
    Ok(secret)
}

/// The dataflow's ends on one worker.
pub struct Built {
    /// Commands; only worker 0 gives any.
    pub commands: timely::dataflow::operators::vec::input::Handle<u64, Command>,
    /// How far everything has come.
    pub probe: Probe<u64>,
    /// What leaves, on worker 0.
    pub exports: Rc<RefCell<Exports>>,
    /// Totals as of the last closed epoch.
    pub totals: Rc<RefCell<Totals>>,
}

/// Builds the dataflow on this worker.
pub fn build(worker: &mut Worker, parts: IngestParts) -> Built {
    let totals = Rc::new(RefCell::new(Totals::default()));
    let exports = Rc::new(RefCell::new(Exports::default()));
    let probe = Probe::new();
    let shared = Shared {
        place: (worker.index(), worker.peers()),
        groups: Rc::new(RefCell::new(Groups::new())),
        totals: totals.clone(),
        hasher: Rc::new(RefCell::new(None)),
    };
    let hits_so_far = Rc::new(Cell::new(0));
    let counting = hits_so_far.clone();
    let known = Rc::new(Cell::new(Held::default()));
    let commands = worker.dataflow::<u64, _, _>(|scope| {
        let (input, commands) = scope.new_input::<Command>();
        let commands = broadcast(commands);
        let settings = parts.settings.clone();
        let spool = parts.spool.clone();
        let ingest::Ingested { hits, back, notices } = ingest::ingest(scope, commands.clone(), parts, known.clone());
        let hits = hits.inspect(move |batch| counting.set(counting.get() + batch.heads.len() as u64));
        let inputs = detect::Inputs { hits, back, commands: commands.clone(), notices: broadcast(notices) };
        let detected = detect::detect(scope, inputs, &settings, shared.clone(), spool.clone());
        let inputs = alerts::Inputs { versions: detected.alerts, parts: detected.parts, commands };
        let from_ingest = alerts::FromIngest { hits: hits_so_far, known };
        let viewed = alerts::view(scope, inputs, &settings, shared, from_ingest, spool);
        export::export(scope, viewed.alerts, detected.sessions, viewed.shares, exports.clone()).probe_with(&probe);
        input
    });
    Built { commands, probe, exports, totals }
}
