//! `[api]`: where the API listens, and whom it answers.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

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
}

impl Default for Api {
    fn default() -> Self {
        Api {
            listen: SocketAddr::from(([127, 0, 0, 1], 7878)),
            allow_anonymous: false,
            requests_per_second: 50,
            roles: Roles::default(),
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
        if self.requests_per_second == 0 {
            return Err("[api] requests_per_second must be at least 1: with 0 nobody could ask".into());
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
