//! `agent-control`: prints what an agent platform and a SOC would be asked for.

use std::net::SocketAddr;

use anyhow::Context as _;
use clap::Parser;
use clawdstrike_agent_control::{Keys, Receiver};

/// Takes what alerts ask for, each once for its idempotency key, and prints it. It stops no agent.
#[derive(Parser)]
#[command(after_help = "\
Example, with [response] agent_control_api = \"http://127.0.0.1:9001\" and soc_webhook = \"http://127.0.0.1:9001/alerts\":
  agent-control --listen 127.0.0.1:9001")]
struct Args {
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9001")]
    listen: SocketAddr,
    /// Key that requests to the control API must be signed with; an environment variable's name.
    #[arg(long, value_name = "VARIABLE")]
    control_key_env: Option<String>,
    /// Key that alerts must be signed with; an environment variable's name.
    #[arg(long, value_name = "VARIABLE")]
    webhook_key_env: Option<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let (control, webhook) = (keys(args.control_key_env.as_deref())?, keys(args.webhook_key_env.as_deref())?);
    let receiver = Receiver::new().signed_with(control, webhook).telling(|deed, before| {
        let again = if before { " (repeated, and not done again)" } else { "" };
        println!("{:.16}  {}{again}", deed.key, deed.line());
    });
    let listener = tokio::net::TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("{} can't be listened on: choose another address with --listen", args.listen))?;
    let address = receiver.serve_on(listener)?;
    eprintln!("listening on http://{address}: the control API at its root, alerts at any other path, such as /alerts");
    tokio::signal::ctrl_c().await.context("Ctrl-C can't be waited for")
}

fn keys(variable: Option<&str>) -> anyhow::Result<Keys> {
    let Some(name) = variable else { return Ok(Keys::default()) };
    let key = std::env::var(name).with_context(|| format!("environment variable \"{name}\": set it to the key"))?;
    Ok(Keys::new([key.trim().as_bytes()]))
}
