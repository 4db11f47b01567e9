//! DuckDB: a database without a server, which reads files that other programs write. Knows no table.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::files::{RunFolder, base, told};
use crate::install::{LOCAL_DEADLINE, npm, package};
use crate::process::run;
use crate::server::explain;
use crate::versions::DUCKDB;

const NAME: &str = "duckdb";
const NEEDS: &str = "\"node\" 18 or newer and \"npm\" on PATH; debian: apt-get install nodejs npm";
/// Beside `node_modules`, where its imports are looked up.
const SCRIPT: (&str, &str) = ("duckdb.mjs", include_str!("duckdb.mjs"));

/// Runs SQL in an empty database, with paths relative to `folder`; gives the rows of the last statement as a JSON array of
/// objects. 64-bit numbers and times are texts there.
///
/// # Errors
/// If `node` or `npm` is missing, the download fails, or DuckDB refuses the SQL or a file; the text says why.
pub fn duckdb(folder: &Path, sql: &str) -> Result<String, String> {
    let base = base(false)?;
    let home = package(&base, NAME, DUCKDB, install).map_err(|e| explain(NAME, &e, NEEDS))?;
    let scratch = RunFolder::create(&base, NAME)?;
    let mut command = Command::new("node");
    command.arg(home.join(SCRIPT.0)).current_dir(folder);
    run(&mut command, sql, scratch.path(), LOCAL_DEADLINE)
}

fn install(folder: &Path) -> Result<(), String> {
    npm(folder, &[("@duckdb/node-api", DUCKDB)])?;
    let script = folder.join(SCRIPT.0);
    fs::write(&script, SCRIPT.1).map_err(|e| told("write", &script, &e))
}
