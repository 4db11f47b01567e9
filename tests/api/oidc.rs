//! Tokens of a real issuer: a server that publishes its keys and signs with them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use axum::routing::get;
use axum::{Json, Router};
use clawdstrike_edr::audit::Audit;
use clawdstrike_edr::config::{Api, Oidc};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::backend::{Engine, RULE};

const ISSUER: &str = "https://issuer.example/realms/soc";

/// An issuer with a key of each kind, named for its algorithm.
struct Issuer {
    keys: Vec<(Algorithm, EncodingKey)>,
    url: String,
    asked: Arc<AtomicUsize>,
}

/// Bytes of PKCS#8 before the PKCS#1 key of 2,048 bits that it wraps.
const PKCS8_HEAD: usize = 26;

impl Issuer {
    async fn start() -> Issuer {
        let random = SystemRandom::new();
        let rsa = KeyPair::generate(KeySize::Rsa2048).expect("a key");
        let rsa = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&rsa).expect("a key");
        let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let ed = Ed25519KeyPair::generate_pkcs8v1(&random).expect("a key");
        let keys = vec![
            (Algorithm::RS256, EncodingKey::from_rsa_der(&rsa.as_ref()[PKCS8_HEAD..])),
            (Algorithm::ES256, EncodingKey::from_ec_der(ec.as_ref())),
            (Algorithm::EdDSA, EncodingKey::from_ed_der(ed.as_ref())),
        ];
        let public = keys.iter().map(|(algorithm, key)| {
            let mut jwk = Jwk::from_encoding_key(key, *algorithm).expect("a public key");
            jwk.common.key_id = Some(format!("{algorithm:?}"));
            json!(jwk)
        });
        let odd =
            [json!({"kty": "oct", "k": "AAAA", "kid": "HS256", "alg": "HS256"}), json!({"kty": "LTTR"}), json!(7)];
        let set = json!({"keys": odd.into_iter().chain(public).collect::<Vec<_>>()});
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let router = Router::new().route(
            "/jwks",
            get(move || {
                count.fetch_add(1, Ordering::Relaxed);
                std::future::ready(Json(set.clone()))
            }),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/jwks", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Issuer { keys, url, asked }
    }

    async fn engine(&self) -> Engine {
        let oidc = Oidc {
            issuer: ISSUER.into(),
            audience: "edr".into(),
            jwks_url: self.url.clone(),
            role_claim: "realm_access.roles".into(),
        };
        Engine::start_with(Api { oidc: Some(oidc), requests_per_second: 1_000, ..Api::default() }).await
    }

    fn sign(&self, algorithm: Algorithm, kid: &str, claims: &Value) -> String {
        let (_, key) = self.keys.iter().find(|(of, _)| *of == algorithm).expect("a key");
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(algorithm) };
        encode(&header, claims, key).expect("a token")
    }
}

/// What a good token says.
fn claims(roles: Value) -> Value {
    let now = get_current_timestamp();
    json!({"iss": ISSUER, "aud": ["other", "edr"], "sub": "dana@example.net", "exp": now + 600, "nbf": now - 5, "realm_access": {"roles": roles}})
}

/// The claims with one replaced, or taken out.
fn with(name: &str, value: Value) -> Value {
    let mut claims = claims(json!(["administrator"]));
    match value {
        Value::Null => drop(claims.as_object_mut().expect("an object").remove(name)),
        value => claims[name] = value,
    }
    claims
}

#[tokio::test]
async fn an_issuers_tokens_give_the_roles_that_they_name() {
    let issuer = Issuer::start().await;
    let engine = issuer.engine().await;
    for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        let analyst =
            issuer.sign(algorithm, &format!("{algorithm:?}"), &claims(json!(["offline_access", "soc_analyst"])));
        let (status, _, body) = engine.ask("GET", "/v1/alerts", Some(&analyst)).await;
        assert_eq!(status, 200, "{algorithm:?}: {body}");
        let (status, _, body) = engine.ask("GET", "/v1/rules", Some(&analyst)).await;
        assert_eq!((status, body["permission"].as_str()), (403, Some("read:rules")), "{body}");
    }
    let one = issuer.sign(Algorithm::ES256, "ES256", &claims(json!("security_engineer")));
    assert_eq!(engine.ask("GET", "/v1/rules", Some(&one)).await.0, 200, "a text is one role");
    for roles in [json!([]), json!(["boss"]), json!(7), Value::Null] {
        let none = issuer.sign(Algorithm::ES256, "ES256", &claims(roles));
        let (status, _, body) = engine.ask("GET", "/v1/alerts", Some(&none)).await;
        assert_eq!((status, body["code"].as_str()), (403, Some("unknown_role")), "{body}");
    }
    assert_eq!(issuer.asked.load(Ordering::Relaxed), 1, "keys are kept");
    let local = engine.token("administrator").await;
    assert_eq!(engine.ask("GET", "/v1/rules", Some(&local)).await.0, 200, "our own tokens hold beside them");
}

