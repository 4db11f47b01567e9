//! The command line (SPEC §13): one file a command. Arguments are parsed here and resolved there; results go to standard
//! output, everything else to standard error.
//!
//! Exit codes: 0 done, 1 findings or failure, 2 wrong usage.

mod actions;
mod agents;
mod alerts;
mod audit;
mod client;
mod doctor;
mod export;
mod init;
mod migrate;
pub mod output;
mod replay;
mod rules;
mod sessions;
mod simulate;
mod sse;
mod token;
mod top;
mod up;
mod watch;
mod worker;

use clap::{Args, Parser, Subcommand};
use serde_json::Value;

use output::{Closed, Format, Out, Table, tell};

/// Endpoint detection and response for fleets of AI agents.
#[derive(Debug, Parser)]
#[command(name = "clawdstrike-edr", version, propagate_version = true, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

impl Cli {
    /// The command is an engine's process.
    pub fn is_traced(&self) -> bool {
        matches!(self.command, Command::Worker(_))
    }
}

const EXAMPLES: &str = "\
Examples:
  clawdstrike-edr init edr                       a configuration and a rule pack, in folder edr
  clawdstrike-edr doctor --config edr/workers.toml   is all there that it needs?
  clawdstrike-edr up --config edr/workers.toml   the engine, all processes of it
  clawdstrike-edr alerts watch                   alerts as they happen
  clawdstrike-edr token create --role soc_analyst --name dana
  clawdstrike-edr top                            rates, loudest rules, riskiest sessions, live
  clawdstrike-edr replay events.jsonl --rules edr/rules

Logs go to standard error; CLAWDSTRIKE_LOG filters them (\"debug\", \"clawdstrike_edr::api=trace\").
OTEL_EXPORTER_OTLP_ENDPOINT names a collector of the engine's traces.
Every command has its own --help.";

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::UpArgs),
    Worker(worker::WorkerArgs),
    Init(init::InitArgs),
    Doctor(doctor::DoctorArgs),
    /// Check, test, explain, import, list and load detection rules.
    #[command(subcommand, after_help = "Example:\n  clawdstrike-edr rules check rules")]
    Rules(rules::Command),
    /// Look into live sessions.
    #[command(subcommand, after_help = "Example:\n  clawdstrike-edr sessions list --min-risk 50")]
    Sessions(sessions::Command),
    /// Look into alerts.
    #[command(subcommand, after_help = "Example:\n  clawdstrike-edr alerts watch --min-severity high")]
    Alerts(alerts::Command),
    /// Look into what alerts have done, and decide about what waits or failed.
    #[command(subcommand, after_help = "Example:\n  clawdstrike-edr actions list --state waiting")]
    Actions(actions::Command),
    Agents(agents::AgentsArgs),
    Top(top::TopArgs),
    Simulate(simulate::SimulateCommand),
    Replay(replay::ReplayArgs),
    /// Create, list and revoke tokens for the API.
    #[command(
        subcommand,
        after_help = "Example:\n  clawdstrike-edr token create --role soc_analyst --name dana --expires 30d"
    )]
    Token(token::Command),
    /// See who changed what, and that nobody has changed the trail.
    #[command(subcommand, after_help = "Example:\n  clawdstrike-edr audit list --limit 20")]
    Audit(audit::Command),
    Export(export::ExportArgs),
    Migrate(migrate::MigrateArgs),
}

/// `--output`.
#[derive(Debug, Args)]
struct OutputArgs {
    /// How results are printed.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Format,
}

/// `--limit` and `--cursor`.
#[derive(Debug, Args)]
struct PageArgs {
    /// Rows at most; up to 100,000.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(..=100_000))]
    limit: u32,
    /// Go on where a list ended: `next` of its JSON. The filter and the order must be the same.
    #[arg(long)]
    cursor: Option<String>,
}

impl PageArgs {
    /// Prints what [`client::Client::list`] gave, as it is or as a table; says on standard error when there are more rows than
    /// were asked for.
    fn show(
        &self,
        answer: &Value,
        rows: &str,
        format: Format,
        table: impl FnOnce(&[Value]) -> Table,
    ) -> anyhow::Result<Exit> {
        let mut out = Out::new();
        if format == Format::Json {
            out.document(answer)?;
            out.flush()?;
            return Ok(Exit::Ok);
        }
        let rows = answer[rows].as_array().map(Vec::as_slice).unwrap_or_default();
        out.table(&table(rows))?;
        out.flush()?;
        let shown = rows.len();
        if !answer["next"].is_null() || (self.limit == 0 && answer["total"] != 0) {
            let of = answer["total"].as_u64().map(|total| format!(" of {total}")).unwrap_or_default();
            tell(&format!("{shown}{of} shown; --limit shows more, and --cursor with `next` of --output json goes on"));
        }
        Ok(Exit::Ok)
    }
}

/// How a command that didn't fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok,
    /// Done, and something was found that the caller asked to be told of.
    Findings,
}

/// Arguments that contradict each other, found after parsing.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Runs the command and gives the process's exit code. Prints errors.
pub fn run(cli: Cli) -> u8 {
    match dispatch(cli.command) {
        Ok(Exit::Ok) => 0,
        Ok(Exit::Findings) => 1,
        Err(error) if error.is::<Closed>() => 0,
        Err(error) => {
            tell(&format!("error: {error:#}"));
            if error.is::<Usage>() { 2 } else { 1 }
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Up(args) => up::run(args),
        Command::Worker(args) => worker::run(args),
        Command::Init(args) => init::run(&args),
        Command::Doctor(args) => block_on(doctor::run(args)),
        Command::Rules(command) => rules::run(command),
        Command::Sessions(command) => block_on(sessions::run(command)),
        Command::Alerts(command) => block_on(alerts::run(command)),
        Command::Actions(command) => block_on(actions::run(command)),
        Command::Agents(args) => block_on(agents::run(args)),
        Command::Top(args) => block_on(top::run(args)),
        Command::Simulate(command) => block_on(simulate::run(command)),
        Command::Replay(args) => replay::run(args),
        Command::Token(command) => token::run(command),
        Command::Audit(command) => audit::run(command),
        Command::Export(args) => export::run(args),
        Command::Migrate(args) => block_on(migrate::run(args)),
    }
}

/// Reads a time of the command line, in RFC 3339, to microseconds since 1970.
fn instant(text: &str) -> Result<i64, String> {
    clawdstrike_telemetry::time::parse(text)
        .ok_or_else(|| "expected a time in RFC 3339, such as 2024-05-01T12:00:00Z".to_owned())
}

/// Runs a client command; one thread is plenty for a connection.
fn block_on(command: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}
