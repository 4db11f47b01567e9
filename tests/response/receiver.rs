//! A real HTTP receiver that answers as a test says.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// A request as it came over the wire.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) path: String,
    pub(crate) key: String,
    pub(crate) body: Option<Value>,
    pub(crate) raw: Bytes,
    pub(crate) headers: HeaderMap,
    pub(crate) at: Instant,
}

/// What a receiver answers to its n-th request (from 0).
pub(crate) type Behaviour = Arc<dyn Fn(usize, &Received) -> Response + Send + Sync>;

#[derive(Clone)]
pub(crate) struct Receiver {
    requests: Arc<Mutex<Vec<Received>>>,
    behaviour: Behaviour,
    /// Requests are answered while there are permits.
    pub(crate) gate: Arc<Semaphore>,
}

impl Receiver {
    pub(crate) fn new(behaviour: impl Fn(usize, &Received) -> Response + Send + Sync + 'static) -> Self {
        Receiver {
            requests: Arc::default(),
            behaviour: Arc::new(behaviour),
            gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        }
    }

    pub(crate) fn ok() -> Self {
        Receiver::new(|_, _| StatusCode::OK.into_response())
    }

    /// Takes requests, and answers none before `gate` gets permits.
    pub(crate) fn hanging() -> Self {
        Receiver { gate: Arc::new(Semaphore::new(0)), ..Receiver::ok() }
    }

    pub(crate) async fn serve(&self) -> SocketAddr {
        self.serve_on(TcpListener::bind("127.0.0.1:0").await.expect("a free port")).await
    }

    pub(crate) async fn serve_on(&self, listener: TcpListener) -> SocketAddr {
        let address = listener.local_addr().expect("an address");
        let app = Router::new().fallback(handle).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        address
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.requests.lock().expect("no panic while locked").clone()
    }
}

async fn handle(State(receiver): State<Receiver>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let received = Received {
        path: uri.to_string(),
        key: headers.get("idempotency-key").map(|v| v.to_str().expect("a text").to_owned()).unwrap_or_default(),
        body: (!body.is_empty()).then(|| serde_json::from_slice(&body).expect("JSON")),
        raw: body,
        headers,
        at: Instant::now(),
    };
    let index = {
        let mut requests = receiver.requests.lock().expect("no panic while locked");
        requests.push(received.clone());
        requests.len() - 1
    };
    let permit = receiver.gate.acquire().await.expect("never closed");
    permit.forget();
    (receiver.behaviour)(index, &received)
}
