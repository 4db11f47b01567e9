//! A node of a cluster: broker and controller in one, and what it is told. Knows no topic.

use std::path::Path;

use super::CLUSTER_ID;
use super::secure::Secure;
use crate::files::told;
use crate::port::Port;

/// Nodes are numbered from 1, by one digit.
pub(super) const MOST_NODES: usize = 9;

/// A node, before it starts and after.
pub(super) struct Node {
    pub(super) number: usize,
    pub(super) port: Port,
    controller: Port,
}

impl Node {
    /// The nodes of one cluster.
    pub(super) fn all(count: usize) -> Result<Vec<Node>, String> {
        if !(1..=MOST_NODES).contains(&count) {
            return Err(format!("a cluster of {count} brokers: from 1 to {MOST_NODES} are possible"));
        }
        (1..=count).map(|number| Ok(Node { number, port: Port::claim()?, controller: Port::claim()? })).collect()
    }

    /// As every node is told of it.
    pub(super) fn voter(&self) -> String {
        format!("{}@127.0.0.1:{}", self.number, self.controller.number())
    }

    /// Makes a copy of the formatted folder this node's own.
    pub(super) fn own(&self, data: &Path) -> Result<(), String> {
        let path = data.join("meta.properties");
        let number = self.number;
        // Any 16 bytes in base64 are an id of a folder, if no other node has them.
        let text = format!(
            "version=1\ncluster.id={CLUSTER_ID}\nnode.id={number}\ndirectory.id={number}2xhd2RzdHJpa2VfZGlyXw\n"
        );
        std::fs::write(&path, text).map_err(|e| told("write", &path, &e))
    }

    /// Its properties. Every topic is on each of the `voters`; internal topics with one partition start sooner.
    pub(super) fn properties(&self, voters: &[String], data: &Path, secure: Option<&Secure>) -> String {
        let listeners = secure.map(Secure::listeners).unwrap_or_default();
        let (broker, controller) = (self.port.number(), self.controller.number());
        format!(
            "process.roles=broker,controller
node.id={}
controller.quorum.voters={}
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}{listeners}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}{listeners}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SSL:SSL,MUTUAL:SSL,SASL_SSL:SASL_SSL
inter.broker.listener.name=PLAINTEXT
log.dirs={}
num.partitions=1
default.replication.factor={replicas}
auto.create.topics.enable=true
offsets.topic.replication.factor={replicas}
offsets.topic.num.partitions=1
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=8388608
log.cleaner.backoff.ms=200
",
            self.number,
            voters.join(","),
            data.display(),
            replicas = voters.len(),
        )
    }
}
