//! `rules`: detection rules, on disk (check, explain, import, schema, test), over past events (backtest, diff)
//! and in a running engine (diff, list, load).

mod backtest;
mod check;
mod diff;
mod explain;
mod import;
mod list;
mod live;
mod load;
mod past;
mod schema;
mod test;

use clap::Subcommand;
use clawdstrike_rules::Diagnostic;
use serde_json::{Value, json};

use super::output::{Out, tell};
use super::{Exit, block_on};
use crate::rule_files::RuleFiles;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Backtest(backtest::BacktestArgs),
    Check(check::CheckArgs),
    Diff(diff::DiffArgs),
    Explain(explain::ExplainArgs),
    /// Turn rules of other languages into rules of ours.
    #[command(
        subcommand,
        after_help = "Example:\n  clawdstrike-edr rules import sigma sigma/*.yml --to rules/sigma.yaml"
    )]
    Import(import::Command),
    List(list::ListArgs),
    Load(load::LoadArgs),
    Schema(schema::SchemaArgs),
    Test(test::TestArgs),
}

pub(super) fn run(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Backtest(args) => backtest::run(args),
        Command::Check(args) => check::run(args),
        Command::Diff(args) => diff::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Import(command) => import::run(command),
        Command::List(args) => block_on(list::run(args)),
        Command::Load(args) => block_on(load::run(args)),
        Command::Schema(args) => schema::run(args),
        Command::Test(args) => test::run(args),
    }
}

/// What `check`, and `explain` of a set that doesn't compile, found.
struct Findings {
    files: RuleFiles,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

impl Findings {
    fn exit(&self) -> Exit {
        match self.errors.is_empty() && self.files.check().is_ok() {
            true => Exit::Ok,
            false => Exit::Findings,
        }
    }

    /// Prints every diagnostic, and every entry that isn't a rule file.
    fn print(&self, out: &mut Out) -> anyhow::Result<()> {
        for diagnostic in self.errors.iter().chain(&self.warnings) {
            out.text(&diagnostic.to_string())?;
            out.line("")?;
        }
        for other in &self.files.others {
            let kind = if other.expected { "note" } else { "error" };
            out.text(&format!("{kind}: {}", other.report()))?;
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let others = self.files.others.iter();
        json!({
            "files": self.files.files.iter().map(|f| &f.name).collect::<Vec<_>>(),
            "others": others.map(|o| json!({"path": o.path, "why": o.why, "expected": o.expected})).collect::<Vec<_>>(),
            "errors": self.errors,
            "warnings": self.warnings,
        })
    }
}

/// `n` and the word, in the plural where it belongs.
fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// Says on standard error which entries of a folder aren't part of a set.
fn tell_others(files: &RuleFiles) {
    for other in &files.others {
        tell(&format!("note: {}", other.report()));
    }
}
