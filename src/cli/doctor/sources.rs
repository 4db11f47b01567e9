//! Sources: do they answer, may they be read, and whose clock do their events have.

use std::fs::File;
use std::path::Path;

use super::finding::{Finding, clock};
use crate::config::{Config, OnLost, Source};
use crate::source::{TopicState, inspect_kafka};
use crate::wall_clock;

/// Files of a folder that are tried.
const TRIED: usize = 1_000;

/// All sources, in their order.
pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in &config.sources {
        let part = format!("source {}", source.name());
        match source {
            Source::Jsonl { path, follow, .. } => findings.extend(lines(&part, path, *follow)),
            Source::Kafka { on_lost_records, .. } => match inspect_kafka(source).await {
                Ok(topics) => topics.iter().for_each(|t| findings.extend(topic(&part, t, *on_lost_records))),
                Err(error) => findings.push(Finding::error(
                    part,
                    error,
                    "start a broker, or correct \"brokers\" and [source.settings]; until it answers the engine waits",
                )),
            },
        }
    }
    findings
}

fn lines(part: &str, path: &Path, follow: bool) -> Vec<Finding> {
    let no_clock = Finding::warning(
        part,
        "files have no trusted clock: a record ahead of its time can re-time those after it",
        "read from a Kafka topic with message.timestamp.type = LogAppendTime where agents may be hostile",
    );
    if path.as_os_str() == "-" {
        return vec![Finding::ok(part, "standard input"), no_clock];
    }
    let shown = path.display();
    let unreadable = |path: &Path, error: std::io::Error| {
        let seen = format!("\"{}\" can't be read: {error}", path.display());
        Finding::error(part, seen, "let the engine's user read it, or correct \"path\"")
    };
    if !path.exists() {
        let seen = format!("\"{shown}\" isn't there");
        return vec![match follow {
            true => {
                Finding::warning(part, format!("{seen}; the engine waits for it"), "correct \"path\", if it is wrong")
            }
            false => Finding::error(part, seen, "correct \"path\""),
        }];
    }
    let files = match path.is_dir() {
        false => vec![path.to_path_buf()],
        true => match std::fs::read_dir(path) {
            Ok(entries) => entries
                .filter_map(|e| Some(e.ok()?.path()))
                .filter(|p| p.extension().is_some_and(|e| e == "jsonl"))
                .take(TRIED)
                .collect(),
            Err(error) => return vec![unreadable(path, error)],
        },
    };
    // Opening a pipe waits for its writer.
    let failed = files.iter().filter(|f| f.is_file()).find_map(|f| File::open(f).err().map(|e| unreadable(f, e)));
    match failed {
        Some(finding) => vec![finding],
        None => vec![Finding::ok(part, format!("\"{shown}\": {} files can be read", files.len())), no_clock],
    }
}

fn topic(part: &str, topic: &TopicState, on_lost: OnLost) -> Vec<Finding> {
    let name = &topic.name;
    if topic.partitions == 0 {
        let seen = format!("there is no topic \"{name}\"; the engine waits for it");
        return vec![Finding::warning(part, seen, "create it, or correct \"topics\"")];
    }
    let seen = format!("topic \"{name}\": {} partitions, {} offsets to read", topic.partitions, topic.lag);
    let mut findings = vec![Finding::ok(part, seen)];
    if topic.leaderless > 0 {
        let seen = format!("topic \"{name}\": {} partitions have no leader and can't be read", topic.leaderless);
        findings.push(Finding::error(part, seen, "start the brokers that have them"));
    }
    if topic.silent > 0 {
        let seen = format!("topic \"{name}\": the leaders of {} partitions don't answer", topic.silent);
        findings.push(Finding::error(
            part,
            seen,
            "start those brokers, and let their advertised addresses be reachable from here",
        ));
    }
    findings.push(timestamps(part, topic));
    if topic.lost > 0 {
        let seen = format!("topic \"{name}\": {} offsets that the group hasn't read are gone", topic.lost);
        findings.push(match on_lost {
            OnLost::Skip => Finding::warning(
                part,
                format!("{seen}; the engine goes on behind them"),
                "give the topic a longer retention.ms, so that a pause of the engine loses nothing",
            ),
            OnLost::Fail => Finding::error(
                part,
                format!("{seen}; the engine won't start"),
                "on_lost_records = \"skip\" goes on behind them; so does kafka-consumer-groups --reset-offsets",
            ),
        });
    }
    if let Some(newest) = topic.newest {
        // Of an old record nothing can be said but that the broker's clock isn't behind by more than its age.
        let ahead = newest - wall_clock::now();
        findings.extend((ahead > 0).then(|| clock(part, "the broker's", ahead)).flatten());
    }
    findings
}

fn timestamps(part: &str, topic: &TopicState) -> Finding {
    let name = &topic.name;
    let alter = format!(
        "kafka-configs --alter --entity-type topics --entity-name {name} --add-config message.timestamp.type=LogAppendTime"
    );
    match &topic.timestamps {
        Ok(kind) if kind == "LogAppendTime" => {
            Finding::ok(part, format!("topic \"{name}\" has LogAppendTime: no agent's clock can move event time"))
        }
        Ok(kind) => Finding::warning(
            part,
            format!(
                "topic \"{name}\" has {kind}: no trusted clock, so a record ahead of its time can re-time those after it"
            ),
            alter,
        ),
        Err(error) => Finding::warning(
            part,
            format!("topic \"{name}\" doesn't say whose clock its records have: {error}"),
            "let the engine's user describe the topic's configuration (DescribeConfigs)",
        ),
    }
}
