//! The HTTP API (SPEC §12): questions to the live views, the rule set, health and metrics, over one engine handle.
//!
//! Knows nothing of the dataflow behind the handle, and keeps no view of its own: every read is a peek.

mod agents;
mod alerts;
mod error;
mod guard;
mod health;
mod params;
mod rules;
mod server;
mod sessions;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch as signal};
use tokio::task::JoinHandle;

use crate::runtime::handle::Handle;
use error::ApiError;
use params::NoParams;

/// The longest request body, in bytes: a rule set.
pub const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;
/// Watches (server-sent events) that may be open at once.
pub const MAX_WATCHERS: usize = 64;

/// The OpenAPI document; a test holds it to the routes.
const OPENAPI: &str = include_str!("openapi.json");

/// What every route works with.
#[derive(Clone)]
struct App {
    handle: Handle,
    allow_anonymous: bool,
    watchers: Arc<Semaphore>,
    stopping: signal::Receiver<bool>,
}

impl App {
    fn open_watches(&self) -> usize {
        MAX_WATCHERS - self.watchers.available_permits()
    }
}

/// Serves the API on `listen` (port 0: a free one) until `shutdown` resolves; gives the address that it listens on, and the
/// task that ends when the last connection has ended.
///
/// Errors: the address can't be had, or `allow_anonymous` is asked for on an address that others can reach.
pub async fn serve(
    listen: SocketAddr,
    handle: Handle,
    allow_anonymous: bool,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(SocketAddr, JoinHandle<()>), String> {
    if allow_anonymous && !listen.ip().is_loopback() {
        return Err(format!(
            "[api] allow_anonymous = true needs a loopback address, and listen is \"{listen}\": use 127.0.0.1, or turn it off"
        ));
    }
    let taken = |e| format!("[api] listen = \"{listen}\": {e}; choose another port there (0 picks a free one)");
    let listener = TcpListener::bind(listen).await.map_err(taken)?;
    let address = listener.local_addr().map_err(taken)?;
    let (stop, stopping) = signal::channel(false);
    let watchers = Arc::new(Semaphore::new(MAX_WATCHERS));
    let app = App { handle, allow_anonymous, watchers, stopping: stopping.clone() };
    let server = server::run(listener, router(app), stopping);
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
    Router::new()
        .route("/v1/health", get(health::health))
        .route("/v1/ready", get(health::ready))
        .route("/v1/sessions", get(sessions::list))
        .route("/v1/sessions/watch", get(watch::sessions))
        .route("/v1/sessions/{agent}/{session}", get(sessions::one))
        .route("/v1/alerts", get(alerts::list))
        .route("/v1/alerts/watch", get(watch::alerts))
        .route("/v1/alerts/{id}", get(alerts::one))
        .route("/v1/agents", get(agents::list))
        .route("/v1/rules", get(rules::list).post(rules::load))
        .route("/v1/rules/{id}", get(rules::one))
        .route("/v1/openapi.json", get(openapi))
        .route("/metrics", get(health::metrics))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(axum::middleware::from_fn(guard::limit_time))
        .layer(axum::middleware::from_fn_with_state(app.clone(), guard::authorise))
        .layer(axum::middleware::from_fn(guard::set_headers))
        .with_state(app)
}

async fn openapi(NoParams: NoParams) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
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
