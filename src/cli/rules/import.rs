//! `rules import`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use clawdstrike_rules::sigma::{self, Imported};
use serde_json::json;

use super::{count, tell_others};
use crate::cli::output::{Format, Out, tell};
use crate::cli::{Exit, OutputArgs};
use crate::rule_files;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Command {
    Sigma(SigmaArgs),
}

/// Turn Sigma rules and correlations into a rule file; no engine needed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  clawdstrike-edr rules import sigma proc_creation_lnx_curl.yml
  clawdstrike-edr rules import sigma sigma/rules --to rules/sigma.yaml

A rule that can't be expressed in full is refused, with the reason on standard error, and the others are imported. Exits
with 1 if any was refused. docs/rules/sigma.md has the tables of log sources, fields and modifiers.")]
pub(in crate::cli) struct SigmaArgs {
    /// Sigma files, and folders of *.yml and *.yaml; correlations may speak of rules in any of them.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Where the rules are written, over what is there; standard output if it isn't given.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(command: Command) -> anyhow::Result<Exit> {
    let Command::Sigma(args) = command;
    let files = rule_files::read(&args.files).map_err(anyhow::Error::msg)?;
    tell_others(&files);
    let imported = sigma::import(&files.files);
    if let Some(to) = args.to.as_ref().filter(|_| !imported.rules.is_empty()) {
        std::fs::write(to, &imported.yaml)
            .with_context(|| format!("rules can't be written to \"{}\"", to.display()))?;
    }
    let mut out = Out::new();
    match args.output.output {
        Format::Json => {
            let mut report = json!(imported);
            report["ok"] = json!(imported.refused.is_empty());
            report["to"] = json!(args.to);
            out.document(&report)?;
        }
        Format::Table => {
            if args.to.is_none() {
                out.text(&imported.yaml)?;
            }
            report(&imported);
        }
    }
    out.flush()?;
    Ok(if imported.refused.is_empty() { Exit::Ok } else { Exit::Findings })
}

/// Says on standard error what became of the files: the rules may go to standard output.
fn report(imported: &Imported) {
    for diagnostic in imported.errors.iter().chain(&imported.warnings) {
        tell(&format!("{diagnostic}\n"));
    }
    for refused in &imported.refused {
        match refused.title.as_str() {
            "" => tell(&format!("refused: {}:{}", refused.file, refused.line)),
            title => tell(&format!("refused: \"{title}\" at {}:{}", refused.file, refused.line)),
        }
    }
    tell(&format!(
        "{} imported, {} refused, {}",
        count(imported.rules.len(), "rule", "rules"),
        imported.refused.len(),
        count(imported.warnings.len(), "warning", "warnings"),
    ));
}
