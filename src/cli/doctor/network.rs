//! Who is to be reached, and who is to be reached by: receivers of responses, the mesh's addresses, the API's own.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use clawdstrike_telemetry::time;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::time::timeout;
use url::Url;

use super::finding::{Finding, clock};
use crate::api::tls::Tls;
use crate::api::tokens::Tokens;
use crate::cli::client::{TOKEN, bearer};
use crate::config::Config;
use crate::response;
use crate::wall_clock;

/// How long anybody may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The receivers of responses: any HTTP answer will do.
pub(super) async fn receivers(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (destination, base) in response::receivers(&config.response) {
        let part = destination.name();
        match base {
            Ok(base) => findings.extend(receiver(part, base).await),
            Err(error) => findings.push(Finding::error(part, error, "")),
        }
    }
    findings
}

async fn receiver(part: &str, base: Url) -> Vec<Finding> {
    // Only this much: the path and query of a webhook may be its secret.
    let shown = base.origin().ascii_serialization();
    let before = wall_clock::now();
    let answer = match client(false).build() {
        Ok(client) => client.head(base).send().await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(answer) => {
            let here = before.midpoint(wall_clock::now());
            let date = answer.headers().get("date").and_then(|d| httpdate::parse_http_date(d.to_str().ok()?).ok());
            let there = date.and_then(|d| d.duration_since(std::time::UNIX_EPOCH).ok());
            let ahead = there.and_then(|d| Some(i64::try_from(d.as_micros()).ok()? - here));
            let mut findings = vec![Finding::ok(part, format!("{shown} answers HTTP {}", answer.status().as_u16()))];
            findings.extend(ahead.and_then(|ahead| clock(part, "the receiver's", ahead)));
            findings
        }
        Err(error) => {
            let way_out =
                format!("start the receiver, or correct [response] {part}; until it answers requests are repeated");
            vec![Finding::error(part, format!("{shown} doesn't answer: {}", causes(&error.without_url())), way_out)]
        }
    }
}

/// An error with what caused it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn client(here: bool) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(ANSWER_WITHIN)
        .user_agent(concat!("clawdstrike-edr/", env!("CARGO_PKG_VERSION")));
    // A proxy's loopback is another machine's.
    if here { builder.no_proxy() } else { builder }
}

/// The addresses of the processes.
pub(super) async fn mesh(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (process, address) in config.cluster.addresses.iter().enumerate() {
        findings.push(member(&format!("process {process}"), address).await);
    }
    findings
}

async fn member(part: &str, address: &str) -> Finding {
    let way_out = "correct [cluster] addresses: one `host:port` for each process";
    let resolved = match timeout(ANSWER_WITHIN, lookup_host(address)).await {
        Ok(Ok(mut found)) => found.next(),
        Ok(Err(error)) => return Finding::error(part, format!("\"{address}\" is no address: {error}"), way_out),
        Err(_) => return Finding::error(part, format!("\"{address}\": the name service doesn't answer"), way_out),
    };
    let Some(socket) = resolved else {
        return Finding::error(part, format!("\"{address}\" stands for no address"), way_out);
    };
    match TcpListener::bind(socket).await {
        Ok(_) => return Finding::ok(part, format!("\"{address}\" is this machine's, and free")),
        Err(e) if e.kind() == ErrorKind::AddrInUse => {
            return Finding::ok(part, format!("\"{address}\" is this machine's, and taken: by the engine, if it runs"));
        }
        Err(e) if e.kind() == ErrorKind::PermissionDenied => {
            return Finding::error(part, format!("\"{address}\" can't be listened on: {e}"), "take a port above 1023");
        }
        // Another machine's.
        Err(_) => {}
    }
    match timeout(ANSWER_WITHIN, TcpStream::connect(socket)).await {
        Ok(Ok(_)) => Finding::ok(part, format!("\"{address}\" answers")),
        Ok(Err(e)) if e.kind() == ErrorKind::ConnectionRefused => Finding::warning(
            part,
            format!("\"{address}\": the machine answers, and nobody listens"),
            "so it is until that process starts; all must be started",
        ),
        Ok(Err(error)) => Finding::error(part, format!("\"{address}\" can't be reached: {error}"), way_out),
        Err(_) => {
            let seen = format!("\"{address}\" doesn't answer within {ANSWER_WITHIN:?}");
            Finding::error(
                part,
                seen,
                "let the network and its firewalls pass the mesh's port; else: correct the address",
            )
        }
    }
}

