//! `workers.toml`: one typed tree with its defaults in one place (SPEC §8). Unknown keys are refused; secrets come from
//! the environment or from files, never from here.

mod api;
mod maintenance;
mod response;
pub mod roles;
mod store;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use api::{Api, Oidc, Tls};
pub use maintenance::{Day, Maintenance};
pub use response::{Response, SocFormat};
pub use store::{Retention, SslMode, Store};

use crate::session::RiskWeights;

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Processes and threads.
    pub cluster: Cluster,
    /// Where rules come from.
    pub rules: Rules,
    /// What is kept of the state, and how often.
    pub checkpoint: Checkpoint,
    /// Event time, memory, windows.
    pub limits: Limits,
    /// Weights of the risk score.
    pub risk: RiskWeights,
    /// Where records come from.
    #[serde(rename = "source")]
    pub sources: Vec<Source>,
    /// Where events, alerts and sessions are kept.
    pub store: Store,
    /// What alerts do.
    pub response: Response,
    /// The HTTP API.
    pub api: Api,
}

/// Processes and threads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cluster {
    /// Processes, each a `clawdstrike-edr worker`.
    pub processes: usize,
    /// Timely workers in each process.
    pub threads: usize,
    /// `host:port` of each process for the mesh between them. Empty: `up` picks free ports on loopback. The mesh has no
    /// authentication: loopback or a private network only.
    pub addresses: Vec<String>,
    /// The engine's own folder: spool, archive positions.
    pub state: PathBuf,
}

impl Default for Cluster {
    fn default() -> Self {
        Cluster { processes: 1, threads: 1, addresses: Vec::new(), state: "state".into() }
    }
}

/// Where rules come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// A folder of rule files, or one file.
    pub path: PathBuf,
    /// Load changed files without being asked.
    pub watch: bool,
    /// IANA zone of allowlist time windows that name none.
    pub zone: String,
}

impl Default for Rules {
    fn default() -> Self {
        Rules { path: "rules".into(), watch: true, zone: "UTC".into() }
    }
}

/// What the cluster goes on from after a stop, however it came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoint {
    /// The least time between two checkpoints: about as much is read again after a crash.
    pub every: Duration,
    /// `s3://bucket/prefix`, for all processes on all machines; keys, region and endpoint come from the AWS_ variables of
    /// the environment. Left out, the folder `checkpoint` in the state folder.
    pub url: Option<String>,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Checkpoint { every: Duration::seconds(5), url: None }
    }
}

impl Checkpoint {
    /// The bucket that `url` names, if there is one.
    ///
    /// # Errors
    /// It names none. The text doesn't repeat it: somebody may have written keys into it.
    pub fn bucket(&self) -> Result<Option<Bucket>, String> {
        let Some(url) = &self.url else { return Ok(None) };
        let bucket = url.strip_prefix("s3://").and_then(|place| {
            let place = place.trim_end_matches('/');
            let (name, prefix) = place.split_once('/').unwrap_or((place, ""));
            let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            let is_name = |text: &str| !text.is_empty() && plain(text) && !text.bytes().all(|b| b == b'.');
            let fits = is_name(name) && (prefix.is_empty() || prefix.split('/').all(is_name));
            fits.then(|| Bucket { name: name.to_owned(), prefix: prefix.to_owned() })
        });
        bucket.map(Some).ok_or_else(|| {
            "[checkpoint] url is no bucket's: write \"s3://bucket/prefix\", of letters, digits, \".\", \"-\" and \"_\"; keys, region and endpoint come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT)".to_owned()
        })
    }
}

/// A place in an object store that speaks S3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The bucket.
    pub name: String,
    /// What names of objects in it begin with, as folders; empty: nothing.
    pub prefix: String,
}

impl std::fmt::Display for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        write!(f, "s3://{}{slash}{}", self.name, self.prefix)
    }
}

