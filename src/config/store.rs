//! `[store]`: where events, alerts and sessions are kept, and for how long.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Bytes, Duration, yes};

/// Where events, alerts and sessions are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "type", rename_all = "snake_case")]
pub enum Store {
    /// Nowhere.
    None,
    /// One database file, no server.
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Keep events too, not only alerts and sessions.
        #[serde(default = "yes")]
        events: bool,
        /// What is removed, and when.
        #[serde(default)]
        retention: Retention,
        /// Which events are kept.
        #[serde(default)]
        sampling: Sampling,
    },
    /// PostgreSQL, with or without TimescaleDB.
    Postgres {
        /// Name of the environment variable that holds the connection URL.
        url_env: String,
        /// Whether connections are encrypted; before what the URL says. Left out in both: unless the server is on loopback.
        #[serde(default)]
        sslmode: Option<SslMode>,
        /// PEM file of the authorities that may vouch for the server; before what the URL says. Left out in both: the
        /// system's.
        #[serde(default)]
        sslrootcert: Option<PathBuf>,
        /// Keep events too, not only alerts and sessions.
        #[serde(default = "yes")]
        events: bool,
        /// What is removed, and when.
        #[serde(default)]
        retention: Retention,
        /// Which events are kept.
        #[serde(default)]
        sampling: Sampling,
    },
}

impl Default for Store {
    fn default() -> Self {
        Store::Sqlite {
            path: "state/clawdstrike.db".into(),
            events: true,
            retention: Retention::default(),
            sampling: Sampling::default(),
        }
    }
}

/// Whether connections to PostgreSQL are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// Plain text: on loopback or a private network.
    Disable,
    /// TLS, with the server's certificate and name verified.
    VerifyFull,
}

impl std::str::FromStr for SslMode {
    type Err = String;

    /// Other clients' modes that encrypt mean this program's only one; those that let the server decide are refused.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "disable" => Ok(SslMode::Disable),
            "require" | "verify-ca" | "verify-full" => Ok(SslMode::VerifyFull),
            _ => Err(format!(
                "sslmode is {text:?}: write \"verify-full\", or \"disable\" on loopback or a private network; modes that fall back \
                 to plain text are not there"
            )),
        }
    }
}

impl Serialize for SslMode {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(match self {
            SslMode::Disable => "disable",
            SslMode::VerifyFull => "verify-full",
        })
    }
}

impl<'de> Deserialize<'de> for SslMode {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// `[store.retention]`: what a store removes, and when.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Events older than this are removed. Their hourly counts stay.
    pub events: Duration,
    /// Alerts, sessions and hourly counts whose last event is older than this are removed, and actions that changed last before. Left out: never.
    pub history: Option<Duration>,
    /// SQLite only: above so many bytes in use the oldest events go before their time. Left out: no bound.
    pub max_size: Option<Bytes>,
}

impl Default for Retention {
    fn default() -> Self {
        Retention { events: Duration::seconds(90 * 86_400), history: None, max_size: None }
    }
}

/// `[store.sampling]`: which events a store keeps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// The share of low-risk events that is kept, above 0 and at most 1: those that were allowed, that their guard doesn't rate
    /// above low, and that no rule needs. 1: all of them.
    pub low_risk: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { low_risk: 1.0 }
    }
}

/// TimescaleDB's hourly counts are refreshed from events up to a day before these are removed.
const LEAST_EVENTS: Duration = Duration::seconds(3 * 86_400);
/// A rule's window may be as long: an alert must not be removed while it can still change.
const LEAST_HISTORY: Duration = Duration::seconds(14 * 86_400);
/// An empty database with its indexes takes a part of it.
const LEAST_SIZE: Bytes = Bytes(16 << 20);

