//! An object store that speaks S3: the Versity gateway over a folder. It checks signatures. Knows no object.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::files::{RunFolder, base, create_open, told};
use crate::install::{go, package};
use crate::port::Port;
use crate::server::{Server, Service, Spec, explain};
use crate::versions::VERSITYGW;

const NAME: &str = "s3";
const NEEDS: &str = "\"go\" 1.25 or newer on PATH, which builds it once in some two minutes; see go.dev/doc/install";
const ACCESS_KEY: &str = "tester";
const SECRET_KEY: &str = "a-secret-of-tests";
const REGION: &str = "us-east-1";
/// Answers without a signature.
const HEALTH: &str = "/health";
/// How long it may take to answer that.
const PROBE: Duration = Duration::from_secs(5);

/// A server of buckets, each a folder of files.
pub struct S3 {
    server: Server,
    port: Port,
    data: PathBuf,
}

/// Starts a server without buckets, and waits until it answers. It refuses to create what is there already
/// (`If-None-Match: *`).
///
/// # Errors
/// If `go` is missing or too old, the download fails, or the server doesn't answer within two minutes.
pub fn s3() -> Result<S3, String> {
    start(true)
}

/// As [`s3`], but what is there already is written over, whatever the request says, as by servers that don't know
/// conditions.
///
/// # Errors
/// As [`s3`].
pub fn s3_without_conditions() -> Result<S3, String> {
    start(false)
}

fn start(conditions: bool) -> Result<S3, String> {
    let base = base(false)?;
    let home = package(&base, NAME, VERSITYGW, install).map_err(|e| explain(NAME, &e, NEEDS))?;
    let folder = RunFolder::create(&base, NAME)?;
    let (data, sidecar) = (folder.path().join("data"), folder.path().join("sidecar"));
    create_open(&data)?;
    create_open(&sidecar)?;
    let port = Port::claim()?;
    let (number, root) = (port.number(), data.clone());
    let spec = Spec {
        name: NAME,
        needs: NEEDS,
        command: Box::new(move || {
            let mut command = Command::new(home.join("versitygw"));
            command.env("ROOT_ACCESS_KEY", ACCESS_KEY).env("ROOT_SECRET_KEY", SECRET_KEY);
            command.args(["--quiet", "--region", REGION, "--health", HEALTH]);
            command.arg("--port").arg(format!("127.0.0.1:{number}"));
            command.arg("posix");
            // No extended attributes, which not every file system has. Without metadata it finds nothing to compare with.
            match conditions {
                true => command.arg("--sidecar").arg(&sidecar),
                false => command.arg("--nometa"),
            };
            command.arg(&root);
            command
        }),
        probe: Box::new(move || probe(number)),
        stop: Signal::TERM,
        discard: Signal::KILL,
    };
    Ok(S3 { server: Server::start(spec, folder)?, port, data })
}

fn install(folder: &Path) -> Result<(), String> {
    go(folder, "github.com/versity/versitygw/cmd/versitygw", VERSITYGW)
}

fn probe(port: u16) -> Result<(), String> {
    let answer = || -> std::io::Result<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, PROBE)?;
        stream.set_read_timeout(Some(PROBE))?;
        write!(stream, "GET {HEALTH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n")?;
        let mut told = Vec::new();
        stream.take(4_096).read_to_end(&mut told)?;
        Ok(String::from_utf8_lossy(&told).into_owned())
    };
    let told = answer().map_err(|e| format!("127.0.0.1:{port}: {e}"))?;
    if told.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(format!("it answers {told}")) }
}

impl Service for S3 {
    fn server(&self) -> &Server {
        &self.server
    }
}

impl S3 {
    /// `http://127.0.0.1:<port>`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number())
    }

    /// What a client's environment needs: endpoint, region, keys.
    pub fn environment(&self) -> Vec<(String, String)> {
        let endpoint = self.endpoint();
        let all = [
            ("AWS_ENDPOINT", endpoint.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", REGION),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        ];
        all.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    }

    /// Creates an empty bucket; gives the folder in which its objects are files, by their names.
    ///
    /// # Errors
    /// If the name isn't one, or there is such a bucket.
    pub fn create_bucket(&self, name: &str) -> Result<PathBuf, String> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(3..=63).contains(&name.len()) || !name.bytes().all(plain) {
            return Err(format!("\"{name}\" is no name for a bucket; use 3-63 lower-case letters, digits or \"-\""));
        }
        let folder = self.data.join(name);
        fs::create_dir(&folder).map_err(|e| told("create", &folder, &e))?;
        Ok(folder)
    }
}
