//! `[api]`: where the API listens, and whom it answers.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::roles::{Roles, is_plain_name};

/// The HTTP API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// Where process 0 listens. Port 0 picks a free one.
    pub listen: SocketAddr,
    /// Serve callers on the same machine without tokens too. Only on a loopback address.
    pub allow_anonymous: bool,
    /// Requests a second that each token, or each address that shows none, may send; some seconds' worth may come at once.
    pub requests_per_second: u32,
    /// What holders of tokens may do.
    pub roles: Roles,
    /// An issuer whose tokens are taken too.
    pub oidc: Option<Oidc>,
    /// Encrypts connections.
    pub tls: Option<Tls>,
    /// Listen for other machines without TLS: something in front of the API does that.
    pub plain_http: bool,
}

/// Where the API's certificate and its key are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Certificates in PEM, the API's own first.
    pub cert: PathBuf,
    /// The private key in PEM.
    pub key: PathBuf,
}

/// An OIDC issuer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Oidc {
    /// `iss` of its tokens.
    pub issuer: String,
    /// What `aud` of a token for this API holds.
    pub audience: String,
    /// Where its keys are: https, or http on this machine.
    pub jwks_url: String,
    /// The claim that names roles: a text or a list of texts; a dot leads into a nested claim.
    #[serde(default = "default_role_claim")]
    pub role_claim: String,
}

fn default_role_claim() -> String {
    "roles".to_owned()
}

impl Oidc {
    /// Where its keys are.
    ///
    /// # Errors
    /// That is no URL that keys may be asked of.
    pub fn jwks_url(&self) -> Result<Url, String> {
        let url = Url::parse(&self.jwks_url).ok().filter(|url| url.has_host());
        let url = url.filter(|url| url.scheme() == "https" || (url.scheme() == "http" && is_loopback(url)));
        url.ok_or_else(|| {
            format!("[api.oidc] jwks_url = \"{}\": expected an https URL (http only on this machine)", self.jwks_url)
        })
    }

    /// Whether its keys are on this machine.
    ///
    /// # Errors
    /// As of [`Oidc::jwks_url`].
    pub fn is_here(&self) -> Result<bool, String> {
        self.jwks_url().map(|url| is_loopback(&url))
    }

    fn check(&self) -> Result<(), String> {
        for (key, value) in [("issuer", &self.issuer), ("audience", &self.audience), ("role_claim", &self.role_claim)] {
            if value.is_empty() {
                return Err(format!("[api.oidc] {key} is empty: tokens of anybody would do; name the one to take"));
            }
        }
        self.jwks_url().map(drop)
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

impl Default for Api {
    fn default() -> Self {
        Api {
            listen: SocketAddr::from(([127, 0, 0, 1], 7878)),
            allow_anonymous: false,
            requests_per_second: 50,
            roles: Roles::default(),
            oidc: None,
            tls: None,
            plain_http: false,
        }
    }
}

impl Api {
    /// What contradicts itself.
    ///
    /// # Errors
    /// The key, and what to do.
    pub fn check(&self) -> Result<(), String> {
        if self.allow_anonymous && !self.listen.ip().is_loopback() {
            return Err(format!(
                "[api] allow_anonymous = true needs a loopback address, and listen is \"{}\": use 127.0.0.1, or turn it off",
                self.listen
            ));
        }
        if self.tls.is_none() && !self.plain_http && !self.listen.ip().is_loopback() {
            return Err(format!(
                "[api] listen = \"{}\" lets other machines in, and tokens would go in plain text: set [api.tls] cert and key, or plain_http = true if a proxy in front of it does TLS",
                self.listen
            ));
        }
        if self.requests_per_second == 0 {
            return Err("[api] requests_per_second must be at least 1: with 0 nobody could ask".into());
        }
        if let Some(oidc) = &self.oidc {
            oidc.check()?;
        }
        for name in self.roles.0.keys() {
            if !is_plain_name(name) {
                return Err(format!(
                    "[api.roles] has a role \"{name}\": expected up to 64 letters, digits, \"-\", \"_\", \".\" and \"@\""
                ));
            }
        }
        Ok(())
    }
}
