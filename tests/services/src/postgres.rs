//! PostgreSQL, without extensions. Knows no table.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::files::{RunFolder, base, create_open, told};
use crate::install::{LOCAL_DEADLINE, Maven, maven, package};
use crate::pgwire;
use crate::port::Port;
use crate::process::run;
use crate::server::{Server, Service, Spec, explain};
use crate::versions::POSTGRES;

const NAME: &str = "postgres";
const NEEDS: &str =
    "\"java\", \"mvn\", \"tar\" and \"xz\" on PATH; debian: apt-get install default-jre-headless maven tar xz-utils";
/// The users to run as where we are root, which the server refuses; the second exists everywhere.
const UNPRIVILEGED: [&str; 2] = ["postgres", "nobody"];

/// A PostgreSQL server. Any client is trusted, without a password. Writes survive a kill of the server, not of the
/// machine (`fsync` is off).
pub struct Postgres {
    server: Server,
    port: Port,
    data: PathBuf,
    owner: Option<(u32, u32)>,
}

/// Starts a PostgreSQL server and waits until it answers a query.
///
/// # Errors
/// If `mvn` or `xz` is missing, the download fails, or the server doesn't answer within two minutes.
pub fn postgres() -> Result<Postgres, String> {
    let owner = owner()?;
    let base = base(owner.is_some())?;
    let home = package(&base, NAME, POSTGRES, install).map_err(|e| explain(NAME, &e, NEEDS))?;
    let folder = RunFolder::create(&base, NAME)?;
    let data = folder.path().join("data");
    create_open(&data)?;
    if let Some((uid, gid)) = owner {
        chown(&data, Some(uid), Some(gid)).map_err(|e| told("give away", &data, &e))?;
    }
    let place = data.clone();
    let program = move |name: &str| {
        let mut command = Command::new(home.join("bin").join(name));
        command.arg("-D").arg(&place).current_dir(&place);
        if let Some((uid, gid)) = owner {
            command.uid(uid).gid(gid);
        }
        command
    };
    let mut initdb = program("initdb");
    initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8"]);
    initdb.args(["--locale=C", "--no-sync", "--no-instructions"]);
    run(&mut initdb, "", folder.path(), LOCAL_DEADLINE).map_err(|e| explain(NAME, &e, NEEDS))?;
    let port = Port::claim()?;
    let number = port.number();
    let spec = Spec {
        name: NAME,
        needs: NEEDS,
        command: Box::new(move || {
            let mut command = program("postgres");
            command.arg("-p").arg(number.to_string());
            command.args(["-c", "listen_addresses=127.0.0.1"]);
            command.args(["-c", "unix_socket_directories="]);
            command.args(["-c", "fsync=off", "-c", "full_page_writes=off"]);
            command.args(["-c", "shared_buffers=64MB", "-c", "max_connections=64"]);
            command
        }),
        probe: Box::new(move || pgwire::execute(number, "SELECT 1")),
        // Not TERM, which waits for every client to leave.
        stop: Signal::INT,
        // Not KILL, which leaves shared memory behind.
        discard: Signal::QUIT,
    };
    let server = Server::start(spec, folder)?;
    Ok(Postgres { server, port, data, owner })
}

impl Service for Postgres {
    fn server(&self) -> &Server {
        &self.server
    }
}

impl Postgres {
    /// The address of the database `postgres`: `postgres://postgres@127.0.0.1:<port>/postgres?sslmode=disable`.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// Creates an empty database (UTF-8) and returns its address. `name`: ASCII letters, digits and `_`, at most 63.
    ///
    /// # Errors
    /// If the name isn't one, there is such a database, or the server isn't running.
    pub fn create_database(&self, name: &str) -> Result<String, String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if !(1..=63).contains(&name.len()) || !name.bytes().all(plain) {
            return Err(format!("\"{name}\" is no name for a database; use 1-63 ASCII letters, digits or \"_\""));
        }
        pgwire::execute(self.port.number(), &format!("CREATE DATABASE \"{name}\""))?;
        Ok(self.url_of(name))
    }

    /// Lets clients that ask for TLS have it, with this certificate and key (PEM); others are still served without.
    ///
    /// # Errors
    /// If the files can't be written, or the server isn't running.
    pub fn enable_tls(&self, certificate: &str, key: &str) -> Result<(), String> {
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let path = self.data.join(name);
            fs::write(&path, text).map_err(|e| told("write", &path, &e))?;
            // The server refuses a key that others may read.
            let own = fs::set_permissions(&path, fs::Permissions::from_mode(0o600));
            own.map_err(|e| told("protect", &path, &e))?;
            if let Some((uid, gid)) = self.owner {
                chown(&path, Some(uid), Some(gid)).map_err(|e| told("give away", &path, &e))?;
            }
        }
        pgwire::execute(self.port.number(), "ALTER SYSTEM SET ssl = on")?;
        pgwire::execute(self.port.number(), "SELECT pg_reload_conf()")
    }

    fn url_of(&self, database: &str) -> String {
        let port = self.port.number();
        format!("postgres://postgres@127.0.0.1:{port}/{database}?sslmode=disable")
    }
}

/// The user and group ids to run the server as, if we are root.
fn owner() -> Result<Option<(u32, u32)>, String> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = Path::new("/etc/passwd");
    let text = fs::read_to_string(users).map_err(|e| told("read", users, &e))?;
    UNPRIVILEGED.iter().find_map(|name| ids_of(&text, name)).map(Some).ok_or_else(|| {
        format!(
            "\"postgres\" refuses to run as root, and \"/etc/passwd\" has none of the users {UNPRIVILEGED:?}; add one"
        )
    })
}

/// A user's ids in the text of `/etc/passwd`: `name:password:uid:gid:...`.
fn ids_of(passwd: &str, name: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some((uid, gid))
    })
}

fn install(folder: &Path) -> Result<(), String> {
    // The names that the artifact and the archive in it have for this processor.
    let (artifact, archive) = match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => ("linux-amd64", "postgres-linux-x86_64.txz"),
        ("linux", "aarch64") => ("linux-arm64v8", "postgres-linux-arm_64.txz"),
        (os, arch) => {
            return Err(format!(
                "no build of PostgreSQL is known here for {os} on {arch}; use linux on x86_64 or aarch64"
            ));
        }
    };
    let artifact = format!("embedded-postgres-binaries-{artifact}");
    let artifacts = [("io.zonky.test.postgres", artifact.as_str(), POSTGRES)];
    maven(folder, &artifacts, Maven::Unpack)?;
    let mut tar = Command::new("tar");
    tar.arg("-xJf").arg(folder.join("unpacked").join(archive)).arg("-C").arg(folder).args([
        "--no-same-owner",
        "--no-same-permissions",
        "--mode=go+rX",
    ]);
    run(&mut tar, "", folder, LOCAL_DEADLINE).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\npostgres2:x:7:8::/:/bin/sh\npostgres:x:101:104:,,,:/:/bin/sh\n";
        assert_eq!(ids_of(passwd, "postgres"), Some((101, 104)));
        assert_eq!(ids_of(passwd, "nobody"), None);
        assert_eq!(ids_of("nobody:x", "nobody"), None);
    }
}
