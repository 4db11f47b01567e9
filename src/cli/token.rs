//! `token`: bearer tokens of the API, in the state folder of the machine that runs process 0. Needs no running engine.

use std::path::PathBuf;

use anstyle::Style;
use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use clawdstrike_telemetry::time;
use serde_json::{Value, json};

use super::output::{Format, Out, Table, tell};
use super::{Exit, OutputArgs};
use crate::api::tokens::{Token, Tokens};
use crate::audit::{Audit, Entry, Outcome, Who};
use crate::config::{Config, Duration};
use crate::wall_clock;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Create(CreateArgs),
    List(ListArgs),
    Revoke(RevokeArgs),
}

/// Create a token and print it, once: only its hash is kept. A running cluster takes it at once.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  clawdstrike-edr token create --role soc_analyst --name dana --expires 30d
  export CLAWDSTRIKE_TOKEN=$(clawdstrike-edr token create --role administrator --name me)

Run it as the engine's user, on the machine of process 0. Standard output is the token alone.")]
pub(super) struct CreateArgs {
    /// What its holder may do: soc_analyst, security_engineer, administrator, or a role of [api.roles].
    #[arg(long, value_name = "ROLE")]
    role: String,
    /// Who holds it; it stands in the audit trail.
    #[arg(long, value_name = "NAME")]
    name: String,
    /// How long it holds: a whole number and s, m, h or d. Without it, until it is revoked.
    #[arg(long, value_name = "DURATION")]
    expires: Option<Duration>,
    /// The cluster's configuration.
    #[arg(long, value_name = "FILE", default_value = "workers.toml")]
    config: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// List tokens: names, roles and times, no secrets.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  clawdstrike-edr token list --config edr/workers.toml")]
pub(super) struct ListArgs {
    /// The cluster's configuration.
    #[arg(long, value_name = "FILE", default_value = "workers.toml")]
    config: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// Take a token out of force. A running cluster refuses it within a second.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  clawdstrike-edr token revoke dana")]
pub(super) struct RevokeArgs {
    /// Its name or its id.
    #[arg(value_name = "NAME|ID")]
    which: String,
    /// The cluster's configuration.
    #[arg(long, value_name = "FILE", default_value = "workers.toml")]
    config: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Create(args) => create(&args),
        Command::List(args) => list(&args),
        Command::Revoke(args) => revoke(&args),
    }
}

/// Writes down that this was done.
fn record(config: &Config, action: &str, token: &Token) -> Result<(), String> {
    let user = format!("uid {}", rustix::process::getuid().as_raw());
    let who = Who { name: user, ..Who::kind("command line") };
    let mut entry = Entry::new(who, action, Outcome::Done)
        .with("id", token.id.as_str())
        .with("name", token.name.as_str())
        .with("role", token.role.as_str());
    if let Some(expires) = token.expires {
        entry = entry.with("expires", time::format(expires));
    }
    Audit::of(&config.cluster.state).append(entry).map(drop)
}

fn load(path: &std::path::Path) -> anyhow::Result<(Config, Tokens)> {
    let config = Config::load(path).map_err(anyhow::Error::msg)?;
    let tokens = Tokens::of(&config.cluster.state);
    Ok((config, tokens))
}

fn create(args: &CreateArgs) -> anyhow::Result<Exit> {
    let (config, tokens) = load(&args.config)?;
    config.api.roles.get(&args.role).map_err(anyhow::Error::msg)?;
    let now = wall_clock::now();
    let ends = |d: Duration| now.checked_add(d.0).filter(|_| d.0 > 0);
    let expires =
        args.expires.map(|d| ends(d).ok_or_else(|| anyhow!("--expires {d}: expected a time to come, such as 30d")));
    let told = tokens.create(&args.name, &args.role, now, expires.transpose()?).map_err(anyhow::Error::msg)?;
    record(&config, "token.create", &told.token)
        .inspect_err(|_| drop(tokens.revoke(&told.token.id)))
        .map_err(|e| anyhow!("{e}; the token is revoked"))?;
    let mut out = Out::new();
    match args.output.output {
        Format::Json => {
            let mut token = row(&told.token, now);
            token["token"] = json!(told.secret);
            out.document(&token)?;
        }
        Format::Table => out.line(&told.secret)?,
    }
    // What nobody could read down would stay valid, and nobody would hold it.
    out.flush()
        .inspect_err(|_| drop(tokens.revoke(&told.token.id)))
        .context("the token wasn't printed, and is revoked")?;
    let until = told.token.expires.map_or("until it is revoked".to_owned(), |at| format!("until {}", time::format(at)));
    tell(&format!("token \"{}\" of role \"{}\" holds {until}; it is shown this once", args.name, args.role));
    Ok(Exit::Ok)
}

fn list(args: &ListArgs) -> anyhow::Result<Exit> {
    let (config, tokens) = load(&args.config)?;
    let (kept, now) = (tokens.read().map_err(anyhow::Error::msg)?, wall_clock::now());
    let mut out = Out::new();
    if args.output.output == Format::Json {
        out.document(&json!({"tokens": kept.iter().map(|token| row(token, now)).collect::<Vec<_>>()}))?;
        out.flush()?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(["NAME", "ROLE", "STATE", "CREATED", "EXPIRES", "ID"]);
    for token in kept {
        let state = match config.api.roles.get(&token.role) {
            Err(_) => "no such role",
            Ok(_) if token.has_expired(now) => "expired",
            Ok(_) => "valid",
        };
        let expires = token.expires.map_or("never".to_owned(), time::format);
        table.row(Style::new(), [token.name, token.role, state.into(), time::format(token.created), expires, token.id]);
    }
    out.table(&table)?;
    out.flush()?;
    Ok(Exit::Ok)
}

fn row(token: &Token, now: i64) -> Value {
    json!({
        "id": token.id,
        "name": token.name,
        "role": token.role,
        "created": time::format(token.created),
        "expires": token.expires.map(time::format),
        "expired": token.has_expired(now),
    })
}

fn revoke(args: &RevokeArgs) -> anyhow::Result<Exit> {
    let (config, tokens) = load(&args.config)?;
    let token = tokens.revoke(&args.which).map_err(anyhow::Error::msg)?;
    record(&config, "token.revoke", &token)
        .map_err(|e| anyhow!("the token is revoked, and that is not in the audit trail: {e}"))?;
    let mut out = Out::new();
    match args.output.output {
        Format::Json => out.document(&row(&token, wall_clock::now()))?,
        Format::Table => out.text(&format!("token \"{}\" ({}) is revoked", token.name, token.id))?,
    }
    out.flush()?;
    Ok(Exit::Ok)
}