/// Event time, memory, windows. Durations as in rules: a whole number and s, m, h or d.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// How late an event may be and keep its own time.
    pub max_lateness: Duration,
    /// How far ahead of the reference time a clock may be.
    pub max_skew: Duration,
    /// How long copies are recognised; never less than `max_lateness`.
    pub dedup_window: Duration,
    /// A session without an event for so long is idle.
    pub session_idle: Duration,
    /// A session without an event for so long leaves the live view.
    pub session_retention: Duration,
    /// Events of evidence kept with an alert: the first and the latest others.
    pub evidence_limit: usize,
    /// Sessions kept in each worker's live view; beyond, those without an event for longest leave first (stores keep them).
    pub sessions_in_view: usize,
    /// Alerts kept in the live view; the oldest leave first (stores keep them).
    pub alerts_in_view: usize,
    /// Memory that the groups of each worker may hold: kept events, machines of rules, session views. Beyond, groups
    /// without an event for longest leave (stores keep their sessions), and are counted. A text: "2GiB", "512MiB".
    pub state_memory: Bytes,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_lateness: Duration::seconds(60),
            max_skew: Duration::seconds(5),
            dedup_window: Duration::seconds(600),
            session_idle: Duration::seconds(30 * 60),
            session_retention: Duration::seconds(24 * 3600),
            evidence_limit: 50,
            sessions_in_view: 1_000_000,
            alerts_in_view: 100_000,
            state_memory: Bytes(2 << 30),
        }
    }
}

/// A number of bytes, written with its unit: `KiB`, `MiB` or `GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub usize);

/// Units of [`Bytes`], the largest first.
const BYTE_UNITS: [(&str, usize); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl std::str::FromStr for Bytes {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let with_unit = |&(unit, size): &(&str, usize)| Some((text.strip_suffix(unit)?, size));
        BYTE_UNITS
            .iter()
            .find_map(with_unit)
            .and_then(|(number, size)| number.trim().parse::<usize>().ok()?.checked_mul(size).map(Bytes))
            .ok_or_else(|| {
                format!("\"{text}\" is not an amount of memory: write a whole number and KiB, MiB or GiB, such as \"512MiB\"")
            })
    }
}

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fits = BYTE_UNITS.iter().find(|(_, size)| self.0 >= *size && self.0.is_multiple_of(*size));
        let (unit, size) = fits.unwrap_or(&BYTE_UNITS[2]);
        write!(f, "{}{unit}", self.0 / size)
    }
}

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A duration in microseconds, written as in rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(pub i64);

impl Duration {
    /// From seconds.
    pub const fn seconds(n: i64) -> Self {
        Duration(n * 1_000_000)
    }
}

impl std::str::FromStr for Duration {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        clawdstrike_telemetry::time::parse_duration(text).map(Duration).ok_or_else(|| {
            format!("\"{text}\" is not a duration: write a whole number and s, m, h or d, such as \"90s\"")
        })
    }
}

impl std::fmt::Display for Duration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let s = self.0 / 1_000_000;
        match s {
            _ if s > 0 && s % 86_400 == 0 => write!(f, "{}d", s / 86_400),
            _ if s > 0 && s % 3600 == 0 => write!(f, "{}h", s / 3600),
            _ if s > 0 && s % 60 == 0 => write!(f, "{}m", s / 60),
            _ => write!(f, "{s}s"),
        }
    }
}

impl Serialize for Duration {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where records come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "type", rename_all = "snake_case")]
pub enum Source {
    /// JSON lines.
    Jsonl {
        /// For messages, metrics and positions.
        name: String,
        /// A file, a folder (its `*.jsonl` files in order of names, new ones too), or `-` for standard input.
        path: PathBuf,
        /// Read what is appended later (default), or stop at the end.
        #[serde(default = "yes")]
        follow: bool,
        /// Which clock an event's time comes from.
        #[serde(default)]
        time: TimeFrom,
    },
    /// Apache Kafka.
    Kafka {
        /// For messages, metrics and positions.
        name: String,
        /// `host:port`, separated by commas.
        brokers: String,
        /// Topics, all partitions of each.
        #[serde(default = "default_topics")]
        topics: Vec<String>,
        /// The consumer group whose offsets tell the lag.
        #[serde(default = "default_group")]
        group: String,
        /// Further librdkafka settings (TLS, SASL, ...), passed on as they are. A value `env:NAME` or `file:PATH` is read
        /// from there.
        #[serde(default)]
        settings: BTreeMap<String, String>,
        /// What to do when the topic no longer has what is to be read next.
        #[serde(default)]
        on_lost_records: OnLost,
        /// Which clock an event's time comes from.
        #[serde(default)]
        time: TimeFrom,
    },
}

fn yes() -> bool {
    true
}
fn default_topics() -> Vec<String> {
    vec!["agent.events".into(), "agent.violations".into()]
}
fn default_group() -> String {
    "clawdstrike-edr".into()
}

impl Source {
    /// The source's name.
    pub fn name(&self) -> &str {
        match self {
            Source::Jsonl { name, .. } | Source::Kafka { name, .. } => name,
        }
    }

