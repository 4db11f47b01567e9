//! `worker`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use clawdstrike_telemetry::time;
use serde_json::json;

use super::output::{Format, Out, escape, field, severity_style};
use super::{Exit, OutputArgs};
use crate::alert::{Alert, Status};
use crate::api::serve;
use crate::runtime::handle::{Gap, Handle};
use crate::runtime::process::{self, Process};

/// Run one process of the cluster (`up` starts them all; a Kubernetes StatefulSet runs these).
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  clawdstrike-edr worker --config edr/workers.toml --process 0")]
pub(super) struct WorkerArgs {
    /// The cluster's configuration.
    #[arg(long, value_name = "FILE", default_value = "workers.toml")]
    pub(super) config: PathBuf,
    /// Which process, from 0.
    #[arg(long, value_name = "N")]
    pub(super) process: usize,
    /// `host:port` of each process, instead of the configuration's.
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',')]
    pub(super) mesh: Vec<String>,
    /// Stop when standard input ends, as it does when a supervisor is gone.
    #[arg(long)]
    pub(super) supervised: bool,
    /// Print alerts to standard output as they are detected (process 0).
    #[arg(long)]
    pub(super) show_alerts: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) fn run(args: WorkerArgs) -> anyhow::Result<Exit> {
    let (config, path) = process::load(&args.config).map_err(anyhow::Error::msg)?;
    let (show, format) = (args.show_alerts, args.output.output);
    let scheme = if config.api.tls.is_some() { "https" } else { "http" };
    let shape = format!("{} processes of {} threads", config.cluster.processes, config.cluster.threads);
    let ready = move |handle: Handle, address: SocketAddr| {
        tracing::info!(%address, config = %path.display(), "{shape} are up");
        if show {
            tokio::spawn(show_alerts(handle, format!("{scheme}://{address}"), format));
        }
    };
    let (api, state) = (config.api.clone(), config.cluster.state.clone());
    process::run(Process {
        config,
        index: args.process,
        mesh: args.mesh,
        supervised: args.supervised,
        serve: Box::new(move |handle, stopped| Box::pin(async move { serve(&api, &state, handle, stopped).await })),
        ready: Box::new(ready),
    })
    .map_err(anyhow::Error::msg)?;
    Ok(Exit::Ok)
}

async fn show_alerts(handle: Handle, api: String, format: Format) {
    let mut changes = handle.feeds().alerts.watch();
    drop(handle);
    if announce(&api, format).is_err() {
        return;
    }
    loop {
        let change = match changes.next().await {
            Ok(change) => change,
            Err(Gap::Missed(missed)) => {
                tracing::warn!(missed, "alerts change faster than they can be followed here; `alerts list` has all");
                continue;
            }
            Err(Gap::Ended) => return,
        };
        // Nobody reads any more: the engine goes on.
        if print(&change.now, format).is_err() {
            return;
        }
    }
}

fn announce(base: &str, format: Format) -> anyhow::Result<()> {
    let mut out = Out::new();
    match format {
        Format::Json => out.json_line(&json!({"kind": "ready", "api": base}))?,
        Format::Table => {
            out.line(&format!("the API listens on {base}; in another terminal, try:"))?;
            let api = if base == "http://127.0.0.1:7878" { String::new() } else { format!(" --api {base}") };
            for command in ["sessions list", "alerts list", "alerts watch", "rules list"] {
                out.line(&format!("  clawdstrike-edr {command}{api}"))?;
            }
            out.line("alerts, as they are detected:")?;
        }
    }
    out.flush()
}

fn print(alert: &Alert, format: Format) -> anyhow::Result<()> {
    let mut out = Out::new();
    let json = alert.to_json();
    if format == Format::Json {
        out.json_line(&json)?;
        return out.flush();
    }
    // Later versions of an alert change its counts; a line for each would hide the new ones.
    if alert.status != Status::Open && alert.status != Status::Retracted {
        return Ok(());
    }
    let severity = field(&json, "severity");
    let events: Vec<String> =
        alert.evidence.iter().take(3).map(|e| format!("{} {}", e.event_type.name(), e.target)).collect();
    let more = if alert.evidence.len() > 3 { format!(" and {} more", alert.evidence.len() - 3) } else { String::new() };
    let line = format!(
        "{} {severity:8} {} {} agent {} session {} risk {}: {}{more}",
        time::format(alert.last_seen),
        alert.status.name(),
        alert.rule_id,
        alert.agent_id,
        alert.session_id,
        alert.risk_score,
        events.join(", "),
    );
    out.styled(&escape(&line), severity_style(&severity))?;
    out.flush()
}
