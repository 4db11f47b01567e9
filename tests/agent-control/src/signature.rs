//! Signatures of requests, from the receiver's side.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::HeaderMap;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// A request that is older, or newer, isn't taken; seconds.
const AGE: u64 = 300;

/// Keys that requests must be signed with; without any the signature isn't looked at.
#[derive(Clone, Default)]
pub struct Keys(Vec<Hmac<Sha256>>);

impl Keys {
    /// One of these.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a [u8]>) -> Keys {
        // HMAC takes keys of any length.
        Keys(keys.into_iter().filter_map(|key| Hmac::new_from_slice(key).ok()).collect())
    }

    /// Whether one key made the signature of these parts, one after the other behind the timestamp and a dot.
    ///
    /// # Errors
    /// Why it isn't so.
    pub(crate) fn check(&self, headers: &HeaderMap, parts: &[&[u8]]) -> Result<(), String> {
        if self.0.is_empty() {
            return Ok(());
        }
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let (Some(at), Some(signatures)) = (header("x-clawdstrike-timestamp"), header("x-clawdstrike-signature"))
        else {
            return Err("it isn't signed".into());
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if at.parse::<u64>().ok().is_none_or(|at| at.abs_diff(now) > AGE) {
            return Err(format!("its signature is of {at:?}: more than {AGE} s away"));
        }
        let holds = |key: &Hmac<Sha256>, signature: &[u8]| {
            let mut mac = key.clone();
            mac.update(at.as_bytes());
            mac.update(b".");
            parts.iter().for_each(|part| mac.update(part));
            // In constant time.
            mac.verify_slice(signature).is_ok()
        };
        let mut told = signatures.split(',').filter_map(|text| bytes(text.trim().strip_prefix("v1=")?));
        match told.any(|signature| self.0.iter().any(|key| holds(key, &signature))) {
            true => Ok(()),
            false => Err("no key that is known here made its signature".into()),
        }
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}
