//! Receivers that break what HTTP and TLS promise.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Accepts connections on a thread and answers each request with these bytes, the n-th with the n-th, then closes.
fn raw(answers: Vec<&'static str>) -> (SocketAddr, std::thread::JoinHandle<Vec<String>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let serve = move || {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut seen = Vec::new();
            let mut piece = [0; 65_536];
            // The whole request: else the close would be a reset.
            while !whole(&seen) {
                let n = stream.read(&mut piece).expect("a request");
                seen.extend_from_slice(&piece[..n]);
            }
            stream.write_all(answer.as_bytes()).expect("an answer");
            requests.push(String::from_utf8_lossy(&seen).into_owned());
        }
        requests
    };
    (address, std::thread::spawn(serve))
}

fn whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length =
        head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok());
    body.len() >= length.unwrap_or_default()
}

#[tokio::test]
async fn a_connection_that_ends_before_the_answer_is_tried_again_and_one_that_ends_within_it_is_not() {
    let (address, served) = raw(vec!["", "HTTP/1.1 2", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nnot all of it"]);
    let running = start(Some(address), None);
    running.submit(1, Arc::new(alert("a1", &[action(ActionKind::AlertSoc)]))).await;
    all_done(&running).await;
    assert_eq!(running.state().await, State::Acknowledged);
    let requests = served.join().expect("no panic");
    let key = |request: &String| request.lines().find(|line| line.starts_with("idempotency-key")).map(str::to_owned);
    assert_eq!(requests.iter().map(key).collect::<BTreeSet<_>>().len(), 1, "{requests:?}");
    assert_eq!(running.rows().await[0].attempts, 3);
}

/// A TLS server whose certificate nobody vouches for.
struct Unknown {
    child: Child,
    _folder: tempfile::TempDir,
}

impl Drop for Unknown {
    fn drop(&mut self) {
        self.child.kill().expect("a running server");
        self.child.wait().expect("its end");
    }
}

fn unknown(port: u16) -> Unknown {
    let folder = tempfile::tempdir().expect("a folder");
    let (key, certificate) = (folder.path().join("key.pem"), folder.path().join("cert.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stderr(Stdio::null())
        .status()
        .expect("the command openssl");
    assert!(made.success());
    let child = Command::new("openssl")
        .args(["s_server", "-quiet", "-accept", &format!("127.0.0.1:{port}"), "-key"])
        .arg(&key)
        .arg("-cert")
        .arg(&certificate)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the command openssl");
    Unknown { child, _folder: folder }
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_gets_nothing_and_shows() {
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address").port();
    let _server = unknown(port);
    let config = config::Response { soc_webhook: Some(format!("https://127.0.0.1:{port}/hook")), ..config(None, None) };
    let running = Running::new(&config, quick());
    running.submit(1, Arc::new(alert("a1", &[action(ActionKind::AlertSoc)]))).await;
    let shown =
        || running.degraded().get("soc_webhook").is_some_and(|reason| reason.to_lowercase().contains("certificate"));
    until("the certificate is named", shown).await;
    assert_eq!((running.counts().sent, running.unfinished().await), (0, 1));
}

#[tokio::test]
async fn a_webhook_whose_name_leads_inside_gets_nothing_where_it_must_not() {
    let soc = receiver();
    let port = serve(&soc).await.port();
    let at = |host: &str| config::Response {
        soc_webhook: Some(format!("http://{host}:{port}/hook")),
        soc_private_addresses: false,
        ..config(None, None)
    };
    let running = Running::new(&at("localhost"), quick());
    running.submit(1, Arc::new(alert("a1", &[action(ActionKind::AlertSoc)]))).await;
    let shown = || running.degraded().get("soc_webhook").is_some_and(|reason| reason.contains("soc_private_addresses"));
    until("the reason is told", shown).await;
    for host in ["127.0.0.1", "[::1]", "0x7f.1", "[::ffff:10.0.0.1]"] {
        let folder = tempfile::tempdir().expect("a folder");
        let error = Orchestrator::start(&at(host), folder.path()).err().expect("an error");
        assert!(error.contains("soc_private_addresses = true"), "{error}");
    }
    assert!(soc.received().is_empty());
    drop(running);
    let allowed = config::Response { soc_private_addresses: true, ..at("localhost") };
    let running = Running::new(&allowed, quick());
    running.submit(1, Arc::new(alert("a1", &[action(ActionKind::AlertSoc)]))).await;
    all_done(&running).await;
    assert_eq!(soc.deeds().len(), 1);
}

#[tokio::test]
async fn the_webhook_speaks_what_its_receiver_reads() {
    let soc = receiver();
    let config = config::Response { soc_format: config::SocFormat::Slack, ..config(Some(serve(&soc).await), None) };
    let running = Running::new(&config, quick());
    running.submit(1, Arc::new(alert("a1", &[action(ActionKind::AlertSoc)]))).await;
    all_done(&running).await;
    let body = soc.received()[0].body.clone().expect("a body");
    assert_eq!(body["text"], "[critical] Credential Exfiltration Attempt");
    let pagerduty = config::Response { soc_format: config::SocFormat::Pagerduty, ..Default::default() };
    let error = Orchestrator::start(&pagerduty, running.folder.path()).err().expect("an error");
    assert!(error.contains("soc_routing_key"), "{error}");
}

/// What the agents' control API may do to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// None at all, to compare with.
    Nothing,
    InternalError,
    TooManyRequests,
    BadRequest,
    Hangs,
    ClosesMidBody,
    Redirects,
    WrongCertificate,
}

const TROUBLES: [Trouble; 8] = [
    Trouble::Nothing,
    Trouble::InternalError,
    Trouble::TooManyRequests,
    Trouble::BadRequest,
    Trouble::Hangs,
    Trouble::ClosesMidBody,
    Trouble::Redirects,
    Trouble::WrongCertificate,
];

/// A receiver in trouble.
struct Bad {
    url: String,
    receiver: Receiver,
    trouble: Trouble,
    healed: Arc<AtomicBool>,
    elsewhere: Receiver,
    _server: Option<Unknown>,
}

impl Bad {
    async fn start(trouble: Trouble, requests: usize) -> Bad {
        let (healed, elsewhere) = (Arc::new(AtomicBool::new(false)), receiver());
        let target = format!("http://{}/stolen", serve(&elsewhere).await);
        let answer = move || match trouble {
            Trouble::InternalError => Some(StatusCode::INTERNAL_SERVER_ERROR.into_response()),
            Trouble::TooManyRequests => Some((StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")]).into_response()),
            Trouble::BadRequest => Some(StatusCode::BAD_REQUEST.into_response()),
            Trouble::Redirects => {
                Some((StatusCode::PERMANENT_REDIRECT, [("location", target.clone())]).into_response())
            }
            _ => None,
        };
        let is_healed = healed.clone();
        let receiver = receiver().but(move |_, _| if is_healed.load(Ordering::Relaxed) { None } else { answer() });
        let receiver = if trouble == Trouble::Hangs { receiver.hanging() } else { receiver };
        let mut server = None;
        let url = match trouble {
            Trouble::ClosesMidBody => {
                let cut = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nnot all of it";
                format!("http://{}/api", raw(vec![cut; requests]).0)
            }
            Trouble::WrongCertificate => {
                let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
                let port = free.local_addr().expect("an address").port();
                drop(free);
                server = Some(unknown(port));
                format!("https://127.0.0.1:{port}/api")
            }
            _ => format!("http://{}/api", serve(&receiver).await),
        };
        Bad { url, receiver, trouble, healed, elsewhere, _server: server }
    }

    fn heal(&self) {
        self.healed.store(true, Ordering::Relaxed);
        if self.trouble == Trouble::Hangs {
            self.receiver.gate.add_permits(10_000);
        }
    }
}

/// Rows of the control API in each state, with the largest number of attempts.
async fn ended(running: &Running) -> BTreeMap<&'static str, (usize, u32)> {
    let mut ended = BTreeMap::new();
    for row in running.rows().await.into_iter().filter(|row| row.receiver.as_deref() == Some("agent_control_api")) {
        let (count, attempts) = ended.entry(row.state.name()).or_insert((0, 0));
        *count += 1;
        *attempts = row.attempts.max(*attempts);
    }
    ended
}

async fn ends_as_it_should(trouble: Trouble) {
    const ALERTS: usize = 20;
    let (soc, bad) = (receiver(), Bad::start(trouble, ALERTS).await);
    let config = config::Response { agent_control_api: Some(bad.url.clone()), ..config(Some(serve(&soc).await), None) };
    // What nobody will ever take is given up soon; the others are healed before.
    let give_up_after = Duration::from_secs(if trouble == Trouble::WrongCertificate { 1 } else { 3_600 });
    let limits = Limits { timeout: Duration::from_millis(300), give_up_after, ..quick() };
    let running = Running::new(&config, limits);
    for n in 0..ALERTS {
        let wanted = [action(ActionKind::QuarantineAgent), action(ActionKind::AlertSoc)];
        let agent_id = format!("agent-{n}");
        running.submit(n as u64, Arc::new(Alert { agent_id, ..alert(&format!("a{n}"), &wanted) })).await;
    }
    until("the healthy receiver has every alert", || soc.deeds().len() == ALERTS).await;
    let waits = matches!(trouble, Trouble::InternalError | Trouble::TooManyRequests | Trouble::Hangs);
    if waits {
        until("it was tried again", || running.counts().retries > 0).await;
        let ended = ended(&running).await;
        let unfinished = ended.iter().filter(|(state, _)| matches!(**state, "pending" | "sent")).map(|(_, (n, _))| n);
        assert_eq!(unfinished.sum::<usize>(), ALERTS, "{trouble:?}: the bad one still has nothing: {ended:?}");
        bad.heal();
    }
    all_done(&running).await;
    let (state, most) = match trouble {
        Trouble::Nothing | Trouble::ClosesMidBody => ("acknowledged", 1),
        Trouble::InternalError | Trouble::TooManyRequests | Trouble::Hangs => ("acknowledged", u32::MAX),
        Trouble::BadRequest | Trouble::Redirects => ("failed", 1),
        Trouble::WrongCertificate => ("failed", u32::MAX),
    };
    let ended = ended(&running).await;
    assert!(matches!(ended.get(state), Some((ALERTS, attempts)) if *attempts <= most), "{trouble:?}: {ended:?}");
    assert!(bad.elsewhere.received().is_empty());
    // Whatever was repeated was done once.
    if waits {
        assert_eq!(bad.receiver.deeds().len(), ALERTS, "{trouble:?}");
        let requests: BTreeSet<(String, String)> =
            bad.receiver.received().into_iter().map(|request| (request.path, request.key)).collect();
        assert_eq!(requests.len(), ALERTS, "{trouble:?}: repeats have the same key");
    }
    if trouble == Trouble::WrongCertificate {
        let rows = running.rows().await;
        let reasons = rows.iter().filter(|row| row.state == State::Failed).filter_map(|row| row.reason.as_deref());
        assert!(reasons.clone().count() == ALERTS && reasons.clone().all(|r| r.to_lowercase().contains("certificate")));
    }
}

#[tokio::test]
async fn whatever_a_receiver_does_it_ends_as_it_should_and_the_healthy_one_hears_everything() {
    for trouble in TROUBLES {
        ends_as_it_should(trouble).await;
    }
}

/// Figures, no judgement: `cargo test --test response -- --ignored --nocapture healthy`.
#[tokio::test]
#[ignore = "it measures: some 20 s for each kind of trouble"]
async fn how_long_the_healthy_receiver_waits_meanwhile() {
    const ALERTS: usize = 2_000;
    println!(
        "{:<18}{:>10}{:>10}{:>10}   from a submitted alert to its webhook, ms, at 100 alerts/s",
        "control API", "p50", "p99", "most"
    );
    for trouble in TROUBLES {
        let (soc, bad) = (receiver(), Bad::start(trouble, ALERTS).await);
        let webhook = Some(serve(&soc).await);
        let config = config::Response { agent_control_api: Some(bad.url.clone()), ..config(webhook, None) };
        let running = Running::new(&config, Limits::default());
        let mut beat = tokio::time::interval(Duration::from_millis(10));
        let mut submitted = BTreeMap::new();
        for n in 0..ALERTS {
            beat.tick().await;
            let wanted = [action(ActionKind::QuarantineAgent), action(ActionKind::AlertSoc)];
            let (id, agent_id) = (format!("a{n}"), format!("agent-{n}"));
            submitted.insert(id.clone(), Instant::now());
            running.submit(n as u64, Arc::new(Alert { agent_id, ..alert(&id, &wanted) })).await;
        }
        until("every alert", || soc.deeds().len() == ALERTS).await;
        let delay = |request: &clawdstrike_agent_control::Received| {
            let id = request.body.as_ref().and_then(|body| body["alert_id"].as_str()).expect("an alert");
            request.at.duration_since(submitted[id]).as_secs_f64() * 1_000.0
        };
        let mut delays: Vec<f64> = soc.received().iter().map(delay).collect();
        delays.sort_by(f64::total_cmp);
        let at = |percent: usize| delays[(delays.len() * percent).div_ceil(100) - 1];
        println!("{:<18}{:>10.1}{:>10.1}{:>10.1}", format!("{trouble:?}"), at(50), at(99), at(100));
    }
}
