//! TLS to a real PostgreSQL: what fits is encrypted, what doesn't is refused and says why.

use std::path::{Path, PathBuf};

use clawdstrike_edr::config::SslMode;
use clawdstrike_edr::store::{Postgres, Store};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use super::{Batch, T0, client, events, one, services};

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server whose certificate is for `localhost` alone, and the files of its authority and of another one.
struct Encrypted {
    server: services::Postgres,
    authority: PathBuf,
    other: PathBuf,
    _folder: TempDir,
}

fn start() -> Encrypted {
    let server = services::postgres().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (own, other) = (authority("own"), authority("other"));
    let files = [("own.pem", own.pem()), ("other.pem", other.pem())].map(|(name, pem)| {
        let path = folder.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path
    });
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &own).unwrap();
    server.enable_tls(&certificate.pem(), &key.serialize_pem()).unwrap();
    let [authority, other] = files;
    Encrypted { server, authority, other, _folder: folder }
}

fn verified(url: &str, authority: &Path) -> Store {
    Store::Postgres(Postgres::with_tls(url, Some(SslMode::VerifyFull), Some(authority)).unwrap())
}

#[tokio::test]
async fn connections_are_encrypted_and_verified() {
    let encrypted = tokio::task::spawn_blocking(start).await.unwrap();
    let plain = encrypted.server.url();
    let by_name = plain.replace("127.0.0.1", "localhost");
    let client = client(&plain).await;
    super::rows::until("the server speaks TLS", || async {
        one::<String>(&client, "SELECT current_setting('ssl')").await == "on"
    })
    .await;

    let mut store = verified(&by_name, &encrypted.authority);
    store.write(&Batch { events: events("e", 3, T0), ..Batch::default() }).await.unwrap();
    let spoken = "SELECT string_agg(DISTINCT version, ' ') FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) \
                  WHERE a.application_name = 'clawdstrike-edr' AND ssl";
    assert_eq!(one::<String>(&client, spoken).await, "TLSv1.3");
    assert_eq!(one::<i64>(&client, "SELECT count(*) FROM agent_events").await, 3);
    // What reads has connections of its own.
    let mut read = 0;
    let count = |_| {
        read += 1;
        true
    };
    store.past_events(T0, T0 + 10, count).await.unwrap();
    assert_eq!(read, 3);
    assert!(store.inspect().await.is_ok());

    // The URL says it as well, as other clients read it.
    let own = encrypted.authority.display();
    let url = format!("{}?sslmode=verify-full&sslrootcert={own}", by_name.split('?').next().unwrap());
    Store::Postgres(Postgres::new(&url).unwrap()).connect().await.unwrap();

    let refused = async |url: &str, authority: &Path| verified(url, authority).connect().await.unwrap_err().to_string();
    let error = refused(&by_name, &encrypted.other).await;
    assert!(error.contains("UnknownIssuer") && error.contains("sslrootcert"), "{error}");
    let error = refused(&plain, &encrypted.authority).await;
    assert!(error.contains("certificate") && error.contains("for this host"), "{error}");

    // Where the server speaks no TLS nothing is sent to it.
    let url = super::database("no_tls").await;
    let error = refused(&url, &encrypted.authority).await;
    assert!(error.contains("TLS") && error.contains("disable"), "{error}");
}
