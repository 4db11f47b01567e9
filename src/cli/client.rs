//! Calls to a running engine's API, and what went wrong with one in words that help.
//!
//! Knows no command.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Certificate, Method, RequestBuilder, Response, StatusCode, redirect};
use serde_json::Value;
use url::{Host, Url};

use super::PageArgs;
use super::output::tell;
use super::sse::Events;

/// `--api`, and what the engine shall know the caller by.
#[derive(Debug, Args)]
pub(super) struct ApiArgs {
    /// Where the engine's API is.
    #[arg(long, value_name = "URL", env = "CLAWDSTRIKE_API", default_value = "http://127.0.0.1:7878", value_parser = base_url)]
    api: Url,
    /// A token for the API. Others on this machine see arguments: the variable, or a file, is better.
    #[arg(long, value_name = "TOKEN", env = TOKEN, hide_env_values = true)]
    token: Option<Secret>,
    /// A file that holds a token.
    #[arg(long, value_name = "FILE", env = "CLAWDSTRIKE_TOKEN_FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// Certificates in PEM that the API's is trusted by, beside the system's.
    #[arg(long, value_name = "FILE", env = "CLAWDSTRIKE_CA_FILE")]
    ca_file: Option<PathBuf>,
}

/// The variable that holds a token.
pub(super) const TOKEN: &str = "CLAWDSTRIKE_TOKEN";
/// The longest file of a token.
const MAX_TOKEN_FILE: u64 = 64 * 1024;

/// A token that no message shows.
#[derive(Clone)]
struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

impl std::str::FromStr for Secret {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Secret(text.to_owned()))
    }
}

impl ApiArgs {
    /// The Authorization header, if there is a token.
    fn authorization(&self) -> anyhow::Result<Option<HeaderValue>> {
        let token = match (&self.token, &self.token_file) {
            (Some(Secret(token)), _) => token.clone(),
            (None, Some(path)) => {
                let said = || format!("token file \"{}\" can't be read", path.display());
                let mut text = String::new();
                File::open(path)
                    .and_then(|file| file.take(MAX_TOKEN_FILE).read_to_string(&mut text))
                    .with_context(said)?;
                text
            }
            (None, None) => return Ok(None),
        };
        if token.trim().is_empty() {
            return Ok(None);
        }
        bearer(&token)
            .map(Some)
            .ok_or_else(|| anyhow!("the token has characters that no token has: was another file named?"))
    }
}

/// The header that shows a token, kept out of every log; `None`: it has characters that no header may have.
pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn base_url(text: &str) -> Result<Url, String> {
    let expected = "expected a URL such as http://127.0.0.1:7878";
    let url = Url::parse(text).map_err(|e| format!("{e}; {expected}"))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        _ => Err(expected.to_owned()),
    }
}

/// The longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// The longest silence within an answer; watches send a sign of life more often.
const SILENCE: Duration = Duration::from_secs(45);
/// The longest answer, in bytes.
const MAX_ANSWER: usize = 256 * 1024 * 1024;

/// Rows that are asked for at a time.
const PAGE: usize = 1_000;

/// A query parameter: its name, and its value if it was asked for.
pub(super) type Parameter<'a> = (&'a str, Option<String>);

/// The API said no.
#[derive(Debug, thiserror::Error)]
#[error("the API refused ({status}): {message}; {hint}")]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    message: String,
    hint: String,
    /// The whole answer.
    pub(super) body: Value,
}

/// A client of one engine.
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
}

impl Client {
    pub(super) fn new(args: ApiArgs) -> anyhow::Result<Client> {
        Client::patient(args, SILENCE)
    }

