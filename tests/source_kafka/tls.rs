//! TLS and SASL against a real broker: what fits reads, what doesn't says why.

use std::path::Path;
use std::sync::OnceLock;

use clawdstrike_edr::config::Source;
use clawdstrike_edr::source::{StartAt, inspect_kafka, start};
use clawdstrike_test_services::{SecureKafka, kafka_secure};
use tempfile::TempDir;

use crate::source::Workers;
use crate::{expected, fresh, produce};

fn broker() -> &'static SecureKafka {
    static BROKER: OnceLock<SecureKafka> = OnceLock::new();
    BROKER.get_or_init(|| kafka_secure().unwrap())
}

fn source(brokers: String, topic: &str, settings: &[(&str, &str)]) -> Source {
    let settings: Vec<String> = settings.iter().map(|(k, v)| format!("\"{k}\" = \"{v}\"")).collect();
    let text = format!(
        "[[source]]\ntype = \"kafka\"\nname = \"stream\"\nbrokers = \"{brokers}\"\ntopics = [\"{topic}\"]\n[source.settings]\n{}",
        settings.join("\n")
    );
    clawdstrike_edr::config::Config::parse(&text).unwrap().sources.remove(0)
}

/// A topic with hundred records, kept with zstd.
fn filled() -> String {
    let name = fresh("topic");
    broker().plain.create_topic(&name, 1, &[("compression.type", "zstd")]).unwrap();
    produce(&broker().plain, &name, 1, "a", 100);
    name
}

fn reads(source: &Source) {
    let mut workers = Workers::new(0, 1, 1);
    let reader = start(0, source, workers.inboxes.clone(), StartAt::Committed).unwrap();
    let seen = workers.until("all records", |seen| seen.count() == 100 && seen.all_caught_up());
    assert_eq!(seen.sorted(), expected("a", 100));
    reader.stop();
}

/// Why nothing can be read.
fn refused(source: &Source, word: &str) -> String {
    let mut workers = Workers::new(0, 1, 1);
    let reader = start(0, source, workers.inboxes.clone(), StartAt::Committed).unwrap();
    let told = |reason: &Option<String>| reason.as_ref().is_some_and(|r| r.contains(word));
    let seen = workers.until(&format!("a reason with \"{word}\""), |seen| told(&seen.degraded));
    let reason = seen.degraded.clone().unwrap();
    assert_eq!(seen.count(), 0);
    reader.stop();
    reason
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[test]
fn reads_over_tls_what_is_compressed_with_zstd() {
    let ca = text(&broker().ca());
    reads(&source(broker().tls_bootstrap(), &filled(), &[("security.protocol", "SSL"), ("ssl.ca.location", &ca)]));
}

#[test]
fn a_broker_whose_certificate_is_not_trusted_is_told_with_the_setting_that_says_whom_to_trust() {
    let ca = text(&broker().other_ca());
    let settings = [("security.protocol", "SSL"), ("ssl.ca.location", ca.as_str())];
    let source = source(broker().tls_bootstrap(), "t", &settings);
    let reason = refused(&source, "certificate verify failed");
    assert!(reason.contains("ssl.ca.location"), "{reason}");
    // And so it is when it is only looked at.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let reason = runtime.block_on(inspect_kafka(&source)).unwrap_err();
    assert!(reason.contains("certificate verify failed"), "{reason}");
}

#[test]
fn a_certificate_file_that_is_not_there_is_refused_at_the_start() {
    let workers = Workers::new(0, 1, 1);
    let settings = [("security.protocol", "SSL"), ("ssl.ca.location", "/no/such/ca.pem")];
    let source = source(broker().tls_bootstrap(), "t", &settings);
    let error = start(0, &source, workers.inboxes.clone(), StartAt::Committed).err().unwrap();
    assert!(error.contains("source \"stream\"") && error.contains("ssl.ca.location"), "{error}");
}

#[test]
fn passwords_come_from_files_and_wrong_ones_are_told() {
    let folder = TempDir::new().unwrap();
    let (right, wrong) = (folder.path().join("right"), folder.path().join("wrong"));
    std::fs::write(&right, SecureKafka::PASSWORD).unwrap();
    std::fs::write(&wrong, "n0t-it").unwrap();
    let (right, wrong) = (format!("file:{}", right.display()), format!("file:{}", wrong.display()));
    let ca = text(&broker().ca());
    let topic = filled();
    for mechanism in ["PLAIN", "SCRAM-SHA-512"] {
        let with = |password: &str| {
            let settings = [
                ("security.protocol", "SASL_SSL"),
                ("ssl.ca.location", ca.as_str()),
                ("sasl.mechanism", mechanism),
                ("sasl.username", SecureKafka::USER),
                ("sasl.password", password),
            ];
            source(broker().sasl_bootstrap(), &topic, &settings)
        };
        reads(&with(&right));
        let reason = refused(&with(&wrong), "uthentication");
        assert!(!reason.contains("n0t-it"), "{reason}");
    }
}

#[test]
fn a_plain_client_at_a_port_with_tls_is_told_which_setting_to_look_at() {
    refused(&source(broker().tls_bootstrap(), "t", &[]), "security.protocol");
}

#[test]
fn secrets_in_plain_are_refused() {
    let workers = Workers::new(0, 1, 1);
    for key in ["sasl.password", "ssl.key.password", "ssl.keystore.password", "ssl.key.pem"] {
        let source = source("127.0.0.1:9".into(), "t", &[(key, "hush-hush")]);
        let error = start(0, &source, workers.inboxes.clone(), StartAt::Committed).err().unwrap();
        assert!(error.contains(key) && error.contains("env:") && !error.contains("hush"), "{error}");
    }
}
