//! `rules check`.

use std::path::PathBuf;

use clap::Args;
use clawdstrike_rules::compile;
use serde_json::json;

use super::{Findings, count};
use crate::cli::output::{Format, Out};
use crate::cli::{Exit, OutputArgs, instant};
use crate::{rule_files, wall_clock};

/// Compile rule files and print everything that is wrong with them; no engine needed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  clawdstrike-edr rules check rules
  clawdstrike-edr rules check rules/ai-threats.yaml rules/allowlist.yaml --output json
  clawdstrike-edr rules check rules --now 2030-01-01T00:00:00Z

Files are compiled as one set: ids must differ between them. Exits with 1 if the set has errors; warnings (rules that can
never match, patterns that do nothing, expired allowlist entries) don't change that.")]
pub(in crate::cli) struct CheckArgs {
    /// Rule files, and folders of *.yaml and *.yml.
    #[arg(value_name = "PATH", default_value = "rules")]
    paths: Vec<PathBuf>,
    /// The time at which allowlist entries may have expired, in RFC 3339, instead of this machine's.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    now: Option<i64>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: CheckArgs) -> anyhow::Result<Exit> {
    let files = rule_files::read(&args.paths).map_err(anyhow::Error::msg)?;
    let (set, findings) = match compile(&files.files) {
        Ok(compiled) => {
            let expired: Vec<_> = compiled.expired(args.now.unwrap_or_else(wall_clock::now)).cloned().collect();
            let warnings = compiled.warnings.into_iter().chain(expired).collect();
            (compiled.set, Findings { files, errors: Vec::new(), warnings })
        }
        Err(e) => (Default::default(), Findings { files, errors: e.errors, warnings: e.warnings }),
    };
    let mut out = Out::new();
    match args.output.output {
        Format::Json => {
            let mut json = findings.json();
            json["ok"] = json!(findings.exit() == Exit::Ok);
            json["rules"] =
                json!(set.rules.iter().map(|r| json!({"id": r.id, "version": r.version})).collect::<Vec<_>>());
            json["allowlist"] = json!(set.allowlist.len());
            out.document(&json)?;
        }
        Format::Table => {
            findings.print(&mut out)?;
            let files = count(findings.files.files.len(), "file", "files");
            let warnings = count(findings.warnings.len(), "warning", "warnings");
            match findings.errors.len() {
                0 => out.line(&format!(
                    "{files}: {}, {}, {warnings}",
                    count(set.rules.len(), "rule", "rules"),
                    count(set.allowlist.len(), "allowlist entry", "allowlist entries"),
                ))?,
                n => out.line(&format!("{files}: {}, {warnings}", count(n, "error", "errors")))?,
            }
        }
    }
    out.flush()?;
    Ok(findings.exit())
}
