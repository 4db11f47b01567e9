//! What every service has in common: start and wait until it answers, stop, kill, restart. Knows no protocol.

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::files::{LOG, RunFolder, tail};
use crate::process::{POLL, Process};

/// How long a service may take until it answers: some ten times what it takes on a busy machine of two cores.
const START_DEADLINE: Duration = Duration::from_secs(120);
/// How long a service may take to stop in order.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// How a service is run.
pub(crate) struct Spec {
    /// Its name in errors.
    pub(crate) name: &'static str,
    /// What it needs on the machine, for errors.
    pub(crate) needs: &'static str,
    /// Its command line; the same at every start.
    pub(crate) command: Box<dyn Fn() -> Command + Send + Sync>,
    /// Whether it answers now; else why not.
    pub(crate) probe: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// The signal that stops it in order, its data safe.
    pub(crate) stop: Signal,
    /// The signal that ends it at once when its data isn't needed any more, without leftovers.
    pub(crate) discard: Signal,
}

/// A service that answers, or was stopped by its test. Dropping it ends it and removes its folder.
pub struct Server {
    // Before the folder, so that it is dropped before.
    running: Mutex<Option<Process>>,
    spec: Spec,
    folder: RunFolder,
}

/// What every service can be told. Its data and its ports outlive all of it.
pub trait Service: Send + Sync + 'static {
    /// The process behind it.
    #[doc(hidden)]
    fn server(&self) -> &Server;

    /// Stops it in order; clients are disconnected. Without effect if it isn't running.
    ///
    /// # Errors
    /// If it doesn't stop within a minute.
    fn stop(&self) -> Result<(), String> {
        let server = self.server();
        server.end(server.spec.stop)
    }

    /// Kills it as a crash would (SIGKILL); without effect if it isn't running. What it acknowledged is still there after
    /// [`Service::restart`].
    ///
    /// # Errors
    /// If it doesn't end within a minute.
    fn kill(&self) -> Result<(), String> {
        self.server().end(Signal::KILL)
    }

    /// Starts it again (stopping it first if it runs), and waits until it answers. After a kill that may take longer.
    ///
    /// # Errors
    /// If it doesn't answer within two minutes.
    fn restart(&self) -> Result<(), String> {
        self.stop()?;
        let server = self.server();
        let process = server.launch()?;
        *server.running() = Some(process);
        Ok(())
    }
}

impl Server {
    pub(crate) fn start(spec: Spec, folder: RunFolder) -> Result<Self, String> {
        let server = Self { running: Mutex::new(None), spec, folder };
        let process = server.launch()?;
        *server.running() = Some(process);
        Ok(server)
    }

    pub(crate) fn folder(&self) -> &RunFolder {
        &self.folder
    }

    fn end(&self, signal: Signal) -> Result<(), String> {
        let Some(mut process) = self.running().take() else {
            return Ok(());
        };
        if process.end(signal, STOP_DEADLINE)? {
            return Ok(());
        }
        let seconds = STOP_DEADLINE.as_secs();
        Err(self.explain(&format!("didn't stop within {seconds} s")))
    }

    fn launch(&self) -> Result<Process, String> {
        let mut process = Process::spawn(&mut (self.spec.command)(), self.folder.path(), self.spec.discard)
            .map_err(|e| explain(self.spec.name, &e, self.spec.needs))?;
        let until = Instant::now() + START_DEADLINE;
        loop {
            if let Some(status) = process.exited()? {
                return Err(self.explain(&format!("ended with {status} before it answered")));
            }
            match (self.spec.probe)() {
                Ok(()) => return Ok(process),
                Err(e) if Instant::now() >= until => {
                    let seconds = START_DEADLINE.as_secs();
                    return Err(self.explain(&format!("didn't answer within {seconds} s: {e}")));
                }
                Err(_) => sleep(POLL),
            }
        }
    }

    fn explain(&self, what: &str) -> String {
        let log = tail(&self.folder.path().join(LOG));
        let what = format!("{what}; its log ends:\n{log}\n");
        explain(self.spec.name, &what, self.spec.needs)
    }

    fn running(&self) -> MutexGuard<'_, Option<Process>> {
        // A process handle is whole whatever a thread that panicked was about to do with it.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error of a service, with the way out.
pub(crate) fn explain(name: &str, what: &str, needs: &str) -> String {
    format!("\"{name}\": {what} (it needs {needs})")
}