/// The API's own address: free, or taken by an engine, which is asked how it is.
pub(super) async fn api(config: &Config) -> Vec<Finding> {
    let (part, listen) = ("api", config.api.listen);
    let way_out = "choose another [api] listen";
    match TcpListener::bind(listen).await {
        Ok(_) => {
            let mut findings = vec![Finding::ok(part, format!("{listen} is free: no engine answers there now"))];
            findings.extend(callers(part, config));
            findings.extend(certificate(part, config));
            findings
        }
        Err(e) if e.kind() == ErrorKind::AddrInUse => match running(listen, config.api.tls.is_some()).await {
            Some(Told::Health(health)) => engine(part, listen, &health),
            Some(Told::Refusal(why)) => vec![Finding::warning(
                part,
                format!("an engine runs on {listen}, and doesn't tell how it is: {why}"),
                match config.api.tls {
                    None => format!("put a token whose role has read:health into {TOKEN}"),
                    Some(_) => "over TLS the doctor shows no token: ask /v1/health yourself".to_owned(),
                },
            )],
            None => {
                vec![Finding::error(part, format!("{listen} is taken, and not by an engine that answers"), way_out)]
            }
        },
        Err(error) => vec![Finding::error(part, format!("{listen} can't be listened on: {error}"), way_out)],
    }
}

/// Whether anybody will be answered.
fn callers(part: &str, config: &Config) -> Option<Finding> {
    if config.api.allow_anonymous {
        return None;
    }
    let none = "allow_anonymous is off, and there is no token: the API will refuse everybody";
    match Tokens::of(&config.cluster.state).read() {
        Ok(tokens) if tokens.is_empty() => Some(Finding::warning(
            part,
            none,
            "`clawdstrike-edr token create`; or [api] allow_anonymous = true, which answers callers on this machine",
        )),
        Ok(_) => None,
        Err(error) => Some(Finding::error(part, error, "until then the API refuses every token")),
    }
}

/// Whether the API's certificate and key can be used.
fn certificate(part: &str, config: &Config) -> Option<Finding> {
    let error = Tls::load(config.api.tls.as_ref()?).err()?;
    Some(Finding::error(part, error, "until then the cluster doesn't start"))
}

/// What an engine that runs said when it was asked how it is.
enum Told {
    Health(Value),
    Refusal(String),
}

async fn running(listen: SocketAddr, tls: bool) -> Option<Told> {
    let scheme = if tls { "https" } else { "http" };
    // Whose certificate it is doesn't matter for who sends no secret, and wants to know only that an engine answers.
    let client = client(true).danger_accept_invalid_certs(tls).build().ok()?;
    let mut request = client.get(format!("{scheme}://{listen}/v1/health"));
    if !tls && let Some(token) = std::env::var(TOKEN).ok().and_then(|token| bearer(&token)) {
        request = request.header(reqwest::header::AUTHORIZATION, token);
    }
    let answer: Value = serde_json::from_str(&request.send().await.ok()?.text().await.ok()?).ok()?;
    match (answer["version"].is_string(), answer["type"].as_str(), answer["detail"].as_str()) {
        (true, ..) => Some(Told::Health(answer)),
        (false, Some(kind), Some(why)) if kind.contains("clawdstrike-edr") => Some(Told::Refusal(why.to_owned())),
        _ => None,
    }
}

/// What a running engine says of itself.
fn engine(part: &str, listen: SocketAddr, health: &Value) -> Vec<Finding> {
    let told = |key: &str| health[key].as_str().unwrap_or("unknown").to_owned();
    let seen = format!("an engine runs: {} events, {listen}, version {}", health["events"], told("version"));
    let mut findings = vec![Finding::ok(part, seen)];
    for (what, why) in health["degraded"].as_object().into_iter().flatten() {
        let why = why.as_str().unwrap_or_default();
        findings.push(Finding::error(what, format!("the running engine says: {why}"), "see its log"));
    }
    if let Some(watermark) = health["watermark"].as_str().and_then(time::parse)
        && watermark > wall_clock::now()
    {
        let seen = format!("the watermark is ahead of this machine's clock: {}", told("watermark"));
        findings.push(Finding::warning(
            part,
            seen,
            "an agent's or the broker's clock is ahead: see the topics' clocks",
        ));
    }
    findings
}
