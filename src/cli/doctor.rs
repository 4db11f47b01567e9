//! `doctor`: looks at everything a configuration names, before or while the engine runs, and says what to do about what it
//! finds. Changes nothing, but for one HEAD request to each receiver, and an object in the checkpoints' storage that is gone
//! afterwards.
//!
//! Each module has the checks of one kind of part; what a source or store is like, these tell themselves.

mod checkpoints;
mod files;
mod finding;
mod network;
mod sources;
mod stores;

use std::path::PathBuf;

use anstyle::{AnsiColor, Style};
use clap::Args;
use serde_json::json;

use self::finding::{Finding, Level};
use super::output::{Format, Out, Table};
use super::{Exit, OutputArgs};
use crate::config::Config;

/// Check the configuration and everything it names: sources, stores, checkpoints, receivers, addresses, folders, clocks.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  clawdstrike-edr doctor --config edr/workers.toml
  clawdstrike-edr doctor --output json

Each finding has a level (ok, warning, error), the part, what was seen and the way out. Exits with 1 if there is an error.
Run it as the engine's user, with the engine's environment. Nothing is changed; receivers of responses get a HEAD request, and in the checkpoints' storage an object is created and deleted.")]
pub(super) struct DoctorArgs {
    /// The cluster's configuration.
    #[arg(long, value_name = "FILE", default_value = "workers.toml")]
    config: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: DoctorArgs) -> anyhow::Result<Exit> {
    let findings = match Config::load(&args.config) {
        Ok(config) => look(&config).await,
        Err(error) => vec![Finding::error("configuration", error, "")],
    };
    let mut out = Out::new();
    match args.output.output {
        Format::Json => out.document(&json!({"ok": exit(&findings) == Exit::Ok, "findings": findings}))?,
        Format::Table => {
            out.table(&table(&findings))?;
            let of = |level| findings.iter().filter(|f| f.level == level).count();
            out.line(&format!("{} errors, {} warnings, {} ok", of(Level::Error), of(Level::Warning), of(Level::Ok)))?;
        }
    }
    out.flush()?;
    Ok(exit(&findings))
}

fn exit(findings: &[Finding]) -> Exit {
    match findings.iter().any(|f| f.level == Level::Error) {
        true => Exit::Findings,
        false => Exit::Ok,
    }
}

/// All checks, in the order in which an engine would meet what they find.
async fn look(config: &Config) -> Vec<Finding> {
    let mut findings = files::configuration(config);
    findings.extend(files::state(config));
    findings.extend(checkpoints::check(config).await);
    findings.extend(files::rules(config));
    findings.extend(sources::check(config).await);
    findings.extend(stores::check(config).await);
    findings.extend(network::mesh(config).await);
    findings.extend(network::receivers(config).await);
    findings.extend(network::api(config).await);
    findings
}

fn table(findings: &[Finding]) -> Table {
    let mut table = Table::new(["LEVEL", "PART", "SEEN"]);
    for finding in findings {
        let style = match finding.level {
            Level::Ok => Style::new(),
            Level::Warning => AnsiColor::Yellow.on_default(),
            Level::Error => AnsiColor::Red.on_default(),
        };
        let mut lines = finding.seen.lines();
        let first = lines.next().unwrap_or_default().to_owned();
        table.row(style, [finding.level.name().to_owned(), finding.part.clone(), first]);
        let way_out = Some(finding.way_out.as_str()).filter(|w| !w.is_empty()).map(|w| format!("way out: {w}"));
        for line in lines.map(str::to_owned).chain(way_out) {
            table.row(style, [String::new(), String::new(), line]);
        }
    }
    table
}
