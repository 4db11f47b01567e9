//! `rules load`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{count, tell_others};
use crate::cli::client::{ApiArgs, Client, Refused};
use crate::cli::output::{Format, Out, field, tell};
use crate::cli::{Exit, OutputArgs};
use crate::rule_files;

/// Replace the rule set of a running engine, all or nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  clawdstrike-edr rules load --file rules
  clawdstrike-edr rules load --file rules/ai-threats.yaml --file rules/mine.yaml

The files given are the whole set: rules that aren't in them go out of force (the answer names them). A set that doesn't
compile changes nothing; its errors are printed, and the exit code is 1.")]
pub(in crate::cli) struct LoadArgs {
    /// A rule file, or a folder of *.yaml and *.yml; may be given several times.
    #[arg(long = "file", value_name = "PATH", required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: LoadArgs) -> anyhow::Result<Exit> {
    let files = rule_files::read(&args.files).map_err(anyhow::Error::msg)?;
    files.check().map_err(anyhow::Error::msg)?;
    tell_others(&files);
    let body = json!({
        "files": files.files.iter().map(|f| json!({"name": f.name, "text": f.text})).collect::<Vec<_>>(),
    });
    let client = Client::new(args.api)?;
    let before = match client.get(&["rules"], &[]).await {
        Ok(before) => before,
        // Whoever may load rules need not be allowed to read them: then the answer can't name what changed.
        Err(error) => match error.downcast::<Refused>()? {
            refused if refused.status == StatusCode::FORBIDDEN => Value::Null,
            refused => return Err(refused.into()),
        },
    };
    let mut out = Out::new();
    let exit = match client.post(&["rules"], &body).await {
        Ok(after) => {
            loaded(&mut out, args.output.output, &before, &after)?;
            Exit::Ok
        }
        Err(error) => match error.downcast::<Refused>()? {
            refused if refused.body["diagnostics"].is_array() => {
                not_compiled(&mut out, args.output.output, &refused)?;
                Exit::Findings
            }
            refused => return Err(refused.into()),
        },
    };
    out.flush()?;
    Ok(exit)
}

fn loaded(out: &mut Out, format: Format, before: &Value, after: &Value) -> anyhow::Result<()> {
    if format == Format::Json {
        return out.document(after);
    }
    print_diagnostics(out, &after["warnings"])?;
    let rules = after["rules"].as_array().map_or(0, Vec::len);
    out.text(&format!("{} in force from epoch {} on", count(rules, "rule", "rules"), field(after, "epoch")))?;
    if before.is_null() {
        return Ok(());
    }
    let (old, new) = (versions(before), versions(after));
    let say = |out: &mut Out, what: &str, ids: Vec<&String>| match ids.is_empty() {
        true => Ok(()),
        false => out.text(&format!("{what}: {}", ids.into_iter().map(String::as_str).collect::<Vec<_>>().join(", "))),
    };
    say(out, "added", new.keys().filter(|id| !old.contains_key(*id)).collect())?;
    let changed = |(id, version): &(&String, &String)| old.get(*id).is_some_and(|before| before != *version);
    say(out, "changed", new.iter().filter(changed).map(|(id, _)| id).collect())?;
    say(out, "out of force", old.keys().filter(|id| !new.contains_key(*id)).collect())
}

/// Rule ids with their versions.
fn versions(set: &Value) -> BTreeMap<String, String> {
    let rules = set["rules"].as_array().into_iter().flatten();
    rules.map(|rule| (field(rule, "id"), field(rule, "version"))).collect()
}

pub(super) fn not_compiled(out: &mut Out, format: Format, refused: &Refused) -> anyhow::Result<()> {
    if format == Format::Json {
        return out.document(&refused.body);
    }
    print_diagnostics(out, &refused.body["diagnostics"])?;
    tell("error: the rule set doesn't compile; the running set stays as it is");
    Ok(())
}

pub(super) fn print_diagnostics(out: &mut Out, diagnostics: &Value) -> anyhow::Result<()> {
    for diagnostic in diagnostics.as_array().into_iter().flatten() {
        out.text(&field(diagnostic, "rendered"))?;
        out.line("")?;
    }
    Ok(())
}
