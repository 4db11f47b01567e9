//! Connections: so many at once, each with a bounded head and a bounded time to send it; all closed in good order when
//! the server stops.
//!
//! Knows no route. `axum::serve` bounds neither, hence this loop of its own on the same hyper.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::guard::Peer;
use super::patience::{Patient, STALL};
use super::tls::Tls;
use super::watch::MAX_WATCHERS;

/// Open connections; more wait in the listener's backlog. There is room beside as many watches as there may be.
const MAX_CONNECTIONS: usize = MAX_WATCHERS + 128;
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;
/// Bytes that the system may hold for a client that takes them slowly; Linux doubles it.
const SEND_BUFFER: u32 = 256 * 1024;
/// How long a client may take for a request's head, also the first, and how long it may idle between requests.
const HEAD: Duration = Duration::from_secs(20);
/// How long a client may take for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The longest head.
const HEAD_BYTES: usize = 64 * 1024;
/// How long requests in flight may take when the server stops.
const GRACE: Duration = Duration::from_secs(5);
/// Pause after an accept that failed for want of something (file descriptors), so that the loop doesn't spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens there.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // What was bound here a moment ago doesn't matter.
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stopping` turns true, then lets requests in flight end.
pub(super) async fn run(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = super::stopped(&mut stopping) => break,
            Some(_) = connections.join_next() => {}
            accepted = accept(&listener, places.clone()) => {
                if let Some((stream, from, place)) = accepted {
                    connections.spawn(secure(stream, tls.clone(), from, place, router.clone(), stopping.clone()));
                }
            }
        }
    }
    drop(listener);
    let drained = tokio::time::timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(open = connections.len(), "API connections did not end within {} s: closed", GRACE.as_secs());
        connections.shutdown().await;
    }
}

/// The next connection, once there is a place for it; `None` if none came of it.
async fn accept(
    listener: &TcpListener,
    places: Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = places.acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, from)) => Some((stream, from, place)),
        Err(error) => {
            tracing::warn!(%error, "the API could not accept a connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// Serves a connection, after the handshake where there is TLS.
async fn secure(
    stream: TcpStream,
    tls: Option<Arc<Tls>>,
    from: SocketAddr,
    place: OwnedSemaphorePermit,
    router: Router,
    stopping: watch::Receiver<bool>,
) {
    let stream = Patient::new(stream, STALL);
    let Some(tls) = tls else { return serve(stream, from, place, router, stopping).await };
    match tokio::time::timeout(HANDSHAKE, tls.acceptor().accept(stream)).await {
        Ok(Ok(stream)) => serve(stream, from, place, router, stopping).await,
        Ok(Err(error)) => tracing::debug!(%from, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(%from, "a TLS handshake took more than {} s", HANDSHAKE.as_secs()),
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    from: SocketAddr,
    _place: OwnedSemaphorePermit,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let routes = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(from));
        routes.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = super::stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an API connection ended early");
    }
}