impl Store {
    /// Whether, and which, events are kept: `None` for none.
    pub fn keeps(&self) -> Option<Sampling> {
        match self {
            Store::Sqlite { events: true, sampling, .. } | Store::Postgres { events: true, sampling, .. } => {
                Some(*sampling)
            }
            _ => None,
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let (retention, sampling, sqlite) = match self {
            Store::None => return Ok(()),
            Store::Sqlite { retention, sampling, .. } => (retention, sampling, true),
            Store::Postgres { retention, sampling, .. } => (retention, sampling, false),
        };
        let share = sampling.low_risk;
        if !(share > 0.0 && share <= 1.0) {
            return Err(format!(
                "[store.sampling] low_risk ({share}) is no share above 0 and up to 1: write 0.1 to keep one in ten, or 1 for all"
            ));
        }
        let Retention { events, history, max_size } = retention;
        if *events < LEAST_EVENTS {
            return Err(format!(
                "[store.retention] events ({events}) is less than {LEAST_EVENTS}: keep them longer, or none with [store] events = false"
            ));
        }
        if let Some(history) = history
            && (*history < LEAST_HISTORY || history < events)
        {
            return Err(format!(
                "[store.retention] history ({history}) must be at least {LEAST_HISTORY} and at least events ({events}): alerts refer to events"
            ));
        }
        match max_size {
            Some(_) if !sqlite => Err("[store.retention] max_size is for type = \"sqlite\": give the server a disk of its own, or keep events for less time".into()),
            Some(size) if *size < LEAST_SIZE => {
                Err(format!("[store.retention] max_size ({size}) is less than {LEAST_SIZE}: hardly an event would be kept"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn retention(kind: &str, text: &str) -> Result<Retention, String> {
        let more = if kind == "sqlite" { "path = \"x\"" } else { "url_env = \"X\"" };
        let config = Config::parse(&format!("[store]\ntype = \"{kind}\"\n{more}\n[store.retention]\n{text}\n"))?;
        match config.store {
            Store::Sqlite { retention, .. } | Store::Postgres { retention, .. } => Ok(retention),
            Store::None => Err("no store".into()),
        }
    }

    #[test]
    fn events_are_kept_for_ninety_days_and_history_for_ever() {
        for kind in ["sqlite", "postgres"] {
            let kept = retention(kind, "").unwrap();
            assert_eq!((kept.events.to_string().as_str(), kept.history, kept.max_size), ("90d", None, None));
        }
        let kept = retention("sqlite", "events = \"30d\"\nhistory = \"400d\"\nmax_size = \"20GiB\"").unwrap();
        assert_eq!(kept.max_size, Some(Bytes(20 << 30)));
    }

    #[test]
    fn spans_that_would_remove_what_is_in_use_are_refused() {
        for (kind, text, why) in [
            ("sqlite", "events = \"1d\"", "less than 3d"),
            ("sqlite", "history = \"30d\"", "at least events (90d)"),
            ("sqlite", "events = \"3d\"\nhistory = \"7d\"", "at least 14d"),
            ("sqlite", "max_size = \"1MiB\"", "less than 16MiB"),
            ("postgres", "max_size = \"1GiB\"", "sqlite"),
            ("sqlite", "event = \"9d\"", "event"),
        ] {
            let error = retention(kind, text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn all_events_are_kept_unless_a_share_is_named() {
        let kept = |text: &str| Config::parse(text).map(|config| config.store.keeps().map(|s| s.low_risk));
        let sqlite = "[store]\ntype = \"sqlite\"\npath = \"x\"\n";
        assert_eq!(kept(sqlite).unwrap(), Some(1.0));
        assert_eq!(kept(&format!("{sqlite}[store.sampling]\nlow_risk = 0.1\n")).unwrap(), Some(0.1));
        assert_eq!(kept(&format!("{sqlite}events = false\n")).unwrap(), None);
        for share in ["0.0", "-1.0", "1.5", "nan"] {
            let error = kept(&format!("{sqlite}[store.sampling]\nlow_risk = {share}\n")).unwrap_err();
            assert!(error.contains("low_risk"), "{error}");
        }
    }
}
