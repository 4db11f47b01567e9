//! A SOC's webhook: when the first word of each alert came. Knows nothing else of an alert but its session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context as _;
use serde_json::Value;

type Arrivals = Arc<Mutex<HashMap<String, Instant>>>;

/// A receiver that runs until the process ends.
pub(crate) struct Receiver {
    arrivals: Arrivals,
    url: String,
}

impl Receiver {
    pub(crate) fn start() -> anyhow::Result<Receiver> {
        let arrivals = Arrivals::default();
        let keep = arrivals.clone();
        let (tell, address) = std::sync::mpsc::channel();
        std::thread::Builder::new().name("receiver".into()).spawn(move || {
            if let Err(error) = serve(keep, &tell) {
                eprintln!("the webhook's receiver: {error:#}");
            }
        })?;
        let address = address.recv().context("the webhook's receiver doesn't listen")?;
        Ok(Receiver { arrivals, url: format!("http://{address}/hook") })
    }

    /// Where alerts are posted to.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// When the alert of a session came first.
    pub(crate) fn arrival(&self, session: &str) -> Option<Instant> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).get(session).copied()
    }

    /// Sessions of which an alert came.
    pub(crate) fn sessions(&self) -> Vec<String> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}

fn serve(keep: Arrivals, tell: &std::sync::mpsc::Sender<std::net::SocketAddr>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        tell.send(listener.local_addr()?)?;
        let take = move |body: axum::Json<Value>| {
            let now = Instant::now();
            let session = body.0["session_id"].as_str().unwrap_or_default().to_owned();
            keep.lock().unwrap_or_else(PoisonError::into_inner).entry(session).or_insert(now);
            std::future::ready(())
        };
        let app = axum::Router::new().fallback(axum::routing::any(take));
        Ok(axum::serve(listener, app).await?)
    })
}
