//! `actions show`.

use anstyle::Style;
use clap::Args;

use crate::cli::client::{ApiArgs, Client};
use crate::cli::output::{Format, Out, Table, field};
use crate::cli::{Exit, OutputArgs};

/// Show one action: how it stands, why, and who decided.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  clawdstrike-edr actions show 5106da8e85907fa6")]
pub(in crate::cli) struct ShowArgs {
    /// The action's id or the beginning of it, as `actions list` prints it.
    id: String,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: ShowArgs) -> anyhow::Result<Exit> {
    let answer = Client::new(args.api)?.get(&["actions", &args.id], &[]).await?;
    let mut out = Out::new();
    match args.output.output {
        Format::Json => out.document(&answer)?,
        Format::Table => {
            let action = &answer["action"];
            let mut table = Table::new(["ACTION", ""]);
            for name in action.as_object().into_iter().flat_map(|map| map.keys()) {
                table.row(Style::new(), [name.clone(), field(action, name)]);
            }
            out.table(&table)?;
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}
