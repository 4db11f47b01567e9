//! Who may do what (SPEC §12): permissions, what grants them, and roles as sets of grants.
//!
//! Knows no route and no caller. What no grant names is refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One thing that a caller may be permitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    /// Agents rolled up.
    ReadAgents,
    /// Alerts, and their watch.
    ReadAlerts,
    /// The audit trail.
    ReadAudit,
    /// Events.
    ReadEvents,
    /// What is degraded, and the counters.
    ReadHealth,
    /// Prometheus' numbers.
    ReadMetrics,
    /// Rules in force.
    ReadRules,
    /// Sealed targets in plain. Apart from the other reads: `read:*` doesn't grant it.
    ReadSensitive,
    /// Sessions, and their watch.
    ReadSessions,
    /// Acknowledging, closing, commenting alerts.
    WriteAlertAck,
    /// Approving and repeating actions.
    WriteResponses,
    /// Loading rule sets.
    WriteRules,
}

impl Permission {
    /// All of them, in the order of their names.
    pub const ALL: [Permission; 12] = [
        Permission::ReadAgents,
        Permission::ReadAlerts,
        Permission::ReadAudit,
        Permission::ReadEvents,
        Permission::ReadHealth,
        Permission::ReadMetrics,
        Permission::ReadRules,
        Permission::ReadSensitive,
        Permission::ReadSessions,
        Permission::WriteAlertAck,
        Permission::WriteResponses,
        Permission::WriteRules,
    ];

    /// As configurations and messages name it.
    pub const fn name(self) -> &'static str {
        match self {
            Permission::ReadAgents => "read:agents",
            Permission::ReadAlerts => "read:alerts",
            Permission::ReadAudit => "read:audit",
            Permission::ReadEvents => "read:events",
            Permission::ReadHealth => "read:health",
            Permission::ReadMetrics => "read:metrics",
            Permission::ReadRules => "read:rules",
            Permission::ReadSensitive => "read:sensitive",
            Permission::ReadSessions => "read:sessions",
            Permission::WriteAlertAck => "write:alert_ack",
            Permission::WriteResponses => "write:responses",
            Permission::WriteRules => "write:rules",
        }
    }
}

/// What a role's list may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// `*`: everything.
    All,
    /// `read:*`: every read but `read:sensitive`.
    Reads,
    /// One permission.
    One(Permission),
}

impl Grant {
    fn name(self) -> &'static str {
        match self {
            Grant::All => "*",
            Grant::Reads => "read:*",
            Grant::One(permission) => permission.name(),
        }
    }

    fn covers(self, asked: Permission) -> bool {
        match self {
            Grant::All => true,
            Grant::Reads => asked.name().starts_with("read:") && asked != Permission::ReadSensitive,
            Grant::One(permission) => permission == asked,
        }
    }
}

impl Serialize for Grant {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Grant {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let all = [Grant::All, Grant::Reads].into_iter().chain(Permission::ALL.map(Grant::One));
        all.clone().find(|grant| grant.name() == text).ok_or_else(|| {
            let names: Vec<&str> = all.map(Grant::name).collect();
            serde::de::Error::custom(format!("\"{text}\" is no permission; expected one of {}", names.join(", ")))
        })
    }
}

/// One role.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// What it grants; nothing else is permitted.
    pub permissions: Vec<Grant>,
}

impl Role {
    /// Whether a holder of this role may do this.
    pub fn permits(&self, asked: Permission) -> bool {
        self.permissions.iter().any(|grant| grant.covers(asked))
    }
}

/// Roles by name. Those of a configuration come beside the built-in three, or instead of one by its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, Role>")]
pub struct Roles(pub BTreeMap<String, Role>);

