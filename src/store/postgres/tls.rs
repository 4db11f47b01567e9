//! TLS to PostgreSQL: rustls, with the server's certificate and name verified. There is no way to encrypt without that: who
//! can't tell the server from somebody in between has no secret from them.
//!
//! Knows no statement and no retry.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::config::SslMode;

/// Certificates of authorities in a file.
const MAX_AUTHORITIES: usize = 256;

/// What a connection URL says of TLS, and the URL without that: the driver knows fewer modes.
pub(super) struct FromUrl {
    pub(super) url: String,
    pub(super) mode: Option<SslMode>,
    pub(super) authorities: Option<PathBuf>,
}

impl FromUrl {
    /// Takes `sslmode` and `sslrootcert` out of a URL's query, or out of `key=value` pairs.
    pub(super) fn take(url: &str) -> Result<FromUrl, String> {
        let mut found = FromUrl { url: String::new(), mode: None, authorities: None };
        let (place, parameters, between) = match url.split_once('?') {
            Some((place, query)) if url.contains("://") => (Some(place), query.split('&').collect(), "&"),
            _ if url.contains("://") => (Some(url), Vec::new(), "&"),
            _ => (None, url.split_ascii_whitespace().collect::<Vec<_>>(), " "),
        };
        let mut kept = Vec::new();
        for parameter in parameters {
            match parameter.split_once('=') {
                Some(("sslmode", mode)) => found.mode = Some(mode.parse()?),
                Some(("sslrootcert", path)) => {
                    let path = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
                    found.authorities = Some(PathBuf::from(&*path));
                }
                _ => kept.push(parameter),
            }
        }
        let kept = kept.join(between);
        found.url = match place {
            Some(place) if kept.is_empty() => place.to_owned(),
            Some(place) => format!("{place}?{kept}"),
            None => kept,
        };
        Ok(found)
    }
}

/// Makes encrypted connections.
#[derive(Clone)]
pub(super) struct Tls(Arc<ClientConfig>);

impl Tls {
    /// Whom to trust: the authorities in a PEM file, or without one those of the system.
    pub(super) fn new(authorities: Option<&Path>) -> Result<Tls, String> {
        let builder = ClientConfig::builder_with_provider(default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|e| format!("TLS: {e}"))?;
        let builder = match authorities {
            Some(path) => builder.with_root_certificates(read(path)?),
            None => builder
                .with_platform_verifier()
                .map_err(|e| format!("the system's authorities: {e}; name a file of them with [store] sslrootcert"))?,
        };
        let mut config = builder.with_no_client_auth();
        // What a server of version 17 or later may ask for.
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(Tls(Arc::new(config)))
    }
}

fn read(path: &Path) -> Result<RootCertStore, String> {
    let said =
        |why: String| format!("sslrootcert \"{}\": {why}; expected certificates of authorities in PEM", path.display());
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|e| said(e.to_string()))?;
    for certificate in certificates.take(MAX_AUTHORITIES) {
        let certificate = certificate.map_err(|e| said(e.to_string()))?;
        roots.add(certificate).map_err(|e| said(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(said("no certificate is in it".into()));
    }
    Ok(roots)
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Tls {
    type Stream = Encrypted<S>;
    type TlsConnect = Handshake;
    type Error = InvalidDnsNameError;

    fn make_tls_connect(&mut self, host: &str) -> Result<Handshake, InvalidDnsNameError> {
        let name = ServerName::try_from(host.to_owned())?;
        Ok(Handshake { connector: self.0.clone().into(), name })
    }
}

/// One connection's handshake.
pub(super) struct Handshake {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Handshake {
    type Stream = Encrypted<S>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Encrypted<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move { Ok(Encrypted(self.connector.connect(self.name, stream).await?)) })
    }
}

/// An encrypted connection.
pub(super) struct Encrypted<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Encrypted<S> {
    /// The server's name is verified: binding the password to its certificate as well adds nothing.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, to)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_url_says_of_tls_is_taken_out_of_it() {
        let take = |url: &str| FromUrl::take(url).map(|f| (f.url, f.mode, f.authorities));
        let plain = "postgres://u:p@h:1/d".to_owned();
        assert_eq!(take(&plain), Ok((plain.clone(), None, None)));
        assert_eq!(take("postgres://u:p@h:1/d?sslmode=disable"), Ok((plain, Some(SslMode::Disable), None)));
        assert_eq!(
            take("postgres://h/d?a=1&sslrootcert=%2Fca.pem&sslmode=require&b=2"),
            Ok(("postgres://h/d?a=1&b=2".into(), Some(SslMode::VerifyFull), Some("/ca.pem".into())))
        );
        assert_eq!(
            take("host=h sslmode=verify-full dbname=d"),
            Ok(("host=h dbname=d".into(), Some(SslMode::VerifyFull), None))
        );
        for unsafe_mode in ["prefer", "allow", "x"] {
            let error = take(&format!("postgres://u:secret@h/d?sslmode={unsafe_mode}")).unwrap_err();
            assert!(error.contains("verify-full") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_file_without_authorities_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        for text in [None, Some(""), Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")] {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let error = Tls::new(Some(&path)).err().unwrap();
            assert!(error.contains("ca.pem") && error.contains("PEM"), "{error}");
        }
        assert!(Tls::new(None).is_ok());
    }
}
