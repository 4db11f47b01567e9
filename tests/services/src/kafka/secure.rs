//! A broker with TLS, and with SASL over TLS (PLAIN and SCRAM-SHA-512), beside its plain listener. Certificates are made
//! by Java's own keytool, new for each broker.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Kafka, NAME, NEEDS, start};
use crate::files::told;
use crate::install::LOCAL_DEADLINE;
use crate::port::Port;
use crate::process::run;
use crate::server::explain;

const STORE_PASSWORD: &str = "changeit";

/// The listeners that a secure broker has besides.
pub(super) struct Secure {
    tls: Port,
    sasl: Port,
}

/// A broker that also speaks TLS.
pub struct SecureKafka {
    /// The broker, with its plain listener.
    pub plain: Kafka,
    secure: Secure,
}

/// Starts a broker that also speaks TLS, and SASL over TLS, and waits until it serves clients.
///
/// # Errors
/// As [`super::kafka`], and if `keytool` is missing: it comes with Java.
pub fn kafka_secure() -> Result<SecureKafka, String> {
    let secure = Secure { tls: Port::claim()?, sasl: Port::claim()? };
    let kafka = SecureKafka { plain: start(Some(&secure))?, secure };
    let (user, bootstrap) = (SecureKafka::USER, kafka.plain.bootstrap());
    let password = format!("SCRAM-SHA-512=[password={}]", SecureKafka::PASSWORD);
    let arguments = ["--bootstrap-server", &bootstrap, "--alter", "--entity-type", "users", "--entity-name", user];
    let arguments: Vec<&str> = arguments.into_iter().chain(["--add-config", &password]).collect();
    kafka.plain.tool("kafka.admin.ConfigCommand", &arguments, "")?;
    Ok(kafka)
}

impl SecureKafka {
    /// The only user, by PLAIN and SCRAM-SHA-512.
    pub const USER: &str = "edr";
    /// Its password.
    pub const PASSWORD: &str = "p4ss-w0rd";

    /// The address for `security.protocol = SSL`.
    pub fn tls_bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.secure.tls.number())
    }

    /// The address for `security.protocol = SASL_SSL`.
    pub fn sasl_bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.secure.sasl.number())
    }

    /// The certificate (PEM) that clients must trust.
    pub fn ca(&self) -> PathBuf {
        self.plain.server.folder().path().join("broker.pem")
    }

    /// A certificate (PEM) that has nothing to do with the broker's.
    pub fn other_ca(&self) -> PathBuf {
        self.plain.server.folder().path().join("other.pem")
    }
}

impl Secure {
    /// As `listeners` goes on.
    pub(super) fn listeners(&self) -> String {
        let (tls, sasl) = (self.tls.number(), self.sasl.number());
        format!(",SSL://127.0.0.1:{tls},SASL_SSL://127.0.0.1:{sasl}")
    }

    /// The other properties. Makes the certificates.
    pub(super) fn properties(&self, folder: &Path) -> Result<String, String> {
        certificate(folder, "other")?;
        let store = certificate(folder, "broker")?;
        let (user, password) = (SecureKafka::USER, SecureKafka::PASSWORD);
        let module = "org.apache.kafka.common.security";
        Ok(format!(
            "ssl.keystore.type=PKCS12
ssl.keystore.location={}
ssl.keystore.password={STORE_PASSWORD}
ssl.key.password={STORE_PASSWORD}
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.sasl_ssl.plain.sasl.jaas.config={module}.plain.PlainLoginModule required user_{user}=\"{password}\";
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;
",
            store.display()
        ))
    }
}

/// A key with a certificate that it has signed itself, for 127.0.0.1: `<name>.p12`, and the certificate as `<name>.pem`.
fn certificate(folder: &Path, name: &str) -> Result<PathBuf, String> {
    let (store, pem) = (folder.join(format!("{name}.p12")), folder.join(format!("{name}.pem")));
    let keytool = |what: &[&str]| {
        let mut command = Command::new("keytool");
        command.args(what).args(["-alias", name, "-storetype", "PKCS12", "-storepass", STORE_PASSWORD]);
        command.arg("-keystore").arg(&store);
        run(&mut command, "", folder, LOCAL_DEADLINE).map_err(|e| explain(NAME, &e, NEEDS))
    };
    let subject = format!("CN={name}");
    let made = ["-genkeypair", "-keyalg", "EC", "-validity", "3650", "-dname", &subject];
    let names = ["-ext", "SAN=ip:127.0.0.1,dns:localhost"];
    keytool(&made.into_iter().chain(names).collect::<Vec<_>>())?;
    let text = keytool(&["-exportcert", "-rfc"])?;
    std::fs::write(&pem, text).map_err(|e| told("write", &pem, &e))?;
    Ok(store)
}
