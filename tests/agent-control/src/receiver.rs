//! The server: takes requests, does each once for its key, and answers a repeated one as it answered the first.
//! Tests may have it answer otherwise, or not at all.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::{Deed, Keys, Refusal};

/// Keys that are remembered; the engine repeats by itself within an hour, and by hand while its ledger has the row.
const KEYS: usize = 100_000;

/// A request as it came over the wire.
#[derive(Clone, Debug)]
pub struct Received {
    /// Path and query.
    pub path: String,
    /// The `Idempotency-Key`; empty if there is none.
    pub key: String,
    /// The body, if there is one and it is JSON.
    pub body: Option<Value>,
    /// The body's bytes.
    pub raw: Bytes,
    /// All headers.
    pub headers: HeaderMap,
    /// When it came.
    pub at: Instant,
}

/// What is answered to the n-th request (from 0) instead of doing what it asks for.
type Instead = Arc<dyn Fn(usize, &Received) -> Option<Response> + Send + Sync>;
/// Who hears of each deed.
type Told = Arc<dyn Fn(&Deed, bool) + Send + Sync>;

/// What has come of requests.
#[derive(Default)]
struct Memory {
    requests: Vec<Received>,
    count: usize,
    deeds: Vec<Deed>,
    /// By key: what was asked for.
    known: HashMap<String, (String, String)>,
    oldest: VecDeque<String>,
}

/// A receiver. Its clones are the same one.
#[derive(Clone)]
pub struct Receiver {
    memory: Arc<Mutex<Memory>>,
    instead: Instead,
    told: Told,
    base: String,
    control: Keys,
    webhook: Keys,
    /// Whether requests and deeds are kept; what runs for long only remembers keys.
    keeps: bool,
    /// Requests are answered while there are permits.
    pub gate: Arc<Semaphore>,
}

impl Receiver {
    /// One that does what it is asked for, at the root of its address, and keeps all of it.
    pub fn new() -> Receiver {
        Receiver {
            memory: Arc::default(),
            instead: Arc::new(|_, _| None),
            told: Arc::new(|_, _| {}),
            base: String::new(),
            control: Keys::default(),
            webhook: Keys::default(),
            keeps: true,
            gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        }
    }

    /// Answers the n-th request (from 0) so instead of doing what it asks for; `None`: it is done after all.
    #[must_use]
    pub fn but(self, instead: impl Fn(usize, &Received) -> Option<Response> + Send + Sync + 'static) -> Receiver {
        Receiver { instead: Arc::new(instead), ..self }
    }

    /// Takes requests, and answers none before `gate` gets permits.
    #[must_use]
    pub fn hanging(self) -> Receiver {
        Receiver { gate: Arc::new(Semaphore::new(0)), ..self }
    }

    /// The control API lies below this path, such as `/api`.
    #[must_use]
    pub fn below(self, base: &str) -> Receiver {
        Receiver { base: base.trim_end_matches('/').to_owned(), ..self }
    }

    /// Takes only what is signed with these: requests to the control API, and to the webhook.
    #[must_use]
    pub fn signed_with(self, control: Keys, webhook: Keys) -> Receiver {
        Receiver { control, webhook, ..self }
    }

    /// Tells of each deed, and whether it was done before; keeps nothing but keys.
    #[must_use]
    pub fn telling(self, told: impl Fn(&Deed, bool) + Send + Sync + 'static) -> Receiver {
        Receiver { told: Arc::new(told), keeps: false, ..self }
    }

    /// Serves on a free port of loopback, on the current runtime.
    ///
    /// # Errors
    /// There is no port.
    pub async fn serve(&self) -> std::io::Result<SocketAddr> {
        self.serve_on(TcpListener::bind("127.0.0.1:0").await?)
    }

