//! Where responses go: the reference receiver on a thread of its own. Knows nothing of an alert but its session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use clawdstrike_agent_control::{Deed, Received};
use tokio::runtime::Runtime;

type Arrivals = Arc<Mutex<HashMap<String, Instant>>>;

/// A receiver that runs until it is dropped.
pub(crate) struct Receiver {
    control: clawdstrike_agent_control::Receiver,
    arrivals: Arrivals,
    url: String,
    _runtime: Runtime,
}

impl Receiver {
    /// One that only notes when the first word of each alert came.
    pub(crate) fn start() -> anyhow::Result<Receiver> {
        let arrivals = Arrivals::default();
        let keep = arrivals.clone();
        let tell = move |deed: &Deed, before: bool| {
            if !before && let Some(session) = &deed.session_id {
                let mut arrivals = keep.lock().unwrap_or_else(PoisonError::into_inner);
                arrivals.entry(session.clone()).or_insert_with(Instant::now);
            }
        };
        Receiver::serve(clawdstrike_agent_control::Receiver::new().telling(tell), arrivals)
    }

    /// One that keeps every request, and now and then takes none.
    pub(crate) fn keeping(every: usize) -> anyhow::Result<Receiver> {
        let away = move |n: usize, _: &Received| (n % every == every - 1).then(unavailable);
        Receiver::serve(clawdstrike_agent_control::Receiver::new().but(away), Arrivals::default())
    }

    fn serve(control: clawdstrike_agent_control::Receiver, arrivals: Arrivals) -> anyhow::Result<Receiver> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let address = runtime.block_on(control.serve())?;
        Ok(Receiver { control, arrivals, url: format!("http://{address}"), _runtime: runtime })
    }

    /// The section of the configuration that leads here, without any bound on what is done unasked.
    pub(crate) fn settings(&self) -> String {
        let url = &self.url;
        format!(
            "[response]\nsoc_webhook = \"{url}/alerts\"\nagent_control_api = \"{url}\"\nmax_actions_per_hour = 1000000\n\
             max_actions_per_agent_per_hour = 1000000\nmax_quarantined_percent = 100\n"
        )
    }

    /// When the alert of a session came first.
    pub(crate) fn arrival(&self, session: &str) -> Option<Instant> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).get(session).copied()
    }

    /// Sessions of which an alert came.
    pub(crate) fn sessions(&self) -> Vec<String> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Every request that came.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.control.received()
    }

    /// Everything that was done, each once for its key.
    pub(crate) fn deeds(&self) -> Vec<Deed> {
        self.control.deeds()
    }
}

fn unavailable() -> axum::response::Response {
    axum::response::IntoResponse::into_response(axum::http::StatusCode::SERVICE_UNAVAILABLE)
}
