//! What every request passes before it reaches a route: who may ask, how long it may take, which headers go back.
//!
//! Knows no route. Default deny: tokens come with a later release, until then only a configuration that says
//! `allow_anonymous` opens the API, and only to callers on the same machine.

use std::net::IpAddr;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::App;
use super::error::ApiError;

/// Longest time from a request's head to its answer's head. Above the handle's own limit, whose message says more.
const REQUEST: Duration = Duration::from_secs(15);

/// Refuses those who may not ask.
pub(super) async fn authorise(State(app): State<App>, request: Request, next: Next) -> Response {
    if !app.allow_anonymous {
        let refused = ApiError::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "the API refuses every request: access tokens come with a later release",
            "to open it to this machine alone, set `allow_anonymous = true` and a loopback `listen` under [api] in workers.toml",
        );
        return ([(header::WWW_AUTHENTICATE, "Bearer")], refused).into_response();
    }
    if !names_this_machine(request.headers()) {
        return ApiError::new(
            StatusCode::FORBIDDEN,
            "forbidden_host",
            "the request's Host header names another machine, and anonymous access is for this one",
            "use 127.0.0.1, [::1] or localhost in the URL",
        )
        .into_response();
    }
    next.run(request).await
}

/// Whether the Host header is a loopback name. A web page whose name an attacker points at 127.0.0.1 (DNS rebinding)
/// still sends its own.
fn names_this_machine(headers: &HeaderMap) -> bool {
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
    match tokio::time::timeout(REQUEST, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "request_timeout",
            format!("the request took more than {} s", REQUEST.as_secs()),
            "send the body without pauses; /v1/health shows whether the engine is behind",
        )
        .into_response(),
    }
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
