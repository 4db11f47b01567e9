//! The API behind TLS, and the command line that trusts its certificate.

use clawdstrike_edr::config::{Api, Tls};

use super::backend::{Engine, http};
use super::local::{edr, run};

#[tokio::test]
async fn the_api_is_served_over_tls_to_who_trusts_its_certificate() {
    let folder = tempfile::tempdir().expect("a folder");
    let made =
        rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("a certificate");
    let tls = Tls { cert: folder.path().join("cert.pem"), key: folder.path().join("key.pem") };
    std::fs::write(&tls.cert, made.cert.pem()).expect("a file");
    std::fs::write(&tls.key, made.signing_key.serialize_pem()).expect("a file");
    let engine = Engine::start_with(Api { tls: Some(tls.clone()), ..Api::default() }).await;
    let token = engine.tokens().create("dana", "soc_analyst", 0, None).expect("a token").secret;
    let secure = format!("https://localhost:{}", engine.address.port());

    assert!(http().get(format!("{secure}/livez")).send().await.is_err(), "who doesn't know the certificate");
    assert!(http().get(engine.url("/livez")).send().await.is_err(), "plain text");
    let trusts = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).expect("a certificate");
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([trusts]).build().expect("a client");
    let answer = client.get(format!("{secure}/livez")).send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 200);

    let ask = |ca: &str| {
        let mut command = edr(&["alerts", "list", "--api", &secure, "--token", &token, "--ca-file", ca]);
        tokio::task::spawn_blocking(move || run(&mut command))
    };
    let (code, out, err) = ask(tls.cert.to_str().expect("UTF-8")).await.expect("no panic");
    assert!(code == 0 && out.contains("id-high"), "{err}");
    let (code, _, err) = ask("/nowhere/ca.pem").await.expect("no panic");
    assert!(code == 1 && err.contains("\"/nowhere/ca.pem\""), "{err}");
    let mut command = edr(&["alerts", "list", "--api", &secure, "--token", &token]);
    let (code, _, err) = tokio::task::spawn_blocking(move || run(&mut command)).await.expect("no panic");
    assert!(code == 1 && err.contains("certificate") && err.contains("--ca-file"), "{err}");
}
