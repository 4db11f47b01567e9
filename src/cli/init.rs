//! `init`: a commented workers.toml and the rule pack, to start from.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;

use super::output::{Format, Out};
use super::{Exit, OutputArgs};

/// Write a commented workers.toml and the rule pack into a folder.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  clawdstrike-edr init edr && clawdstrike-edr up --config edr/workers.toml")]
pub(super) struct InitArgs {
    /// Where to; made if it isn't there.
    #[arg(value_name = "FOLDER", default_value = ".")]
    folder: PathBuf,
    /// Overwrite what is there.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// What is written, and where.
const FILES: [(&str, &str); 3] = [
    ("workers.toml", include_str!("../../workers.toml")),
    ("rules/ai-threats.yaml", include_str!("../../rules/ai-threats.yaml")),
    ("rules/allowlist.yaml", include_str!("../../rules/allowlist.yaml")),
];

/// The folder that the configuration's source reads.
const EVENTS: &str = "data/events";

pub(super) fn run(args: &InitArgs) -> anyhow::Result<Exit> {
    let folder = &args.folder;
    let there: Vec<&str> = FILES.iter().map(|(name, _)| *name).filter(|name| folder.join(name).exists()).collect();
    if !args.force && !there.is_empty() {
        bail!(
            "\"{}\" has {} already: choose another folder, or overwrite with --force",
            folder.display(),
            there.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
        );
    }
    for name in ["rules", EVENTS] {
        let path = folder.join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("folder \"{}\" can't be made", path.display()))?;
    }
    for (name, text) in FILES {
        write(&folder.join(name), text, args.force)?;
    }
    tell(folder, args.output.output)?;
    Ok(Exit::Ok)
}

/// Without `force` the file must be new even if somebody else writes it in this very moment.
fn write(path: &Path, text: &str, force: bool) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true);
    match force {
        true => options.create(true).truncate(true),
        false => options.create_new(true),
    };
    options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("file \"{}\" can't be written", path.display()))
}

fn tell(folder: &Path, format: Format) -> anyhow::Result<()> {
    let mut out = Out::new();
    let written = FILES.map(|(name, _)| folder.join(name));
    if format == Format::Json {
        out.document(&json!({"written": written}))?;
        return out.flush();
    }
    for path in &written {
        out.text(&format!("wrote {}", path.display()))?;
    }
    let config = folder.join("workers.toml");
    let events = folder.join(EVENTS).join("agents.jsonl");
    let rules = folder.join("rules");
    out.line("")?;
    out.line("next:")?;
    out.text(&format!("  clawdstrike-edr rules check {}", rules.display()))?;
    out.text(&format!("  clawdstrike-edr up --config {}", config.display()))?;
    out.text(&format!("  clawdstrike-edr simulate --to {} --rate 100", events.display()))?;
    out.line("  clawdstrike-edr alerts watch")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Source};

    #[test]
    fn the_configuration_written_is_accepted_and_says_the_defaults() {
        let config = Config::parse(FILES[0].1).expect("the template is a configuration");
        let default = Config::default();
        assert_eq!(config.limits, default.limits);
        assert_eq!(config.risk, default.risk);
        assert_eq!(config.rules, default.rules);
        assert_eq!(config.api.listen, default.api.listen);
        assert!(matches!(&config.sources[..], [Source::Jsonl { path, .. }] if path.as_os_str() == EVENTS));
        assert_eq!(config.cluster.processes, 2);
    }
}
