//! Ed25519 over the bytes of a manifest, with keys as `openssl` makes and reads them: an auditor needs no program of ours.

use std::path::Path;

use anyhow::{Context, anyhow};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use sha2::{Digest, Sha256};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};

use crate::hex;

/// What stands before the 32 bytes of an Ed25519 key in its `SubjectPublicKeyInfo` (RFC 8410).
const PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A private key.
pub(super) struct Signer(Ed25519KeyPair);

impl Signer {
    /// Reads a key in PKCS#8 PEM.
    pub(super) fn read(path: &Path) -> anyhow::Result<Signer> {
        let expected = "expected a private key as `openssl genpkey -algorithm ed25519` writes one";
        let name = path.display();
        let der = PrivatePkcs8KeyDer::from_pem_file(path).map_err(|e| anyhow!("key \"{name}\": {e}; {expected}"))?;
        let pair = Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der());
        pair.map(Signer).map_err(|e| anyhow!("key \"{name}\": {e}; {expected}"))
    }

    /// 64 bytes.
    pub(super) fn sign(&self, text: &[u8]) -> Vec<u8> {
        self.0.sign(text).as_ref().to_vec()
    }

    /// What names the public key.
    pub(super) fn key_id(&self) -> String {
        key_id(self.0.public_key().as_ref())
    }
}

/// A public key.
pub(super) struct Verifier(Vec<u8>);

impl Verifier {
    /// Reads a key in PEM.
    pub(super) fn read(path: &Path) -> anyhow::Result<Verifier> {
        let expected = "expected a public key of Ed25519 as `openssl pkey -in key.pem -pubout` writes one";
        let name = path.display();
        let der =
            SubjectPublicKeyInfoDer::from_pem_file(path).map_err(|e| anyhow!("key \"{name}\": {e}; {expected}"))?;
        let key = der.strip_prefix(&PREFIX).filter(|key| key.len() == 32);
        key.map(|key| Verifier(key.to_vec())).with_context(|| format!("key \"{name}\": {expected}"))
    }

    /// Whether the text was signed with the private key of this one.
    pub(super) fn fits(&self, text: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(text, signature).is_ok()
    }

    /// What names it.
    pub(super) fn key_id(&self) -> String {
        key_id(&self.0)
    }
}

/// SHA-256 of the public key as DER, in hex: `openssl pkey -in key.pem -pubout -outform DER | sha256sum`.
fn key_id(key: &[u8]) -> String {
    hex::encode(Sha256::new().chain_update(PREFIX).chain_update(key).finalize())
}
