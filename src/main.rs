//! The binary: parses the command line, starts log and traces, runs the command, exits with its code.

use std::process::ExitCode;

use clap::Parser;
use clawdstrike_edr::cli::{self, Cli};
use clawdstrike_edr::log;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Held to the end.
    let _log = match log::start(cli.is_traced()) {
        Ok(log) => log,
        Err(error) => {
            cli::output::tell(&format!("error: {error}"));
            return ExitCode::from(2);
        }
    };
    ExitCode::from(cli::run(cli))
}
