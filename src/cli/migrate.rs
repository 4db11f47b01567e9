//! `migrate`: brings the store's schema up to date, or says what that would do. Every start does it too.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Args;
use serde_json::{Value, json};

use super::output::{Format, Out};
use super::{Exit, OutputArgs};
use crate::config::Config;
use crate::store::{Condition, Schema, Store, Weight};

/// Bring the store's schema up to date, as every start does; `--dry-run` says what that would do and changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  clawdstrike-edr migrate --config edr/workers.toml --dry-run
  clawdstrike-edr migrate --config edr/workers.toml

There is no way back: back the database up first. Of several that migrate together one does it and the others wait. A database
whose applied migrations aren't those of this program, by name and checksum, is refused and left as it is (exit code 1).")]
pub(super) struct MigrateArgs {
    /// The cluster's configuration.
    #[arg(long, value_name = "FILE", default_value = "workers.toml")]
    config: PathBuf,
    /// Change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: MigrateArgs) -> anyhow::Result<Exit> {
    let config = Config::load(&args.config).map_err(anyhow::Error::msg)?;
    let store = Store::prepare(&config.store).map_err(anyhow::Error::msg)?;
    let mut store = store.context("the configuration has no store: expected [store]")?;
    let condition = store.inspect().await.map_err(anyhow::Error::msg)?;
    if let Schema::Foreign(why) = &condition.schema {
        return Err(anyhow!("{}: {why}", condition.place));
    }
    if let Some(lack) = condition.lacks.iter().find(|lack| lack.weight == Weight::Fatal) {
        return Err(anyhow!("{}: {}: {}", condition.place, lack.what, lack.way_out));
    }
    if !args.dry_run {
        store.connect().await?;
    }
    let mut out = Out::new();
    match args.output.output {
        Format::Json => out.document(&document(&condition, args.dry_run))?,
        Format::Table => {
            let Condition { place, product, outstanding, .. } = &condition;
            let what = match (outstanding.is_empty(), args.dry_run) {
                (true, _) => "nothing to do",
                (false, true) => "to be applied",
                (false, false) => "applied",
            };
            out.text(&format!("{place}: {product}: {what}"))?;
            for name in outstanding {
                out.text(&format!("  {name}"))?;
            }
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}

fn document(condition: &Condition, dry_run: bool) -> Value {
    let Condition { place, product, outstanding, .. } = condition;
    json!({"store": place, "product": product, "dry_run": dry_run, "migrations": outstanding})
}
