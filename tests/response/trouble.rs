//! Receivers that break what HTTP and TLS promise.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

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
async fn the_webhook_speaks_what_its_receiver_reads() {
    let soc = Receiver::ok();
    let config = config::Response { soc_format: config::SocFormat::Slack, ..config(Some(soc.serve().await), None) };
    let running = Running::new(&config, quick());
    running.submit(1, Arc::new(alert("a1", &[action(ActionKind::AlertSoc)]))).await;
    all_done(&running).await;
    let body = soc.received()[0].body.clone().expect("a body");
    assert_eq!(body["text"], "[critical] Credential Exfiltration Attempt");
    let pagerduty = config::Response { soc_format: config::SocFormat::Pagerduty, ..Default::default() };
    let error = Orchestrator::start(&pagerduty, running.folder.path()).err().expect("an error");
    assert!(error.contains("soc_routing_key"), "{error}");
}