impl Default for Roles {
    fn default() -> Self {
        let read = |permissions: &[Permission]| permissions.iter().copied().map(Grant::One).collect::<Vec<_>>();
        let analyst =
            [Permission::ReadEvents, Permission::ReadAlerts, Permission::ReadSessions, Permission::WriteAlertAck];
        let engineer = [vec![Grant::Reads], read(&[Permission::WriteRules, Permission::WriteResponses])].concat();
        let roles =
            [("soc_analyst", read(&analyst)), ("security_engineer", engineer), ("administrator", vec![Grant::All])];
        Roles(roles.map(|(name, permissions)| (name.to_owned(), Role { permissions })).into())
    }
}

impl From<BTreeMap<String, Role>> for Roles {
    fn from(configured: BTreeMap<String, Role>) -> Self {
        let mut roles = Roles::default();
        roles.0.extend(configured);
        roles
    }
}

impl Roles {
    /// The role of this name.
    ///
    /// # Errors
    /// There is none; names those that are.
    pub fn get(&self, name: &str) -> Result<&Role, String> {
        self.0.get(name).ok_or_else(|| {
            let names: Vec<String> = self.0.keys().map(|name| format!("\"{name}\"")).collect();
            format!("there is no role \"{name}\"; expected one of {} ([api.roles] adds others)", names.join(", "))
        })
    }
}

/// Whether a text can be a role's or a token's name: what needs no quoting in a shell, a log or a header.
pub fn is_plain_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.@".contains(&b);
    (1..=64).contains(&text.len()) && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn roles(text: &str) -> Result<Roles, String> {
        Config::parse(text).map(|config| config.api.roles)
    }

    #[test]
    fn the_built_in_roles_are_those_of_the_brief() {
        let text = "[api.roles.soc_analyst]\npermissions = [\"read:events\", \"read:alerts\", \"read:sessions\", \"write:alert_ack\"]\n\
            [api.roles.security_engineer]\npermissions = [\"read:*\", \"write:rules\", \"write:responses\"]\n\
            [api.roles.administrator]\npermissions = [\"*\"]\n";
        assert_eq!(roles(text), Ok(Roles::default()));
    }

    #[test]
    fn no_wildcard_but_the_whole_one_grants_sensitive_reads() {
        let grants =
            |text: &str| roles(&format!("[api.roles.x]\npermissions = {text}\n")).expect("roles").0["x"].clone();
        let of = |role: Role| Permission::ALL.map(|p| role.permits(p)).into_iter().filter(|p| *p).count();
        assert!(!grants("[\"read:*\"]").permits(Permission::ReadSensitive));
        assert!(grants("[\"read:*\", \"read:sensitive\"]").permits(Permission::ReadSensitive));
        assert!(!grants("[\"read:*\"]").permits(Permission::WriteRules));
        let counts = ["[]", "[\"read:*\"]", "[\"*\"]", "[\"write:rules\"]"].map(|text| of(grants(text)));
        assert_eq!(counts, [0, 8, 12, 1]);
    }

    #[test]
    fn configured_roles_come_beside_the_built_in_ones_or_replace_one() {
        let found =
            roles("[api.roles.soc_analyst]\npermissions = []\n[api.roles.ci]\npermissions = [\"write:rules\"]\n");
        let found = found.expect("roles");
        assert_eq!(found.0.keys().collect::<Vec<_>>(), ["administrator", "ci", "security_engineer", "soc_analyst"]);
        assert!(!found.0["soc_analyst"].permits(Permission::ReadAlerts));
        let error = found.get("boss").expect_err("no such role");
        assert!(error.contains("\"boss\"") && error.contains("\"ci\""), "{error}");
    }

    #[test]
    fn what_is_no_permission_is_refused_by_name() {
        for (text, expected) in [
            (
                "[api.roles.x]\npermissions = [\"read:alert\"]\n",
                "\"read:alert\" is no permission; expected one of *, read:*",
            ),
            ("[api.roles.x]\npermissions = [\"write:*\"]\n", "\"write:*\" is no permission"),
            ("[api.roles.x]\npermission = []\n", "permission"),
            ("[api.roles.\"a b\"]\npermissions = []\n", "\"a b\""),
        ] {
            let error = roles(text).expect_err(text);
            assert!(error.contains(expected), "{error}");
        }
    }
}
