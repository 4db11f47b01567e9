//! The binary: parses the command line, sets up the log on standard error, runs the command, exits with its code.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use clawdstrike_edr::cli::{self, Cli};
use tracing_subscriber::EnvFilter;

/// Filters the log.
const LOG: &str = "CLAWDSTRIKE_LOG";
/// The filter when the variable isn't set.
const DEFAULT_LOG: &str = "warn,clawdstrike_edr=info";

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = start_log() {
        cli::output::tell(&format!("error: {error}"));
        return ExitCode::from(2);
    }
    ExitCode::from(cli::run(cli))
}

fn start_log() -> Result<(), String> {
    let filter = match std::env::var(LOG) {
        Ok(text) if !text.is_empty() => text,
        _ => DEFAULT_LOG.to_owned(),
    };
    let filter = EnvFilter::try_new(&filter).map_err(|e| {
        format!("{LOG} is \"{filter}\": {e}; expected a filter such as \"info\" or \"clawdstrike_edr::api=debug\"")
    })?;
    let stderr = std::io::stderr();
    let colour = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr).init();
    Ok(())
}
