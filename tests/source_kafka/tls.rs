//! TLS and SASL against a real broker: what fits reads, what doesn't says why.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use clawdstrike_edr::config::Source;
use clawdstrike_edr::source::{StartAt, TopicState, inspect_kafka, start};
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
    let reason = inspected(&source).unwrap_err();
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

/// `[source.settings]` for the listener that asks clients for a certificate.
fn mutual(certificate: Option<&(PathBuf, PathBuf)>) -> Vec<(&'static str, String)> {
    let mut settings = vec![("security.protocol", "SSL".to_owned()), ("ssl.ca.location", text(&broker().ca()))];
    if let Some((certificate, key)) = certificate {
        settings.extend([("ssl.certificate.location", text(certificate)), ("ssl.key.location", text(key))]);
    }
    settings
}

fn with_certificate(topic: &str, certificate: Option<&(PathBuf, PathBuf)>) -> Source {
    let settings = mutual(certificate);
    let settings: Vec<(&str, &str)> = settings.iter().map(|(k, v)| (*k, v.as_str())).collect();
    source(broker().mutual_bootstrap(), topic, &settings)
}

fn inspected(source: &Source) -> Result<Vec<TopicState>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(inspect_kafka(source))
}

#[test]
fn reads_with_a_certificate_where_clients_must_have_one() {
    let topic = filled();
    let source = with_certificate(&topic, Some(&broker().client()));
    reads(&source);
    assert_eq!(inspected(&source).unwrap()[0].lag, 100);
}

#[test]
fn a_client_without_the_certificate_that_is_wanted_is_told_which_settings_name_one() {
    let stranger = broker().stranger();
    for certificate in [None, Some(&stranger)] {
        let source = with_certificate("t", certificate);
        let told = [refused(&source, "ssl.certificate.location"), inspected(&source).unwrap_err()];
        for reason in told {
            for word in ["alert", "ssl.certificate.location", "ssl.key.location"] {
                assert!(reason.contains(word), "{word}: {reason}");
            }
        }
    }
}

#[test]
fn the_doctor_names_the_missing_certificate() {
    let folder = TempDir::new().unwrap();
    std::fs::create_dir(folder.path().join("rules")).unwrap();
    let settings: Vec<String> = mutual(None).iter().map(|(k, v)| format!("\"{k}\" = \"{v}\"")).collect();
    let config = format!(
        "[[source]]\ntype = \"kafka\"\nname = \"stream\"\nbrokers = \"{}\"\n[source.settings]\n{}\n",
        broker().mutual_bootstrap(),
        settings.join("\n")
    );
    std::fs::write(folder.path().join("workers.toml"), config).unwrap();
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_clawdstrike-edr"));
    let out = doctor.args(["doctor", "--output", "json", "--config"]).arg(folder.path().join("workers.toml")).output();
    let out = out.unwrap();
    let document: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let finding = document["findings"].as_array().unwrap().iter().find(|f| f["part"] == "source stream").unwrap();
    assert_eq!((out.status.code(), finding["level"].as_str()), (Some(1), Some("error")), "{document:#}");
    let seen = finding["seen"].as_str().unwrap();
    assert!(seen.contains("certificate") && seen.contains("ssl.key.location"), "{finding:#}");
    assert!(finding["way_out"].as_str().unwrap().contains("[source.settings]"), "{finding:#}");
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
