//! A broker with TLS, TLS for clients that have a certificate, and SASL over TLS (PLAIN and SCRAM-SHA-512), beside its plain
//! listener. Certificates are new for each broker: its own by Java's keytool, into the store that it reads, those of clients
//! by openssl, since keytool gives no key away.

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
    mutual: Port,
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
/// As [`super::kafka`], and if `keytool`, which comes with Java, or `openssl` is missing.
pub fn kafka_secure() -> Result<SecureKafka, String> {
    let secure = Secure { tls: Port::claim()?, mutual: Port::claim()?, sasl: Port::claim()? };
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

    /// The address for `security.protocol = SSL` with a certificate of the client's, without which nobody is let in.
    pub fn mutual_bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.secure.mutual.number())
    }

    /// The address for `security.protocol = SASL_SSL`.
    pub fn sasl_bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.secure.sasl.number())
    }

    /// The certificate (PEM) that clients must trust.
    pub fn ca(&self) -> PathBuf {
        self.file("broker.pem")
    }

    /// A certificate (PEM) that has nothing to do with the broker's.
    pub fn other_ca(&self) -> PathBuf {
        self.file("other.pem")
    }

    /// A client's certificate and its key (PEM) that the broker trusts.
    pub fn client(&self) -> (PathBuf, PathBuf) {
        (self.file("client.pem"), self.file("client.key"))
    }

    /// Those of a client that the broker doesn't know.
    pub fn stranger(&self) -> (PathBuf, PathBuf) {
        (self.file("stranger.pem"), self.file("stranger.key"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.plain.server.folder().path().join(name)
    }
}

impl Secure {
    /// As `listeners` goes on.
    pub(super) fn listeners(&self) -> String {
        let [tls, mutual, sasl] = [&self.tls, &self.mutual, &self.sasl].map(Port::number);
        format!(",SSL://127.0.0.1:{tls},MUTUAL://127.0.0.1:{mutual},SASL_SSL://127.0.0.1:{sasl}")
    }

    /// The other properties. Makes the certificates.
    pub(super) fn properties(&self, folder: &Path) -> Result<String, String> {
        certificate(folder, "other")?;
        let store = certificate(folder, "broker")?;
        let trusted = client_certificate(folder, "client")?;
        client_certificate(folder, "stranger")?;
        let (user, password) = (SecureKafka::USER, SecureKafka::PASSWORD);
        let module = "org.apache.kafka.common.security";
        Ok(format!(
            "ssl.keystore.type=PKCS12
ssl.keystore.location={}
ssl.keystore.password={STORE_PASSWORD}
ssl.key.password={STORE_PASSWORD}
listener.name.mutual.ssl.client.auth=required
listener.name.mutual.ssl.truststore.type=PEM
listener.name.mutual.ssl.truststore.location={}
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.sasl_ssl.plain.sasl.jaas.config={module}.plain.PlainLoginModule required user_{user}=\"{password}\";
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;
",
            store.display(),
            trusted.display()
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

/// A client's key and a certificate that it has signed itself: `<name>.key` and `<name>.pem`.
fn client_certificate(folder: &Path, name: &str) -> Result<PathBuf, String> {
    let pem = folder.join(format!("{name}.pem"));
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-noenc", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    command.args(["-days", "3650", "-subj", &format!("/CN={name}"), "-out"]).arg(&pem);
    command.arg("-keyout").arg(folder.join(format!("{name}.key")));
    run(&mut command, "", folder, LOCAL_DEADLINE).map_err(|e| explain(NAME, &e, "openssl on PATH"))?;
    Ok(pem)
}
