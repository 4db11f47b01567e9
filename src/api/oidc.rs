//! Tokens of an OIDC issuer: JWTs, checked by the keys that the issuer publishes.
//!
//! A key has one algorithm, by its kind, and a token signed with another is refused: no token chooses how it is checked. Keys
//! are asked for when they are first needed, when a token names one that isn't known, and every so often, since the issuer
//! may have withdrawn one. Knows no route and no role's permissions.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use super::error::ApiError;
use crate::config::Oidc as Config;
use crate::config::roles::Roles;

/// The least time between two requests for keys, whatever tokens name.
const ASK: Duration = Duration::from_secs(60);
/// Keys older than this are asked for again; a key that the issuer withdrew holds for so long.
const FRESH: Duration = Duration::from_secs(10 * 60);
/// Keys that can't be had again hold for so long.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// The longest wait for the issuer.
const ANSWER: Duration = Duration::from_secs(5);
/// The longest list of keys, in bytes.
const MAX_BYTES: usize = 1 << 20;
/// Keys of an issuer that are looked at.
const MAX_KEYS: usize = 64;
/// How far the issuer's clock may be from ours.
const LEEWAY_SECONDS: u64 = 30;
/// The longest subject, in characters.
const MAX_SUBJECT: usize = 256;

/// Whom a token is about.
#[derive(Debug)]
pub(super) struct Subject {
    /// `sub`.
    pub(super) id: String,
    /// Those of the role claim that are roles of ours.
    pub(super) roles: Vec<String>,
}

struct Key {
    algorithm: Algorithm,
    key: DecodingKey,
}

#[derive(Default)]
struct Keys {
    /// By `kid`; a key without one by the empty text.
    by_id: HashMap<String, Key>,
    fetched: Option<Instant>,
}

/// One issuer.
pub(super) struct Oidc {
    config: Config,
    http: reqwest::Client,
    keys: RwLock<Arc<Keys>>,
    /// [`ASK`], but in tests.
    ask_after: Duration,
    /// When keys were last asked for; held while they are.
    asked: Mutex<Option<Instant>>,
}

impl Oidc {
    /// Nothing is asked of the issuer yet.
    pub(super) fn new(config: &Config) -> Result<Oidc, String> {
        let mut http = reqwest::Client::builder()
            .timeout(ANSWER)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("clawdstrike-edr/", env!("CARGO_PKG_VERSION")));
        if config.is_here()? {
            // A proxy's loopback is another machine's.
            http = http.no_proxy();
        }
        let http = http.build().map_err(|e| format!("[api.oidc]: no HTTP client: {e}"))?;
        Ok(Oidc { config: config.clone(), http, keys: RwLock::default(), ask_after: ASK, asked: Mutex::default() })
    }

    /// Whether a text could be a token of an issuer.
    pub(super) fn is_one(text: &str) -> bool {
        text.split('.').count() == 3
    }

    /// Whom the token is about, if the issuer made it for us and it holds now.
    pub(super) async fn check(&self, token: &str, roles: &Roles) -> Result<Subject, ApiError> {
        let header = decode_header(token).map_err(|e| invalid(format!("the token's head can't be read: {e}")))?;
        let id = header.kid.unwrap_or_default();
        let keys = self.keys_with(&id).await;
        let Some(key) = keys.by_id.get(&id) else {
            return Err(match keys.fetched {
                Some(_) => invalid(format!("the issuer has no key \"{}\" for signatures", id.escape_debug())),
                None => unreachable_issuer(),
            });
        };
        if key.algorithm != header.alg {
            return Err(invalid(format!(
                "the token is signed with {:?}, and its key is for {:?}",
                header.alg, key.algorithm
            )));
        }
        let mut validation = Validation::new(key.algorithm);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(&[&self.config.issuer]);
        validation.set_audience(&[&self.config.audience]);
        let token = decode::<Map<String, Value>>(token, &key.key, &validation);
        let claims = token.map_err(|e| invalid(format!("the token doesn't hold: {e}")))?.claims;
        let id = claims
            .get("sub")
            .and_then(Value::as_str)
            .filter(|sub| !sub.is_empty() && sub.chars().count() <= MAX_SUBJECT);
        let id =
            id.ok_or_else(|| invalid(format!("the token's \"sub\" is no text of 1 to {MAX_SUBJECT} characters")))?;
        let named = self.role_claim(&claims);
        let roles = named.into_iter().filter(|name| roles.0.contains_key(*name)).map(str::to_owned);
        Ok(Subject { id: id.to_owned(), roles: roles.collect() })
    }

    /// A claim is named as it stands, or by the way into nested ones: `realm_access.roles`.
    fn role_claim<'a>(&self, claims: &'a Map<String, Value>) -> Vec<&'a str> {
        let name = self.config.role_claim.as_str();
        let nested = || {
            let mut names = name.split('.');
            let first = claims.get(names.next()?)?;
            names.try_fold(first, |value, name| value.get(name))
        };
        match claims.get(name).or_else(nested) {
            Some(Value::String(role)) => vec![role],
            Some(Value::Array(roles)) => roles.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    fn current(&self) -> Arc<Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The keys, asked for again where that could help.
    async fn keys_with(&self, id: &str) -> Arc<Keys> {
        let helps = |keys: &Keys| !keys.by_id.contains_key(id) || keys.fetched.is_none_or(|at| at.elapsed() >= FRESH);
        let keys = self.current();
        if !helps(&keys) {
            return keys;
        }
        let mut asked = match keys.by_id.contains_key(id) {
            // Somebody asks already: what is known will do meanwhile.
            true => match self.asked.try_lock() {
                Ok(asked) => asked,
                Err(_) => return keys,
            },
            false => self.asked.lock().await,
        };
        let keys = self.current();
        if !helps(&keys) || asked.is_some_and(|at| at.elapsed() < self.ask_after) {
            return keys;
        }
        *asked = Some(Instant::now());
        let keys = match self.ask().await {
            Ok(by_id) => Keys { by_id, fetched: Some(Instant::now()) },
            Err(error) => {
                tracing::warn!(
                    "the keys of [api.oidc] jwks_url can't be had: {error}; next try in {} s at the earliest",
                    ASK.as_secs()
                );
                if keys.fetched.is_some_and(|at| at.elapsed() < STALE) {
                    return keys;
                }
                Keys::default()
            }
        };
        let keys = Arc::new(keys);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys.clone();
        keys
    }

    async fn ask(&self) -> Result<HashMap<String, Key>, String> {
        let mut answer = self.http.get(self.config.jwks_url()?).send().await.map_err(told)?;
        if !answer.status().is_success() {
            return Err(format!("it answers HTTP {}", answer.status().as_u16()));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(told)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_BYTES {
                return Err(format!("its answer is longer than {MAX_BYTES} bytes"));
            }
        }
        let set: Value = serde_json::from_slice(&bytes).map_err(|e| format!("its answer is no JSON: {e}"))?;
        let keys = set["keys"].as_array().ok_or("its answer has no \"keys\"")?;
        // Others than those that we can use may stand beside them.
        let keys = keys.iter().take(MAX_KEYS).filter_map(|jwk| key(serde_json::from_value(jwk.clone()).ok()?));
        Ok(keys.collect())
    }
}