    /// Serves here, on the current runtime.
    ///
    /// # Errors
    /// The listener has no address.
    pub fn serve_on(&self, listener: TcpListener) -> std::io::Result<SocketAddr> {
        let address = listener.local_addr()?;
        let app = Router::new().fallback(handle).with_state(self.clone());
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                eprintln!("agent-control: {error}");
            }
        });
        Ok(address)
    }

    /// Every request that came, in order.
    pub fn received(&self) -> Vec<Received> {
        self.memory().requests.clone()
    }

    /// Everything that was done, in order, each once for its key.
    pub fn deeds(&self) -> Vec<Deed> {
        self.memory().deeds.clone()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what is asked for, unless its key was seen: then it is the same answer, and nothing else. What was refused isn't
    /// remembered, so that it may be asked again.
    fn obey(&self, request: &Received) -> Result<Response, Refusal> {
        let path = request.path.strip_prefix(&self.base).unwrap_or(&request.path);
        if !is_key(&request.key) {
            return Err((400, "\"Idempotency-Key\" must be 64 hex digits".into()));
        }
        let signed = if path.starts_with("/agents/") {
            let parts: [&[u8]; 5] = [request.key.as_bytes(), b".", path.as_bytes(), b".", &request.raw];
            self.control.check(&request.headers, &parts)
        } else {
            self.webhook.check(&request.headers, &[&request.raw])
        };
        signed.map_err(|why| (401, why))?;
        if !request.raw.is_empty() && request.body.is_none() {
            return Err((400, "the body is not JSON".into()));
        }
        // Several alerts at once have a key each.
        if !path.starts_with("/agents/")
            && let Some(Value::Array(alerts)) = &request.body
        {
            for alert in alerts {
                let mut alert = alert.clone();
                let key = alert.as_object_mut().and_then(|alert| alert.remove("idempotency_key"));
                let key = key.as_ref().and_then(Value::as_str).filter(|key| is_key(key));
                let key = key.ok_or((400, "an entry's \"idempotency_key\" must be 64 hex digits".to_owned()))?;
                self.once(path, key, Some(&alert))?;
            }
            return Ok((StatusCode::OK, axum::Json(json!({ "alerts": alerts.len() }))).into_response());
        }
        let (deed, before) = self.once(path, &request.key, request.body.as_ref())?;
        let body = json!({"action": deed.action, "agent_id": deed.agent_id, "repeated": before});
        Ok((StatusCode::OK, axum::Json(body)).into_response())
    }

    /// Does it unless the key was seen; says whether it was.
    fn once(&self, path: &str, key: &str, body: Option<&Value>) -> Result<(Deed, bool), Refusal> {
        let deed = Deed::of(path, key, body)?;
        let asked = (path.to_owned(), body.map(ToString::to_string).unwrap_or_default());
        // Under one lock from looking to doing: two requests with one key at once are one deed.
        let mut memory = self.memory();
        let before = match memory.known.get(key) {
            Some(known) if *known == asked => true,
            Some(_) => return Err((422, "\"Idempotency-Key\" came with another request before".into())),
            None => false,
        };
        (self.told)(&deed, before);
        if !before {
            memory.known.insert(key.to_owned(), asked);
            memory.oldest.push_back(key.to_owned());
            if memory.oldest.len() > KEYS
                && let Some(oldest) = memory.oldest.pop_front()
            {
                memory.known.remove(&oldest);
            }
            if self.keeps {
                memory.deeds.push(deed.clone());
            }
        }
        Ok((deed, before))
    }
}

impl Default for Receiver {
    fn default() -> Self {
        Receiver::new()
    }
}

fn is_key(key: &str) -> bool {
    key.len() == 64 && key.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

async fn handle(
    State(receiver): State<Receiver>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if method != Method::POST {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let received = Received {
        path: uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        key: headers.get("idempotency-key").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned(),
        body: serde_json::from_slice(&body).ok(),
        raw: body,
        headers,
        at: Instant::now(),
    };
    let index = {
        let mut memory = receiver.memory();
        if receiver.keeps {
            memory.requests.push(received.clone());
        }
        memory.count += 1;
        memory.count - 1
    };
    match receiver.gate.acquire().await {
        Ok(permit) => permit.forget(),
        Err(_) => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
    if let Some(answer) = (receiver.instead)(index, &received) {
        return answer;
    }
    receiver.obey(&received).unwrap_or_else(|(status, reason)| {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        (status, axum::Json(json!({ "error": reason }))).into_response()
    })
}
