//! From the configuration to librdkafka's settings: what the engine needs, what makes reading fast, and what the user
//! passes on. Values that are secrets are never shown.

use std::path::Path;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;

use super::{Consumer, Context, MAX_TOPICS};
use crate::config::{OnLost, Source};

/// The engine's own: it keeps count of what is read, and nothing may be skipped in silence.
const OWN: [(&str, &str); 4] = [
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("enable.partition.eof", "true"),
    ("auto.offset.reset", "error"),
];
/// Named by the source's own keys, or of no use without a group protocol.
const ELSEWHERE: [&str; 3] = ["bootstrap.servers", "metadata.broker.list", "group.id"];
/// What may be set otherwise. The client holds at most 32 MiB of records (and one fetch more) that haven't been taken;
/// when there is room again it asks after 10 ms instead of a second.
const DEFAULTS: [(&str, &str); 5] = [
    ("client.id", "clawdstrike-edr"),
    ("isolation.level", "read_committed"),
    ("queued.max.messages.kbytes", "32768"),
    ("fetch.message.max.bytes", "4194304"),
    ("fetch.queue.backoff.ms", "10"),
];
/// Ends of the names of settings whose values are secrets: these come from elsewhere only.
const SECRET: [&str; 6] =
    ["password", "secret", "passphrase", "key.pem", "sasl.oauthbearer.config", "sasl.jaas.config"];
/// librdkafka's name for how often it looks for new partitions; the engine does so just as often.
const METADATA_EVERY: &str = "topic.metadata.refresh.interval.ms";
const METADATA_EVERY_MS: u64 = 5000;
/// A secret's file is no larger.
const MAX_SECRET: u64 = 64 * 1024;

/// A source's settings, checked as far as that goes without librdkafka.
pub(super) struct Resolved {
    pub(super) name: String,
    pub(super) topics: Vec<String>,
    pub(super) metadata_every: Duration,
    pub(super) on_lost: OnLost,
    settings: ClientConfig,
    /// Settings whose values come from the environment or a file.
    secrets: Vec<String>,
}

/// Reads a source's configuration.
///
/// # Errors
/// What is wrong with it, with the source's name and the way out.
pub(super) fn resolve(config: &Source) -> Result<Resolved, String> {
    let Source::Kafka { name, brokers, topics, group, settings, on_lost_records, .. } = config else {
        return Err(format!("source \"{}\" is not of type kafka", config.name()));
    };
    let wrong = |text: String| format!("source \"{name}\": {text}");
    if brokers.trim().is_empty() {
        return Err(wrong("\"brokers\" is empty: give `host:port`".into()));
    }
    if group.is_empty() {
        return Err(wrong("\"group\" is empty: give the group a name".into()));
    }
    check_topics(topics).map_err(wrong)?;
    let mut resolved = Resolved {
        name: name.clone(),
        topics: topics.clone(),
        metadata_every: Duration::from_millis(METADATA_EVERY_MS),
        on_lost: *on_lost_records,
        settings: ClientConfig::new(),
        secrets: Vec::new(),
    };
    let all = &mut resolved.settings;
    all.set_log_level(RDKafkaLogLevel::Info);
    all.extend(DEFAULTS.map(|(key, value)| (key.into(), value.into())));
    for (key, value) in settings {
        if OWN.iter().any(|(own, _)| own == key) || ELSEWHERE.contains(&key.as_str()) {
            return Err(wrong(format!(
                "setting \"{key}\" is the engine's own; take it out (brokers and group have keys of their own, and \
                 kafka-consumer-groups --reset-offsets moves where a stopped engine begins)"
            )));
        }
        let (plain, secret) = plain(value).map_err(|e| wrong(format!("setting \"{key}\": {e}")))?;
        if key == METADATA_EVERY {
            let millis: u64 =
                plain.parse().map_err(|_| wrong(format!("setting \"{key}\" is \"{plain}\": give milliseconds")))?;
            resolved.metadata_every = Duration::from_millis(millis.max(1));
        }
        if secret {
            resolved.secrets.push(key.clone());
        } else if SECRET.iter().any(|end| key.ends_with(end)) {
            return Err(wrong(format!(
                "setting \"{key}\" is a secret, and secrets don't stand in the configuration: write \"env:NAME\" or \"file:PATH\", \
                 the environment variable or file that holds it"
            )));
        }
        all.set(key, plain);
    }
    all.extend(OWN.map(|(key, value)| (key.into(), value.into())));
    all.set("bootstrap.servers", brokers);
    all.set("group.id", group);
    Ok(resolved)
}

fn check_topics(topics: &[String]) -> Result<(), String> {
    if topics.is_empty() {
        return Err("\"topics\" is empty: name at least one".into());
    }
    if topics.len() > MAX_TOPICS {
        return Err(format!(
            "{} topics, and at most {MAX_TOPICS} are possible: make two sources of them",
            topics.len()
        ));
    }
    for (place, topic) in topics.iter().enumerate() {
        if topic.is_empty() || topic.contains('\0') {
            return Err(format!("\"{}\" is no topic's name", topic.escape_debug()));
        }
        if topics[..place].contains(topic) {
            return Err(format!("topic \"{topic}\" is named twice: once is enough"));
        }
    }
    Ok(())
}

/// A setting's value, and whether it came from elsewhere.
fn plain(value: &str) -> Result<(String, bool), String> {
    if let Some(variable) = value.strip_prefix("env:") {
        let secret = std::env::var(variable)
            .map_err(|e| format!("environment variable \"{variable}\": {e}; set it where the engine starts"))?;
        return Ok((secret, true));
    }
    let Some(path) = value.strip_prefix("file:") else {
        return Ok((value.into(), false));
    };
    let path = Path::new(path);
    let secret =
        read_secret(path).map_err(|e| format!("file \"{}\": {e}; check the path and its rights", path.display()))?;
    Ok((secret, true))
}

fn read_secret(path: &Path) -> Result<String, String> {
    let length = path.metadata().map_err(|e| e.to_string())?.len();
    if length > MAX_SECRET {
        return Err(format!("{length} bytes, and a secret has at most {MAX_SECRET}"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    Ok(text.trim_end_matches(['\r', '\n']).into())
}

impl Resolved {
    /// Makes the client. Doesn't wait for a broker.
    ///
    /// # Errors
    /// librdkafka doesn't know a setting or doesn't take its value.
    pub(super) fn create(&self, context: Context) -> Result<Consumer, String> {
        Consumer::from_config_and_context(&self.settings, context).map_err(|e| self.refused(&e))
    }

    /// Makes a client that asks for what topics are set to.
    ///
    /// # Errors
    /// As [`Resolved::create`].
    pub(super) fn admin(&self, context: Context) -> Result<AdminClient<Context>, String> {
        self.settings.create_with_context(context).map_err(|e| self.refused(&e))
    }

    fn refused(&self, error: &KafkaError) -> String {
        let name = &self.name;
        let see = "see librdkafka's CONFIGURATION.md";
        match error {
            KafkaError::ClientConfig(_, _, key, _) if self.secrets.contains(key) => {
                format!("source \"{name}\": setting \"{key}\" or its value is not taken; {see}")
            }
            KafkaError::ClientConfig(_, text, key, _) => {
                format!("source \"{name}\": setting \"{key}\": {text}; {see}")
            }
            other => format!("source \"{name}\": the settings don't fit together: {other}; {see}"),
        }
    }
}
