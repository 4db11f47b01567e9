//! Who leads partitions, and moving that from broker to broker by Kafka's own tools.

use std::time::{Duration, Instant};

use super::{Kafka, wire};
use crate::files::told;
use crate::process::POLL;

/// How long until partitions have the leaders that they should have.
const LEADER_DEADLINE: Duration = Duration::from_secs(60);

impl Kafka {
    /// The number of the broker that leads each partition of a topic, by what this broker knows; `None`: nobody.
    ///
    /// # Errors
    /// If the broker isn't running.
    pub fn leaders(&self, topic: &str) -> Result<Vec<Option<usize>>, String> {
        wire::leaders(self.port(), topic)
    }

    /// Moves the leaders of a topic's partitions, of which the first goes to the first of these brokers and so on, and
    /// waits until they are there: each partition's replicas get a new order, and its first one is elected.
    ///
    /// # Errors
    /// If a broker isn't in sync, or this one isn't running.
    pub fn move_leaders(&self, topic: &str, to: &[usize]) -> Result<(), String> {
        self.reassign(topic, to)
            .and_then(|()| self.elect_preferred(topic, to.len()))
            .and_then(|()| self.await_leaders(topic, |leaders| leaders.iter().flatten().eq(to)))
            .map_err(|e| format!("can't move leaders of topic \"{topic}\" to {to:?}: {e}"))
    }

    fn reassign(&self, topic: &str, to: &[usize]) -> Result<(), String> {
        let replicas = |first: usize| {
            let others = (1..=self.brokers).filter(|n| *n != first);
            let all: Vec<String> = std::iter::once(first).chain(others).map(|n| n.to_string()).collect();
            all.join(", ")
        };
        let partition = |(n, first): (usize, &usize)| {
            format!(r#"{{"topic": "{topic}", "partition": {n}, "replicas": [{}]}}"#, replicas(*first))
        };
        let partitions: Vec<String> = to.iter().enumerate().map(partition).collect();
        let text = format!(r#"{{"version": 1, "partitions": [{}]}}"#, partitions.join(", "));
        self.tool_with_file(
            "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
            &["--execute"],
            "--reassignment-json-file",
            &text,
        )
        .map(drop)
    }

    fn elect_preferred(&self, topic: &str, partitions: usize) -> Result<(), String> {
        let partition = |n| format!(r#"{{"topic": "{topic}", "partition": {n}}}"#);
        let partitions: Vec<String> = (0..partitions).map(partition).collect();
        let text = format!(r#"{{"partitions": [{}]}}"#, partitions.join(", "));
        let arguments = ["--election-type", "preferred"];
        self.tool_with_file("org.apache.kafka.tools.LeaderElectionCommand", &arguments, "--path-to-json-file", &text)
            .map(drop)
    }

    /// Runs one of Kafka's tools that reads what to do in a file.
    fn tool_with_file(&self, class: &str, arguments: &[&str], option: &str, text: &str) -> Result<String, String> {
        let file = self.server.folder().path().join("todo.json");
        std::fs::write(&file, text).map_err(|e| told("write", &file, &e))?;
        let (bootstrap, path) = (self.bootstrap(), file.to_string_lossy());
        let all = ["--bootstrap-server", bootstrap.as_str(), option, &path];
        self.tool(class, &all.into_iter().chain(arguments.iter().copied()).collect::<Vec<_>>(), "")
    }

    /// Waits until so many partitions have a leader.
    pub(super) fn await_led(&self, topic: &str, partitions: u32) -> Result<(), String> {
        self.await_leaders(topic, |leaders| leaders.iter().flatten().count() >= partitions as usize)
    }

    fn await_leaders(&self, topic: &str, enough: impl Fn(&[Option<usize>]) -> bool) -> Result<(), String> {
        let until = Instant::now() + LEADER_DEADLINE;
        loop {
            let leaders = self.leaders(topic)?;
            if enough(&leaders) {
                return Ok(());
            }
            if Instant::now() >= until {
                let seconds = LEADER_DEADLINE.as_secs();
                return Err(format!("after {seconds} s the partitions' leaders are {leaders:?}"));
            }
            std::thread::sleep(POLL);
        }
    }
}