    /// With another bound on the silence before an answer, and within it.
    pub(super) fn patient(args: ApiArgs, silence: Duration) -> anyhow::Result<Client> {
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .read_timeout(silence)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("clawdstrike-edr/", env!("CARGO_PKG_VERSION")));
        let here = match args.api.host() {
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        };
        if here {
            // A proxy's loopback is another machine's.
            http = http.no_proxy();
        }
        if let Some(path) = &args.ca_file {
            let said = || format!("\"{}\": expected certificates in PEM", path.display());
            let pem = std::fs::read(path).with_context(said)?;
            http = http.tls_certs_merge(Certificate::from_pem_bundle(&pem).with_context(said)?);
        }
        if let Some(authorization) = args.authorization()? {
            if !here && args.api.scheme() == "http" {
                tell("warning: the token goes to another machine in plain text: use https, or a tunnel");
            }
            http = http.default_headers(HeaderMap::from_iter([(AUTHORIZATION, authorization)]));
        }
        Ok(Client { http: http.build()?, base: args.api })
    }

    /// Where the API is, for people.
    pub(super) fn base(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// GET of the route of these segments.
    pub(super) async fn get(&self, route: &[&str], query: &[Parameter<'_>]) -> anyhow::Result<Value> {
        let response = self.call(Method::GET, route, query, None).await?;
        self.body(response).await
    }

    /// A list: its pages put together, until there are as many of its `rows` as were asked for. `as_of` is the first page's.
    pub(super) async fn list(
        &self,
        route: &[&str],
        query: &[Parameter<'_>],
        rows: &str,
        page: &PageArgs,
    ) -> anyhow::Result<Value> {
        let most = page.limit as usize;
        let mut cursor = page.cursor.clone();
        let mut list: Option<Value> = None;
        loop {
            let have = list.as_ref().and_then(|list| list[rows].as_array()).map_or(0, Vec::len);
            let ask = [("limit", Some((most - have).min(PAGE).to_string())), ("cursor", cursor.take())];
            let mut answer = self.get(route, &[query, &ask].concat()).await?;
            cursor = answer["next"].as_str().map(str::to_owned);
            let Some(found) = answer[rows].as_array_mut().map(std::mem::take) else {
                bail!("\"{}\" answered without \"{rows}\": is it an engine's API? check --api", self.base);
            };
            let end = found.is_empty() || have + found.len() >= most || cursor.is_none();
            let list = list.get_or_insert(answer);
            list[rows].as_array_mut().into_iter().for_each(|all| all.extend_from_slice(&found));
            list["next"] = cursor.clone().into();
            if end {
                return Ok(std::mem::take(list));
            }
        }
    }

    /// POST of a JSON body.
    pub(super) async fn post(&self, route: &[&str], body: &Value) -> anyhow::Result<Value> {
        let response = self.call(Method::POST, route, &[], Some(body)).await?;
        self.body(response).await
    }

    /// The server-sent events of the route; those after the event of this id, if it is known.
    pub(super) async fn watch(
        &self,
        route: &[&str],
        query: &[Parameter<'_>],
        after: Option<&str>,
    ) -> anyhow::Result<Events> {
        let mut request = self.http.get(self.url(route, query)?);
        if let Some(id) = after {
            request = request.header("last-event-id", id);
        }
        Ok(Events::new(self.send(request).await?))
    }

    async fn call(
        &self,
        method: Method,
        route: &[&str],
        query: &[Parameter<'_>],
        body: Option<&Value>,
    ) -> anyhow::Result<Response> {
        let mut request = self.http.request(method, self.url(route, query)?);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.send(request).await
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let response = request.send().await.map_err(|e| self.unreachable(e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = self.body(response).await?;
        let text = |name: &str| body[name].as_str().map(str::to_owned);
        let message = text("detail")
            .ok_or_else(|| anyhow!("\"{}\" answered {status}, and not as an engine does: check --api", self.base))?;
        let hint = text("hint").unwrap_or_default();
        Err(Refused { status, message, hint, body }.into())
    }

    fn url(&self, route: &[&str], query: &[Parameter<'_>]) -> anyhow::Result<Url> {
        let mut url = self.base.clone();
        url.set_query(None);
        match url.path_segments_mut() {
            Ok(mut segments) => segments.pop_if_empty().push("v1").extend(route),
            Err(()) => {
                bail!("\"{}\" can't be the base of a route: expected a URL such as http://127.0.0.1:7878", self.base)
            }
        };
        for (name, value) in query {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
        Ok(url)
    }

    async fn body(&self, mut response: Response) -> anyhow::Result<Value> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.unreachable(e))? {
            if bytes.len() + chunk.len() > MAX_ANSWER {
                bail!(
                    "the answer of \"{}\" is longer than {MAX_ANSWER} bytes: ask for fewer rows with --limit",
                    self.base
                );
            }
            bytes.extend_from_slice(&chunk);
        }
        let status = response.status();
        serde_json::from_slice(&bytes).with_context(|| {
            format!("\"{}\" answered {status}, but not in JSON: is it an engine's API? check --api", self.base)
        })
    }

    fn unreachable(&self, error: reqwest::Error) -> anyhow::Error {
        let cause = root_cause(&error);
        if cause.contains("certificate") {
            return anyhow!(
                "the API at \"{}\" can't be trusted: {cause}; name its certificate, or its authority's, with --ca-file or CLAWDSTRIKE_CA_FILE",
                self.base
            );
        }
        match error.is_connect() {
            true => anyhow!(
                "the API at \"{}\" can't be reached: {cause}; start the engine with `clawdstrike-edr up`, or say where it is with --api or CLAWDSTRIKE_API",
                self.base
            ),
            false => anyhow!("the API at \"{}\" did not answer: {cause}; see the engine's log", self.base),
        }
    }
}

/// The innermost cause, which names the system's own reason.
pub(super) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(base: &str, route: &[&str], query: &[Parameter<'_>]) -> String {
        let args = ApiArgs { api: base_url(base).expect("a base URL"), token: None, token_file: None, ca_file: None };
        let client = Client::new(args).expect("a client");
        client.url(route, query).expect("a URL").to_string()
    }

    #[test]
    fn hostile_ids_stay_within_their_segment() {
        let route = ["sessions", "a/../b?x#y", "%2e\u{202e}"];
        assert_eq!(
            url("http://h:1/edr/", &route, &[("tenant_id", Some("a&b".into())), ("none", None)]),
            "http://h:1/edr/v1/sessions/a%2F..%2Fb%3Fx%23y/%252e%E2%80%AE?tenant_id=a%26b"
        );
    }

    #[test]
    fn a_token_is_in_no_debug_text() {
        let header = bearer(" cse_0123\n").expect("a header");
        assert_eq!(header, "Bearer cse_0123");
        assert!(!format!("{header:?} {:?}", Secret("cse_0123".into())).contains("0123"));
        assert!(bearer("a\nb").is_none());
    }

    #[test]
    fn a_base_without_a_host_is_refused() {
        for text in ["mailto:x", "127.0.0.1:7878", "ftp://h", ""] {
            assert!(base_url(text).expect_err(text).contains("http://127.0.0.1:7878"), "{text}");
        }
    }
}
