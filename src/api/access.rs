//! Who a request is from, and what its sender may do: a token's holder, or nobody in particular where the configuration
//! lets callers on the same machine in.
//!
//! Knows no route. Tokens are looked for in the file again once it has changed, so `token create` and `token revoke` need no
//! restart. A file that can't be read lets nobody in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::sync::Mutex;

use super::error::{ApiError, Members};
use super::guard::names_this_machine;
use super::oidc::Oidc;
use super::rates::{Counted, Rates};
use super::tokens::{self, Stamp, Token, Tokens};
use crate::audit::Who;
use crate::config::Api;
use crate::config::roles::{Grant, Permission, Role, Roles};
use crate::wall_clock;

/// How often, at most, the file of tokens is looked at: a revoked token holds for so long.
const LOOK: Duration = Duration::from_millis(250);
/// The longest token that is looked up; those of issuers have some thousand bytes.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// What a refusal names the API by.
const REALM: &str = "Bearer realm=\"clawdstrike-edr\"";

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// `token`, `oidc` or `anonymous`.
    kind: &'static str,
    /// A token's name, an issuer's subject; empty for the anonymous.
    name: String,
    /// The role's name, several with commas between; empty for the anonymous.
    role: String,
    /// A token's id.
    id: String,
    grants: Arc<Role>,
}

impl Caller {
    /// As the audit trail names them.
    pub(super) fn who(&self) -> Who {
        Who { kind: self.kind.to_owned(), name: self.name.clone(), id: self.id.clone(), role: self.role.clone() }
    }

    /// Refuses what the caller's role doesn't grant.
    pub(super) fn may(&self, asked: Permission) -> Result<(), ApiError> {
        if self.grants.permits(asked) {
            return Ok(());
        }
        let asked = asked.name();
        let who = if self.role.is_empty() { self.kind.to_owned() } else { format!("role \"{}\"", self.role) };
        let challenge = format!("{REALM}, error=\"insufficient_scope\", scope=\"{asked}\"");
        Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            format!("this needs the permission \"{asked}\", and {who} doesn't have it"),
            "use a token whose role has it; [api.roles] in workers.toml says which do",
        )
        .with(Members { permission: Some(asked), ..Members::default() })
        .with_challenge(&challenge))
    }
}

impl ApiError {
    /// What a refusal asks for (RFC 6750).
    fn with_challenge(self, challenge: &str) -> ApiError {
        match HeaderValue::from_str(challenge) {
            Ok(value) => self.with_header(header::WWW_AUTHENTICATE, value),
            Err(_) => self,
        }
    }
}

/// What the file of tokens said when it was last looked at.
#[derive(Default)]
struct Seen {
    at: Option<Instant>,
    stamp: Stamp,
    tokens: Arc<[Token]>,
    /// Why there are none to be had.
    error: Option<String>,
}

/// See the module.
pub(super) struct Access {
    anonymous: Option<Caller>,
    roles: Roles,
    tokens: Tokens,
    oidc: Option<Oidc>,
    seen: Mutex<Seen>,
    rates: Rates,
}

impl Access {
    pub(super) fn new(api: &Api, tokens: Tokens) -> Result<Access, String> {
        // Who reads what is sealed has a name.
        let grants = Permission::ALL.into_iter().filter(|p| *p != Permission::ReadSensitive).map(Grant::One);
        let grants = Arc::new(Role { permissions: grants.collect() });
        let anonymous =
            Caller { kind: "anonymous", name: String::new(), role: String::new(), id: String::new(), grants };
        Ok(Access {
            anonymous: api.allow_anonymous.then_some(anonymous),
            roles: api.roles.clone(),
            tokens,
            oidc: api.oidc.as_ref().map(Oidc::new).transpose()?,
            seen: Mutex::default(),
            rates: Rates::new(api.requests_per_second),
        })
    }

    /// Lets a request through that needs no token, as often as its address may ask.
    pub(super) fn admit(&self, from: SocketAddr) -> Result<(), ApiError> {
        match self.anonymous {
            // On the same machine, all of it.
            Some(_) => Ok(()),
            None => self.take(Counted::address(from.ip())),
        }
    }

    /// Who sent a request with these headers; refuses those who may not ask at all, or not so often.
    pub(super) async fn identify(&self, headers: &HeaderMap, from: SocketAddr) -> Result<Caller, ApiError> {
        let Some(shown) = headers.get(header::AUTHORIZATION) else {
            let Some(anonymous) = &self.anonymous else {
                self.take(Counted::address(from.ip()))?;
                return Err(no_token());
            };
            return match names_this_machine(headers) {
                true => Ok(anonymous.clone()),
                false => Err(other_host()),
            };
        };
        match self.holder(shown).await {
            Ok((caller, counted)) => {
                self.take(counted)?;
                Ok(caller)
            }
            Err(refused) => {
                self.take(Counted::address(from.ip()))?;
                Err(refused)
            }
        }
    }