/// A key for signatures of a kind that is taken, with its id.
fn key(jwk: Jwk) -> Option<(String, Key)> {
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(ed) if ed.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return None,
    };
    let other_use = jwk.common.public_key_use.as_ref().is_some_and(|u| *u != PublicKeyUse::Signature);
    if other_use || jwk.common.key_algorithm.is_some_and(|named| named != algorithm.into()) {
        return None;
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    Some((jwk.common.key_id.unwrap_or_default(), Key { algorithm, key }))
}

fn told(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

fn invalid(why: String) -> ApiError {
    super::access::invalid(why, "get another token of the issuer; [api.oidc] says which issuer and audience are taken")
}

fn unreachable_issuer() -> ApiError {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "issuer_unreachable",
        "the issuer's keys can't be had, so its tokens can't be checked",
        "the engine's log says why; tokens of `clawdstrike-edr token create` hold meanwhile",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as Shared;

    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    use axum::routing::get;
    use axum::{Json, Router};
    use jsonwebtoken::{EncodingKey, Header, encode, get_current_timestamp};
    use serde_json::json;

    use super::*;

    fn new_key(kid: &str) -> (EncodingKey, Value) {
        let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).expect("a key");
        let key = EncodingKey::from_ec_der(pair.as_ref());
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).expect("a public key");
        jwk.common.key_id = Some(kid.to_owned());
        (key, json!({"keys": [jwk]}))
    }

    fn sign(kid: &str, key: &EncodingKey) -> String {
        let claims = json!({"iss": "i", "aud": "edr", "sub": "s", "exp": get_current_timestamp() + 60, "roles": "x"});
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&header, &claims, key).expect("a token")
    }

    #[tokio::test]
    async fn a_new_key_is_asked_for_once_it_may_be_and_the_old_one_holds_no_more() {
        let (old, set) = new_key("old");
        let published = Arc::new(Shared::new(set));
        let shown = published.clone();
        let route = get(move || std::future::ready(Json(shown.lock().expect("no panic").clone())));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let jwks_url = format!("http://{}/", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/", route)).await });
        let config = Config { issuer: "i".into(), audience: "edr".into(), jwks_url, role_claim: "roles".into() };
        let mut oidc = Oidc::new(&config).expect("an issuer");
        let roles = Roles::default();
        assert_eq!(oidc.check(&sign("old", &old), &roles).await.expect("it holds").id, "s");
        let (new, set) = new_key("new");
        *published.lock().expect("no panic") = set;
        assert!(oidc.check(&sign("new", &new), &roles).await.is_err(), "asked a moment ago");
        oidc.ask_after = Duration::ZERO;
        oidc.check(&sign("new", &new), &roles).await.expect("the new key is found");
        assert!(oidc.check(&sign("old", &old), &roles).await.is_err(), "the issuer has withdrawn it");
    }
}
