//! `rules schema`.

use clap::{Args, ValueEnum};
use clawdstrike_rules::schema;

use crate::cli::Exit;
use crate::cli::output::Out;

/// Print the JSON Schema of rule files, for editors that complete and check YAML; no engine needed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  clawdstrike-edr rules schema > rules.schema.json
  clawdstrike-edr rules schema --of tests > tests.schema.json

It is JSON Schema draft 2020-12, made of the tables that the compiler reads by. The line
`# yaml-language-server: $schema=../rules.schema.json` at the top of a rule file makes editors use it (the path is from the
file's own folder). `rules check` finds what no schema can.")]
pub(in crate::cli) struct SchemaArgs {
    /// What files it is of.
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    of: Of,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Of {
    /// Rules and allowlists: X.yaml.
    #[default]
    Rules,
    /// Their tests: X.test.yaml.
    Tests,
}

pub(super) fn run(args: SchemaArgs) -> anyhow::Result<Exit> {
    let mut out = Out::new();
    out.document(&match args.of {
        Of::Rules => schema::rules(),
        Of::Tests => schema::tests(),
    })?;
    out.flush()?;
    Ok(Exit::Ok)
}