    async fn holder(&self, shown: &HeaderValue) -> Result<(Caller, Counted), ApiError> {
        let secret = shown.to_str().ok().and_then(bearer).ok_or_else(|| {
            invalid("the Authorization header is no bearer token", "send `Authorization: Bearer TOKEN`")
        })?;
        match &self.oidc {
            Some(oidc) if Oidc::is_one(secret) => self.subject(oidc, secret).await,
            _ => self.token(secret).await,
        }
    }

    /// The holder of a token of ours.
    async fn token(&self, secret: &str) -> Result<(Caller, Counted), ApiError> {
        let tokens = self.known().await?;
        let Some(token) = tokens::find(&tokens, secret) else {
            return Err(invalid(
                "the token is unknown or revoked",
                "`clawdstrike-edr token create` makes one, on the machine of process 0",
            ));
        };
        if token.has_expired(wall_clock::now()) {
            let why = format!("the token \"{}\" has expired", token.name);
            return Err(invalid(why, "revoke it and create another: `clawdstrike-edr token create`"));
        }
        let grants = self.roles.get(&token.role).map_err(|why| {
            let hint = "create another token, or add the role under [api.roles] and start the cluster again";
            ApiError::new(StatusCode::FORBIDDEN, "unknown_role", why, hint)
        })?;
        let grants = Arc::new(grants.clone());
        let (name, role, id) = (token.name.clone(), token.role.clone(), token.id.clone());
        Ok((Caller { kind: "token", name, role, id, grants }, Counted::Holder(token.id.clone())))
    }

    /// The subject of an issuer's token; of several roles everything that any of them grants.
    async fn subject(&self, oidc: &Oidc, token: &str) -> Result<(Caller, Counted), ApiError> {
        let subject = oidc.check(token, &self.roles).await?;
        if subject.roles.is_empty() {
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "unknown_role",
                "the token names no role that there is",
                "let the issuer name one in the claim of [api.oidc] role_claim, or add its name under [api.roles]",
            ));
        }
        let granted = subject.roles.iter().filter_map(|role| self.roles.0.get(role));
        let grants =
            Arc::new(Role { permissions: granted.flat_map(|role| role.permissions.iter().copied()).collect() });
        let counted = Counted::Holder(format!("oidc {}", subject.id));
        let role = subject.roles.join(",");
        Ok((Caller { kind: "oidc", name: subject.id, role, id: String::new(), grants }, counted))
    }

    fn take(&self, who: Counted) -> Result<(), ApiError> {
        self.rates.take(who, Instant::now()).map_err(|seconds| {
            ApiError::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_requests",
                "requests come faster than [api] requests_per_second allows",
                format!("ask again in {seconds} s; watches tell of changes without being asked"),
            )
            .with_header(header::RETRY_AFTER, seconds.into())
        })
    }

    /// The tokens in the file, as of at most [`LOOK`] ago.
    async fn known(&self) -> Result<Arc<[Token]>, ApiError> {
        let mut seen = self.seen.lock().await;
        if seen.at.is_none_or(|at| at.elapsed() >= LOOK) {
            let (tokens, before) = (self.tokens.clone(), seen.at.map(|_| seen.stamp));
            let look = move || {
                let stamp = tokens.stamp();
                (stamp, (before != Some(stamp)).then(|| tokens.read()))
            };
            // Disks may hang: not on a thread that answers others.
            let (stamp, read) =
                tokio::task::spawn_blocking(look).await.unwrap_or_else(|e| (None, Some(Err(e.to_string()))));
            seen.at = Some(Instant::now());
            seen.stamp = stamp;
            if let Some(read) = read {
                if let Err(error) = &read {
                    tracing::error!("{error}; until then the API refuses every token");
                }
                seen.error = read.as_ref().err().cloned();
                seen.tokens = read.unwrap_or_default().into();
            }
        }
        match &seen.error {
            None => Ok(seen.tokens.clone()),
            Some(_) => Err(ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "tokens_unreadable",
                "the file of tokens can't be used, so no token can be checked",
                "the engine's log says why",
            )),
        }
    }
}

/// The token of an Authorization header.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= MAX_TOKEN_BYTES).then_some(token)
}

fn no_token() -> ApiError {
    ApiError::new(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "this needs a token, and the request has none",
        "create one with `clawdstrike-edr token create` and send it as `Authorization: Bearer TOKEN` (the command line: CLAWDSTRIKE_TOKEN); \
         to open the API to this machine alone, set `allow_anonymous = true` under [api] in workers.toml",
    )
    .with_challenge(REALM)
}

pub(super) fn invalid(why: impl Into<String>, hint: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, "invalid_token", why, hint)
        .with_challenge(&format!("{REALM}, error=\"invalid_token\""))
}

fn other_host() -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        "forbidden_host",
        "the request's Host header names another machine, and anonymous access is for this one",
        "use 127.0.0.1, [::1] or localhost in the URL, or a token",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_token_is_one() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        for text in ["abc", "Basic abc", "Bearer ", "Bearer", ""] {
            assert_eq!(bearer(text), None, "{text}");
        }
        assert_eq!(bearer(&format!("Bearer {}", "x".repeat(MAX_TOKEN_BYTES + 1))), None);
    }
}