#[tokio::test]
async fn what_the_issuer_did_not_sign_for_us_and_for_now_is_refused() {
    let issuer = Issuer::start().await;
    let engine = issuer.engine().await;
    let now = get_current_timestamp();
    let cases = [
        ("expired", with("exp", json!(now - 60))),
        ("without an end", with("exp", Value::Null)),
        ("not yet", with("nbf", json!(now + 600))),
        ("of another issuer", with("iss", json!("https://evil.example"))),
        ("of no issuer", with("iss", Value::Null)),
        ("for others", with("aud", json!("other"))),
        ("for nobody", with("aud", Value::Null)),
        ("about nobody", with("sub", Value::Null)),
        ("about a number", with("sub", json!(7))),
        ("about the empty text", with("sub", json!(""))),
    ];
    for (what, claims) in cases {
        let token = issuer.sign(Algorithm::ES256, "ES256", &claims);
        let (status, headers, body) = engine.ask("GET", "/v1/alerts", Some(&token)).await;
        assert_eq!((status, body["code"].as_str()), (401, Some("invalid_token")), "{what}: {body}");
        assert!(headers["www-authenticate"].to_str().is_ok_and(|v| v.contains("invalid_token")), "{what}");
        assert!(!body.to_string().contains(&token), "{what}: the token is repeated");
    }
    let good = claims(json!(["administrator"]));
    let of_other = Issuer::start().await.sign(Algorithm::ES256, "ES256", &good);
    let token = issuer.sign(Algorithm::ES256, "ES256", &good);
    let parts: Vec<&str> = token.split('.').collect();
    let payload = issuer.sign(Algorithm::ES256, "ES256", &with("sub", json!("root")));
    let payload = payload.split('.').nth(1).expect("a payload");
    // {"alg":"none","kid":"ES256"} and its like, in base64url.
    let none = "eyJhbGciOiJub25lIiwia2lkIjoiRVMyNTYifQ";
    let hmac = EncodingKey::from_secret(&[0, 0, 0]);
    let signed_by_secret = |kid: &str| {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::HS256) };
        encode(&header, &good, &hmac).expect("a token")
    };
    for (what, token) in [
        ("another's signature", of_other),
        ("another payload", format!("{}.{payload}.{}", parts[0], parts[2])),
        ("alg none, no signature", format!("{none}.{}.", parts[1])),
        ("alg none, a signature", format!("{none}.{}.{}", parts[1], parts[2])),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("a secret of the list", signed_by_secret("HS256")),
        ("a secret under a public key's name", signed_by_secret("ES256")),
        ("another algorithm than the key's", issuer.sign(Algorithm::EdDSA, "ES256", &good)),
        ("an unknown key", issuer.sign(Algorithm::ES256, "gone", &good)),
        ("nonsense", "a.b.c".to_owned()),
    ] {
        let (status, _, body) = engine.ask("GET", "/v1/alerts", Some(&token)).await;
        assert_eq!((status, body["code"].as_str()), (401, Some("invalid_token")), "{what}: {body}");
    }
    assert_eq!(engine.ask("GET", "/v1/alerts", Some(&token)).await.0, 200);
    assert_eq!(issuer.asked.load(Ordering::Relaxed), 1, "unknown keys are asked for once a minute at most");
}

#[tokio::test]
async fn a_subject_stands_in_the_audit_trail() {
    let issuer = Issuer::start().await;
    let engine = issuer.engine().await;
    let token = issuer.sign(Algorithm::RS256, "RS256", &claims(json!(["soc_analyst", "security_engineer"])));
    let body = json!({"files": [{"name": "reads.yaml", "text": RULE}]});
    let request = super::backend::http().post(engine.url("/v1/rules")).bearer_auth(&token).json(&body);
    assert_eq!(request.send().await.expect("an answer").status().as_u16(), 200);
    let rows = Audit::of(engine.state.path()).page(None, 10).expect("a trail").rows;
    let who = json!({"kind": "oidc", "name": "dana@example.net", "role": "soc_analyst,security_engineer"});
    assert_eq!((rows.len(), &rows[0]["who"]), (2, &who));
}

#[tokio::test]
async fn an_issuer_that_is_away_is_told_apart_from_a_wrong_token() {
    let issuer = Issuer::start().await;
    let away = TcpListener::bind("127.0.0.1:0").await.and_then(|l| l.local_addr()).expect("a port");
    let engine = Issuer { url: format!("http://{away}/jwks"), keys: Vec::new(), asked: Arc::default() }.engine().await;
    let token = issuer.sign(Algorithm::ES256, "ES256", &claims(json!(["administrator"])));
    let (status, _, body) = engine.ask("GET", "/v1/alerts", Some(&token)).await;
    assert_eq!((status, body["code"].as_str()), (503, Some("issuer_unreachable")), "{body}");
}
