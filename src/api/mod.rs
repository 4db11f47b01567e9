//! The HTTP API (SPEC §12): questions to the live views, the rule set, health and metrics, over one engine handle.
//!
//! Knows nothing of the dataflow behind the handle, and keeps no view of its own: every read is a peek.

mod access;
mod actions;
mod agents;
mod alerts;
mod answer;
mod audit;
mod body;
mod cursor;
mod error;
mod guard;
mod handling;
mod health;
mod metrics;
mod oidc;
mod openapi;
mod params;
mod patience;
mod rates;
pub mod routes;
mod rules;
mod server;
mod sessions;
pub mod tls;
pub mod tokens;
mod watch;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri};
use tokio::sync::watch as signal;
use tokio::task::JoinHandle;

use crate::audit::Audit;
use crate::config::Api;
use crate::runtime::handle::Handle;
use access::Access;
use audit::Recorder;
use error::ApiError;
use tls::Tls;
use tokens::Tokens;
pub use watch::MAX_WATCHERS;
use watch::Watches;

/// The longest request body, in bytes: a rule set.
pub const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// What every route works with.
#[derive(Clone)]
struct App {
    handle: Handle,
    access: Arc<Access>,
    recorder: Arc<Recorder>,
    watches: Arc<Watches>,
    /// Names of the sources, by their places.
    sources: Arc<[String]>,
    state: Arc<metrics::Asked>,
    stopping: signal::Receiver<bool>,
}

/// Serves the API where the configuration says (port 0: a free one) until `shutdown` resolves; gives the address that it
/// listens on, and the task that ends when the last connection has ended. Tokens and the audit trail are those of the `state` folder.
///
/// Errors: the address can't be had, or the configuration contradicts itself.
pub async fn serve(
    api: &Api,
    state: &Path,
    handle: Handle,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(SocketAddr, JoinHandle<()>), String> {
    api.check()?;
    let listen = api.listen;
    let tls = api.tls.as_ref().map(Tls::load).transpose()?.map(Arc::new);
    let taken = |e| format!("[api] listen = \"{listen}\": {e}; choose another port there (0 picks a free one)");
    let listener = server::listen(listen).map_err(taken)?;
    let address = listener.local_addr().map_err(taken)?;
    let (stop, stopping) = signal::channel(false);
    let access = Arc::new(Access::new(api, Tokens::of(state))?);
    let recorder = Arc::new(Recorder::new(Audit::of(state)));
    let app = App {
        access,
        recorder,
        watches: Arc::new(Watches::new()),
        sources: handle.sources(),
        state: Arc::default(),
        stopping: stopping.clone(),
        handle,
    };
    let server = server::run(listener, tls, router(app), stopping);
    let task = tokio::spawn(async move {
        let signalled = async {
            shutdown.await;
            stop.send_replace(true);
        };
        tokio::join!(signalled, server);
    });
    Ok((address, task))
}

/// Resolves when the server is to stop, also if whoever would say so has gone.
async fn stopped(stopping: &mut signal::Receiver<bool>) {
    let _gone_is_stopped_too = stopping.wait_for(|stopping| *stopping).await;
}

fn router(app: App) -> Router {
    routes::router(&app)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(axum::middleware::from_fn(guard::limit_time))
        .layer(axum::middleware::from_fn(guard::set_headers))
        .layer(axum::middleware::from_fn(guard::trace))
        .with_state(app)
}

async fn no_route(uri: Uri) -> ApiError {
    ApiError::not_found(format!("there is no \"{}\"", uri.path()), "/v1/openapi.json lists what there is")
}

async fn no_method(method: Method, uri: Uri) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("\"{}\" does not take {method}", uri.path()),
        "/v1/openapi.json lists what there is",
    )
}

/// The engine answered another question than the one asked: a fault of ours, told rather than hidden.
fn unexpected_rows(wanted: &str) -> ApiError {
    tracing::error!(wanted, "the engine answered with rows of another kind");
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        format!("the engine did not answer with {wanted}"),
        "this is a defect: the engine's log has the details",
    )
}
