//! Signatures of requests: HMAC-SHA256 over the moment of sending and what is sent, so that a receiver knows whom a request is
//! from, and an old one can't be sent again. Keys come from the environment or from files, and show nowhere.

use std::io::Read;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::hex;

/// The header with the moment of sending, in seconds since 1970.
pub(super) const TIMESTAMP: &str = "X-Clawdstrike-Timestamp";
/// The header with one signature for each key in force, separated by commas.
pub(super) const SIGNATURE: &str = "X-Clawdstrike-Signature";

/// Keys in force at once: the one that receivers know, and the one that they are about to know.
const MAX_KEYS: usize = 2;
/// The shortest and the longest key, in bytes.
const KEY_BYTES: (usize, u64) = (16, 4_096);

/// Keys in force; without one nothing is signed.
#[derive(Clone, Default)]
pub(super) struct Keys(Vec<Hmac<Sha256>>);

impl Keys {
    /// Reads the keys that the settings below this name in `[response]` name.
    ///
    /// # Errors
    /// One can't be had, or isn't fit for it. The key itself is never repeated.
    pub(super) fn read(name: &str, settings: &[String]) -> Result<Keys, String> {
        if settings.len() > MAX_KEYS {
            return Err(format!(
                "[response] {name} has {} keys, expected at most {MAX_KEYS}: the one in force, and the next",
                settings.len()
            ));
        }
        settings.iter().map(|setting| key(name, setting)).collect::<Result<_, _>>().map(Keys)
    }

    /// The values of [`TIMESTAMP`] and [`SIGNATURE`] for these parts, one after the other, that are sent now, in seconds since
    /// 1970.
    pub(super) fn sign(&self, now: i64, parts: &[&[u8]]) -> Option<(String, String)> {
        if self.0.is_empty() {
            return None;
        }
        let sign = |key: &Hmac<Sha256>| {
            let mut mac = key.clone();
            mac.update(format!("{now}.").as_bytes());
            parts.iter().for_each(|part| mac.update(part));
            format!("v1={}", hex::encode(mac.finalize().into_bytes()))
        };
        Some((now.to_string(), self.0.iter().map(sign).collect::<Vec<_>>().join(",")))
    }
}

fn key(name: &str, setting: &str) -> Result<Hmac<Sha256>, String> {
    let secret = secret(setting).map_err(|why| format!("[response] {name}: {why}"))?;
    if secret.len() < KEY_BYTES.0 {
        return Err(format!(
            "[response] {name}: the key of \"{setting}\" has {} bytes, expected at least {}: `openssl rand -hex 32` makes one",
            secret.len(),
            KEY_BYTES.0
        ));
    }
    Hmac::new_from_slice(secret.as_bytes()).map_err(|e| format!("[response] {name}: \"{setting}\": {e}"))
}

/// What a setting `env:NAME` or `file:PATH` names, without space around it. A secret that stands there itself isn't repeated.
pub(super) fn secret(setting: &str) -> Result<String, String> {
    if let Some(name) = setting.strip_prefix("env:") {
        let value = std::env::var(name)
            .map_err(|e| format!("environment variable \"{name}\": {e}; set it where the engine starts"))?;
        return Ok(value.trim().to_owned());
    }
    let Some(path) = setting.strip_prefix("file:") else {
        return Err("secrets don't stand in the configuration: write \"env:NAME\" or \"file:PATH\"".into());
    };
    let read = || {
        let mut text = String::new();
        std::fs::File::open(path)?.take(KEY_BYTES.1).read_to_string(&mut text)?;
        Ok::<_, std::io::Error>(text.trim().to_owned())
    };
    read().map_err(|e| format!("file \"{path}\": {e}; check the path and its rights"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::NamedTempFile, String) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("a file");
        let setting = format!("file:{}", file.path().display());
        (file, setting)
    }

    #[test]
    fn signatures_are_those_that_others_compute() {
        let (_one, one) = file("0123456789abcdef\n");
        let (_two, two) = file("fedcba9876543210fedcba9876543210");
        let sign = |settings: &[String]| {
            Keys::read("webhook_signing_keys", settings).expect("keys").sign(1_714_989_600, &[b"{\"a\"", b":1}"])
        };
        // printf '1714989600.{"a":1}' | openssl dgst -sha256 -hmac 0123456789abcdef
        let first = "v1=15c871a3664d568cf16468dc28fafecbd6ef4d88d766d3aee5717926df3c1031";
        assert_eq!(sign(std::slice::from_ref(&one)), Some(("1714989600".into(), first.into())));
        let both = sign(&[one, two]).expect("signatures").1;
        assert_eq!(
            both.split(',').collect::<Vec<_>>(),
            [first, "v1=3170a317e7d1ad7feb884c0a22eac9f50e3ed78d2a0976895120b1d650e8aad7"]
        );
        assert_eq!(sign(&[]), None);
    }

    #[test]
    fn keys_that_are_none_are_refused_and_not_repeated() {
        let (_short, short) = file("s3cret");
        let (_long, long) = file("0123456789abcdef");
        for (settings, why) in [
            (vec!["s3cret-s3cret-s3cret".to_owned()], "env:NAME"),
            (vec![short], "6 bytes"),
            (vec!["env:CLAWDSTRIKE_NO_SUCH_KEY".into()], "CLAWDSTRIKE_NO_SUCH_KEY"),
            (vec!["file:/no/such/key".into()], "/no/such/key"),
            (vec![long.clone(), long.clone(), long], "at most 2"),
        ] {
            let error = Keys::read("control_signing_keys", &settings).err().expect("an error");
            assert!(error.contains(why) && error.contains("control_signing_keys"), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
