//! A thousand requests of somebody who means harm, at once: all refused, while the engine goes on for others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clawdstrike_edr::alert::Status;
use clawdstrike_edr::config::{Api, Oidc};
use clawdstrike_rules::plan::Severity;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::backend::{Engine, alert, http, until};

const REQUESTS: usize = 1_000;
/// Of them, so many are under way at once.
const AT_ONCE: usize = 64;
/// Connections that send a byte now and then, all the time.
const SLOW: usize = 40;

const HEADER_NONE: &str = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
/// `{"iss":"https://issuer.example","aud":"edr","sub":"root","exp":4102444800,"roles":["administrator"]}`
const CLAIMS: &str = "eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwiYXVkIjoiZWRyIiwic3ViIjoicm9vdCIsImV4cCI6NDEwMjQ0NDgwMCwicm9sZXMiOlsiYWRtaW5pc3RyYXRvciJdfQ";

/// What request number `n` sends, and what may come back.
fn attack(n: usize, expired: &str) -> (Vec<u8>, &'static [u16]) {
    let head = |method: &str, route: &str, token: &str, more: &str| {
        format!("{method} {route} HTTP/1.1\r\nhost: edr\r\nconnection: close\r\n{token}{more}\r\n")
    };
    let bearer = |token: &str| format!("authorization: Bearer {token}\r\n");
    let text = match n % 12 {
        0 => head("GET", "/v1/alerts", &bearer(&format!("cse_{n:064x}")), ""),
        1 => head("GET", "/v1/sessions", &bearer(&format!("{HEADER_NONE}.{CLAIMS}.")), ""),
        2 => head("POST", "/v1/rules", &bearer(expired), "content-length: 0\r\n"),
        3 => head("GET", "/v1/audit", &bearer(&"x".repeat(32 * 1024)), ""),
        4 => head("GET", "/v1/alerts", "", &format!("x: {}\r\n", "y".repeat(70 * 1024))),
        5 => head("POST", "/v1/rules", "", "content-type: application/json\r\ncontent-length: 99999999999\r\n"),
        6 => head("GET", &format!("/v1/alerts?cursor={}", "0".repeat(20_000)), "", ""),
        7 => head("GET", "/v1/alerts/..%2f..%2f..%2fetc%2fpasswd%00", &bearer("null"), ""),
        8 => head("POST", "/v1/rules", "", "transfer-encoding: chunked\r\ncontent-length: 3\r\n") + "zz\r\n\r\n",
        9 => head("TRACE", "/v1/alerts", "authorization: Basic cm9vdDpyb290\r\n", ""),
        10 => "\u{16}\u{3}\u{1} not HTTP at all\r\n\r\n".to_owned(),
        _ => head("GET", "/v1/sessions/watch", &bearer(&format!("{HEADER_NONE}.{CLAIMS}.AAAA")), ""),
    };
    // 429: the address is soon too fast for any other answer.
    (text.into_bytes(), if [4, 8, 10].contains(&(n % 12)) { &[400, 401, 429, 431] } else { &[401, 429] })
}

/// The status of the answer; `None`: the connection was closed without one.
async fn send(to: SocketAddr, bytes: Vec<u8>) -> Option<u16> {
    let mut stream = TcpStream::connect(to).await.expect("a connection");
    // The server may refuse before all of it is sent.
    let _refused_early = stream.write_all(&bytes).await;
    let mut answer = [0; 12];
    let read = tokio::time::timeout(Duration::from_secs(30), stream.read_exact(&mut answer)).await;
    let read = read.expect("an answer, or an end, within 30 s");
    read.ok()?;
    let text = std::str::from_utf8(&answer).expect("a status line");
    Some(text.strip_prefix("HTTP/1.1 ").expect(text).parse().expect("a status"))
}

/// Sends a head without an end, byte by byte, until told to stop.
async fn dawdle(to: SocketAddr, stop: Arc<AtomicBool>) {
    let Ok(mut stream) = TcpStream::connect(to).await else { return };
    for byte in b"GET /v1/alerts HTTP/1.1\r\nx: ".iter().chain(std::iter::repeat(&b'y')) {
        if stop.load(Ordering::Relaxed) || stream.write_all(&[*byte]).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_hostile_requests_are_refused_and_others_are_served_meanwhile() {
    // Its keys can't be had: what only they could prove is refused all the same.
    let oidc = Oidc {
        issuer: "https://issuer.example".into(),
        audience: "edr".into(),
        jwks_url: "http://127.0.0.1:9/jwks".into(),
        role_claim: "roles".into(),
    };
    let engine = Engine::start_with(Api { oidc: Some(oidc), requests_per_second: 1_000, ..Api::default() }).await;
    let friend = engine.token("soc_analyst").await;
    let expired = engine.tokens().create("old", "administrator", 1, Some(2)).expect("a token").secret;
    let stop = Arc::new(AtomicBool::new(false));
    let mut slow = JoinSet::new();
    for _ in 0..SLOW {
        slow.spawn(dawdle(engine.address, stop.clone()));
    }
    // A friend of ours watches and asks all the time.
    let url = engine.url("/v1/alerts/watch");
    let mut watch = http().get(url).bearer_auth(&friend).send().await.expect("an answer");
    assert_eq!(watch.status().as_u16(), 200);
    let done = Arc::new(AtomicUsize::new(0));
    let mut attacks = JoinSet::new();
    let places = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    for n in 0..REQUESTS {
        let (bytes, expected) = attack(n, &expired);
        let (to, places, done) = (engine.address, places.clone(), done.clone());
        attacks.spawn(async move {
            let _place = places.acquire_owned().await.expect("open");
            let status = send(to, bytes).await;
            assert!(status.is_none_or(|status| expected.contains(&status)), "{n}: {status:?}");
            done.fetch_add(1, Ordering::Relaxed);
            status.is_some()
        });
    }
    let (mut asked, mut longest) = (0, Duration::ZERO);
    while done.load(Ordering::Relaxed) < REQUESTS && !attacks.is_empty() {
        let began = Instant::now();
        let (status, _, body) = engine.ask("GET", "/v1/alerts", Some(&friend)).await;
        assert_eq!((status, &body["total"]), (200, &3.into()), "{body}");
        longest = longest.max(began.elapsed());
        asked += 1;
        let mut ended = Vec::new();
        while let Some(attack) = attacks.try_join_next() {
            ended.push(attack.expect("refused as expected"));
        }
    }
    while let Some(attack) = attacks.join_next().await {
        attack.expect("refused as expected");
    }
    eprintln!("{asked} answers meanwhile, the longest after {longest:?}");
    assert!(asked > 0 && longest < Duration::from_secs(5), "{asked} answers, the longest after {longest:?}");
    engine.watchers.alerts.tell([alert("id-after", Severity::High, Status::Open)]);
    let mut text = String::new();
    while !text.contains("id-after") {
        let chunk = tokio::time::timeout(Duration::from_secs(10), watch.chunk()).await.expect("within 10 s");
        text.push_str(&String::from_utf8_lossy(&chunk.expect("a chunk").expect("no end")));
    }
    stop.store(true, Ordering::Relaxed);
    while slow.join_next().await.is_some() {}
    until("the address is told apart from its holder of a token", || async {
        engine.ask("GET", "/v1/alerts", Some(&friend)).await.0 == 200
    })
    .await;
    let admin = engine.token("administrator").await;
    let (_, _, rules) = engine.ask("GET", "/v1/rules", Some(&admin)).await;
    assert_eq!(rules["total"], 0, "nothing was changed");
}
