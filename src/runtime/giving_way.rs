//! Threads for what nothing waits for: reading for the store and writing to it. Detection, responses and the API may want the
//! same cores, and a store that is far behind would keep them busy.

use rustix::process::{getpriority_process, setpriority_process};
use tokio::runtime::{Builder, Runtime};

/// How far they give way, as nice(2) counts: under load they have a third of what the others have, never nothing.
const NICE: i32 = 5;

/// Runs tasks on such threads. Those that they start give way, too.
///
/// # Errors
/// No thread can be had.
pub(super) fn runtime() -> Result<Runtime, String> {
    // Of this thread; one that is started by another of the runtime begins as far behind as that.
    let nice = getpriority_process(None).unwrap_or_default() + NICE;
    let give_way = move || {
        // Elsewhere it would be the whole process.
        if cfg!(target_os = "linux")
            && let Err(error) = setpriority_process(None, nice)
        {
            tracing::debug!(%error, "a thread of the store takes its turn like all others");
        }
    };
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("store")
        .on_thread_start(give_way)
        .enable_all()
        .build()
        .map_err(|e| format!("no threads for the store: {e}; raise the limit of processes"))
}
