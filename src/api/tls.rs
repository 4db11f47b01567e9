//! TLS of the API: rustls, with the certificate and key that the configuration names. They are read again once they have
//! changed, as they do when they are renewed; files that don't fit leave those in use as they are.
//!
//! Knows no route and no connection.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config;

/// How often, at most, the files are looked at.
const LOOK: Duration = Duration::from_secs(10);
/// Certificates of a chain.
const MAX_CHAIN: usize = 16;

/// The certificate in use.
pub struct Tls {
    files: config::Tls,
    look_after: Duration,
    seen: Mutex<Seen>,
}

struct Seen {
    at: Instant,
    stamps: Stamps,
    config: Arc<ServerConfig>,
}

type Stamps = [Option<(SystemTime, u64)>; 2];

impl Tls {
    /// Reads both files.
    ///
    /// # Errors
    /// They can't be read, or don't fit each other.
    pub fn load(files: &config::Tls) -> Result<Tls, String> {
        let (stamps, config) = (stamps(files), read(files)?);
        let seen = Mutex::new(Seen { at: Instant::now(), stamps, config });
        Ok(Tls { files: files.clone(), look_after: LOOK, seen })
    }

    /// What the next connection is taken with.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        // A panic elsewhere leaves a certificate that fits.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.at.elapsed() >= self.look_after {
            seen.at = Instant::now();
            let now = stamps(&self.files);
            if now != seen.stamps {
                seen.stamps = now;
                match read(&self.files) {
                    Ok(config) => {
                        seen.config = config;
                        tracing::info!(cert = %self.files.cert.display(), "the API's certificate was read again");
                    }
                    Err(error) => tracing::error!("{error}; the one in use stays"),
                }
            }
        }
        seen.config.clone().into()
    }
}

fn stamps(files: &config::Tls) -> Stamps {
    [&files.cert, &files.key].map(|path| {
        let told = std::fs::metadata(path).ok()?;
        Some((told.modified().ok()?, told.len()))
    })
}

fn read(files: &config::Tls) -> Result<Arc<ServerConfig>, String> {
    let said = |key: &str, path: &Path, why: String| format!("[api.tls] {key} = \"{}\": {why}", path.display());
    let of_cert = |why: String| said("cert", &files.cert, why);
    let chain = CertificateDer::pem_file_iter(&files.cert)
        .and_then(|chain| chain.take(MAX_CHAIN).collect::<Result<Vec<_>, _>>())
        .map_err(|e| of_cert(format!("{e}; expected certificates in PEM, the server's own first")))?;
    if chain.is_empty() {
        return Err(of_cert("no certificate is in it; expected certificates in PEM, the server's own first".into()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|e| said("key", &files.key, format!("{e}; expected a private key in PEM")))?;
    let config = ServerConfig::builder_with_provider(default_provider().into())
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key));
    let mut config = config.map_err(|e| of_cert(format!("{e}; check that key belongs to it")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate for this machine, in a folder.
    fn certificate(folder: &Path) -> config::Tls {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let files = config::Tls { cert: folder.join("cert.pem"), key: folder.join("key.pem") };
        std::fs::write(&files.cert, made.cert.pem()).expect("a file");
        std::fs::write(&files.key, made.signing_key.serialize_pem()).expect("a file");
        files
    }

    #[test]
    fn renewed_files_are_taken_and_broken_ones_are_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut tls = Tls::load(&certificate(folder.path())).expect("TLS");
        tls.look_after = Duration::ZERO;
        let first = tls.acceptor().config().clone();
        assert!(Arc::ptr_eq(&first, tls.acceptor().config()), "nothing has changed");
        std::fs::write(folder.path().join("cert.pem"), "half a certificate").expect("a file");
        assert!(Arc::ptr_eq(&first, tls.acceptor().config()), "a broken one");
        certificate(folder.path());
        assert!(!Arc::ptr_eq(&first, tls.acceptor().config()), "a new one");
    }

    #[test]
    fn files_that_do_not_fit_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = certificate(folder.path());
        let refused = |files: &config::Tls| Tls::load(files).err().expect("refused");
        let swapped = config::Tls { cert: files.key.clone(), key: files.cert.clone() };
        assert!(refused(&swapped).contains("[api.tls] cert"));
        let away = config::Tls { key: folder.path().join("away.pem"), ..files.clone() };
        assert!(refused(&away).contains("away.pem"));
        let other = tempfile::tempdir().expect("a folder");
        let other = config::Tls { key: certificate(other.path()).key, ..files };
        assert!(refused(&other).contains("key belongs to it"));
    }
}