    /// Which clock an event's time comes from.
    pub fn time(&self) -> TimeFrom {
        match self {
            Source::Jsonl { time, .. } | Source::Kafka { time, .. } => *time,
        }
    }
}

/// What to do when retention has deleted what is to be read next, or the topic was made anew. Both tell it as an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLost {
    /// Go on with the oldest record that is there: what can be seen is watched.
    #[default]
    Skip,
    /// Stop the cluster, until somebody has decided.
    Fail,
}

/// Which clock an event's time comes from (SPEC §3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeFrom {
    /// The event's `timestamp`, if it lies near the reference time.
    #[default]
    Event,
    /// Always the reference time; events are ordered by position.
    Reference,
}

/// The least memory for groups that a configuration may ask for.
const LEAST_STATE: Bytes = Bytes(64 << 20);

/// Most processes or threads that a configuration may ask for.
const MAX_WORKERS: usize = 1024;

impl Config {
    /// Reads and checks a file. Relative paths in it are relative to its folder.
    pub fn load(path: &Path) -> Result<Config, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| format!("configuration \"{}\": {e}; `clawdstrike-edr init` writes one", path.display()))?;
        let mut config = Config::parse(&text).map_err(|e| format!("configuration \"{}\": {e}", path.display()))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        config.resolve_paths(folder);
        Ok(config)
    }

    /// Parses and checks a configuration's text.
    pub fn parse(text: &str) -> Result<Config, String> {
        let config: Config = toml::from_str(text).map_err(|e| e.to_string())?;
        config.check()?;
        Ok(config)
    }

    /// Workers of all processes.
    pub fn workers(&self) -> usize {
        self.cluster.processes * self.cluster.threads
    }

    /// Where checkpoints are, unless in a bucket.
    pub fn checkpoint_folder(&self) -> PathBuf {
        self.cluster.state.join("checkpoint")
    }

    fn resolve_paths(&mut self, folder: &Path) {
        let join = |p: &mut PathBuf| {
            if p.as_os_str() != "-" {
                *p = folder.join(&*p);
            }
        };
        join(&mut self.cluster.state);
        join(&mut self.rules.path);
        for source in &mut self.sources {
            if let Source::Jsonl { path, .. } = source {
                join(path);
            }
        }
        match &mut self.store {
            Store::Sqlite { path, .. } | Store::Postgres { sslrootcert: Some(path), .. } => join(path),
            _ => {}
        }
        if let Some(tls) = &mut self.api.tls {
            join(&mut tls.cert);
            join(&mut tls.key);
        }
    }

    fn check(&self) -> Result<(), String> {
        let cluster = &self.cluster;
        if cluster.processes == 0 || cluster.threads == 0 || self.workers() > MAX_WORKERS {
            return Err(format!(
                "[cluster] asks for {} processes of {} threads: both must be at least 1, and their product at most {MAX_WORKERS}",
                cluster.processes, cluster.threads
            ));
        }
        if !cluster.addresses.is_empty() && cluster.addresses.len() != cluster.processes {
            return Err(format!(
                "[cluster] has {} addresses for {} processes: give one `host:port` for each, or none",
                cluster.addresses.len(),
                cluster.processes
            ));
        }
        let limits = &self.limits;
        if limits.dedup_window < limits.max_lateness {
            return Err(format!(
                "[limits] dedup_window ({}) is less than max_lateness ({}): a late copy would count twice; raise dedup_window",
                limits.dedup_window, limits.max_lateness
            ));
        }
        if limits.evidence_limit < 2 {
            return Err("[limits] evidence_limit must be at least 2: the first event and the latest".into());
        }
        if limits.state_memory < LEAST_STATE {
            return Err(format!(
                "[limits] state_memory ({}) is less than {LEAST_STATE}: the engine could keep hardly anything",
                limits.state_memory
            ));
        }
        if self.checkpoint.every.0 <= 0 {
            return Err("[checkpoint] every must be at least \"1s\"".into());
        }
        self.checkpoint.bucket()?;
        let mut names = std::collections::BTreeSet::new();
        for source in &self.sources {
            if !names.insert(source.name()) {
                return Err(format!(
                    "two sources are named \"{}\": positions are kept by name, so names must differ",
                    source.name()
                ));
            }
        }
        self.store.check()?;
        self.response.check(&self.api)?;
        self.api.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_unknown_keys_by_name() {
        let error = Config::parse("[cluster]\nprocceses = 2\n").unwrap_err();
        assert!(error.contains("procceses"), "{error}");
    }

    #[test]
    fn refuses_a_dedup_window_below_the_lateness() {
        let error = Config::parse("[limits]\nmax_lateness = \"1h\"\n").unwrap_err();
        assert!(error.contains("dedup_window (10m)"), "{error}");
    }

    #[test]
    fn amounts_of_memory_have_a_unit() {
        let limits = |text: &str| Config::parse(&format!("[limits]\nstate_memory = {text}\n")).map(|c| c.limits);
        assert_eq!(limits("\"512MiB\"").unwrap().state_memory.0, 512 << 20);
        for bytes in [Bytes(2 << 30), Bytes(1536 << 20), Bytes(3 << 10)] {
            assert_eq!(bytes.to_string().parse(), Ok(bytes));
        }
        for (wrong, why) in [("\"512\"", "512MiB"), ("\"x GiB\"", "x GiB"), ("\"1MiB\"", "less than 64MiB")] {
            let error = limits(wrong).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_url_for_checkpoints_names_a_bucket_and_no_secret() {
        let bucket = |url: &str| Config::parse(&format!("[checkpoint]\nurl = \"{url}\"\n"))?.checkpoint.bucket();
        let named = |name: &str, prefix: &str| Ok(Some(Bucket { name: name.into(), prefix: prefix.into() }));
        assert_eq!(bucket("s3://b-1/edr/eu"), named("b-1", "edr/eu"));
        assert_eq!(bucket("s3://b.x/edr/"), named("b.x", "edr"));
        assert_eq!(bucket("s3://b"), named("b", ""));
        assert_eq!(bucket("s3://b/"), named("b", ""));
        for wrong in
            ["", "s3://", "s3:///x", "b/x", "https://b/x", "s3://b//x", "s3://b/../x", "s3://b/x?y", "s3://b/ä"]
        {
            let error = bucket(wrong).unwrap_err();
            assert!(error.contains("[checkpoint] url") && error.contains("s3://bucket/prefix"), "{wrong}: {error}");
        }
        let error = bucket("s3://AKIA:s3cret@b/x").unwrap_err();
        assert!(!error.contains("AKIA") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn refuses_anonymous_access_from_outside() {
        let error = Config::parse("[api]\nlisten = \"0.0.0.0:1\"\nallow_anonymous = true\n").unwrap_err();
        assert!(error.contains("loopback"), "{error}");
    }

    #[test]
    fn other_machines_get_no_plain_text_unless_it_is_asked_for() {
        let listen = |more: &str| Config::parse(&format!("[api]\nlisten = \"0.0.0.0:1\"\n{more}"));
        assert!(listen("").is_err_and(|e| e.contains("[api.tls]") && e.contains("plain_http")));
        assert!(listen("plain_http = true\n").is_ok());
        assert!(listen("[api.tls]\ncert = \"c\"\nkey = \"k\"\n").is_ok());
        assert!(listen("[api.tls]\ncert = \"c\"\n").is_err_and(|e| e.contains("key")));
    }

    #[test]
    fn an_issuer_is_named_whole_and_its_keys_come_over_tls() {
        let issuer = |url: &str, audience: &str| {
            Config::parse(&format!(
                "[api.oidc]\nissuer = \"https://i\"\naudience = \"{audience}\"\njwks_url = \"{url}\"\n"
            ))
        };
        assert!(issuer("https://i/jwks", "edr").is_ok_and(|c| c.api.oidc.is_some_and(|o| o.role_claim == "roles")));
        assert!(issuer("http://127.0.0.1:1/jwks", "edr").is_ok());
        for wrong in ["http://i/jwks", "http://localhost.example/jwks", "i/jwks", "file:///jwks"] {
            assert!(issuer(wrong, "edr").is_err_and(|e| e.contains("jwks_url") && e.contains(wrong)), "{wrong}");
        }
        assert!(issuer("https://i/jwks", "").is_err_and(|e| e.contains("audience")));
    }

    #[test]
    fn reads_both_kinds_of_source() {
        let config = Config::parse(
            "[[source]]\ntype = \"jsonl\"\nname = \"a\"\npath = \"x\"\n[[source]]\ntype = \"kafka\"\nname = \"b\"\nbrokers = \"h:1\"\n",
        )
        .unwrap();
        assert_eq!(config.sources.len(), 2);
        assert!(matches!(&config.sources[1], Source::Kafka { topics, .. } if topics.len() == 2));
    }
}
