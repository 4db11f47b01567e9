//! `rules explain`.

use std::path::PathBuf;

use clap::Args;
use clawdstrike_rules::{compile, explain};
use serde_json::json;

use super::{Findings, tell_others};
use crate::cli::output::{Format, Out};
use crate::cli::{Exit, OutputArgs};
use crate::rule_files;

/// Tell how rules are read: each pattern as glob or regex, groups, windows, state, what rules share; no engine needed.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  clawdstrike-edr rules explain rules --rule CREDENTIAL_EXFILTRATION")]
pub(in crate::cli) struct ExplainArgs {
    /// Rule files, and folders of *.yaml and *.yml.
    #[arg(value_name = "PATH", default_value = "rules")]
    paths: Vec<PathBuf>,
    /// Only this rule.
    #[arg(long, value_name = "ID")]
    rule: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: ExplainArgs) -> anyhow::Result<Exit> {
    let files = rule_files::read(&args.paths).map_err(anyhow::Error::msg)?;
    let mut out = Out::new();
    let compiled = match compile(&files.files) {
        Ok(compiled) => compiled,
        Err(e) => {
            let findings = Findings { files, errors: e.errors, warnings: e.warnings };
            match args.output.output {
                Format::Json => out.document(&findings.json())?,
                Format::Table => findings.print(&mut out)?,
            }
            out.flush()?;
            return Ok(Exit::Findings);
        }
    };
    tell_others(&files);
    let mut explanation = explain(&compiled.set);
    if let Some(id) = &args.rule {
        anyhow::ensure!(
            explanation.only(id),
            "rule \"{id}\" is not among these files (or is disabled): leave --rule out to see all"
        );
    }
    match args.output.output {
        Format::Json => out.document(&json!(explanation))?,
        Format::Table => out.text(&explanation.to_string())?,
    }
    out.flush()?;
    Ok(Exit::Ok)
}
