//! What every request passes before it reaches a route: who may ask, how long it may take, which headers go back.
//!
//! Knows no route. Default deny: what a route needs, the caller must have.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument as _;

use super::access::Access;
use super::audit::{Recorder, Write};
use super::error::ApiError;
use super::routes::{DIFF, Needs};
use crate::runtime::handle::WHAT_IF_WITHIN;

/// Longest time from a request's head to its answer's head. Above the handle's own limit, whose message says more.
const REQUEST: Duration = Duration::from_secs(15);

/// What stands before one route.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) access: Arc<Access>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) needs: Needs,
    /// What the audit trail calls it, if it changes something.
    pub(super) action: Option<&'static str>,
}

/// The other end of the connection; the server adds it to every request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// Refuses those who may not ask.
pub(super) async fn authorise(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let Some(Peer(from)) = request.extensions().get().copied() else {
        tracing::error!("a request came without the address that it is from, and is refused");
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let mut write = gate.action.map(|action| Write::new(gate.recorder.clone(), action, from));
    match gate.pass(request.headers(), from, write.as_mut()).await {
        Ok(()) => {
            if let Some(write) = &write {
                request.extensions_mut().insert(write.clone());
            }
            let response = next.run(request).await;
            if let Some(write) = write
                && !write.is_recorded()
            {
                write.recorder.refused(&write, response.status(), "unprocessed").await;
            }
            response
        }
        Err(refused) => {
            if let Some(write) = write {
                write.recorder.refused(&write, refused.status(), refused.code()).await;
            }
            refused.into_response()
        }
    }
}

impl Gate {
    /// Whether the request may go on; who it is from is noted with a write also where it may not.
    async fn pass(&self, headers: &HeaderMap, from: SocketAddr, write: Option<&mut Write>) -> Result<(), ApiError> {
        let asked = match self.needs {
            Needs::Nothing => return self.access.admit(from),
            Needs::Token => vec![],
            Needs::Permission(asked) => vec![asked],
            Needs::Both(one, other) => vec![one, other],
        };
        let caller = self.access.identify(headers, from).await?;
        let may = asked.into_iter().try_for_each(|asked| caller.may(asked));
        if let Some(write) = write {
            write.caller = Some(caller);
        }
        may
    }
}

/// Whether the Host header is a loopback name. A web page whose name an attacker points at 127.0.0.1 (DNS rebinding)
/// still sends its own.
pub(super) fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|h| h.to_str().ok()) else {
        return false;
    };
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next(),
        None => host.split(':').next(),
    };
    let name = name.unwrap_or_default();
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Ends requests that take too long.
pub(super) async fn limit_time(request: Request, next: Next) -> Response {
    // As everywhere, above the limit whose message says more.
    let limit = if request.uri().path() == DIFF { WHAT_IF_WITHIN + REQUEST } else { REQUEST };
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "request_timeout",
            format!("the request took more than {} s", limit.as_secs()),
            "send the body without pauses; /v1/health shows whether the engine is behind",
        )
        .into_response(),
    }
}

/// A span for each request: its route, and never its path or query, which may name agents.
pub(super) async fn trace(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str);
    let method = request.method().as_str();
    let span = tracing::info_span!(
        "request",
        "otel.name" = format_args!("{method} {route}"),
        "otel.kind" = "server",
        "http.request.method" = method,
        "http.route" = route,
        "http.response.status_code" = tracing::field::Empty,
    );
    let response = next.run(request).instrument(span.clone()).await;
    span.record("http.response.status_code", response.status().as_u16());
    response
}

/// Answers hold telemetry: nobody shall cache them, or guess another type than the one they name.
pub(super) async fn set_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_this_machine() {
        let check = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().expect("a header value"));
            names_this_machine(&headers)
        };
        for host in ["localhost", "LOCALHOST:7878", "127.0.0.1:7878", "127.0.0.2", "[::1]:7878"] {
            assert!(check(host), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example:7878", "10.0.0.1", "[2001:db8::1]:80", "", "127.0.0.1.nip.io"]
        {
            assert!(!check(host), "{host}");
        }
        assert!(!names_this_machine(&HeaderMap::new()));
    }
}
