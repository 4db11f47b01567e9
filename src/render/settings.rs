//! What the dataflow is told once, at its start.

use serde::{Deserialize, Serialize};

use super::ingest::EPOCH_RECORDS;
use crate::config::{Config, Limits};
use crate::session::RiskWeights;

/// Limits, in microseconds where they are durations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// How late an event may be and keep its own time.
    pub max_lateness: i64,
    /// How far ahead of the reference time a clock may be.
    pub max_skew: i64,
    /// How long copies are recognised.
    pub dedup_window: i64,
    /// A session without an event for so long is idle.
    pub session_idle: i64,
    /// A session without an event for so long leaves the live view.
    pub session_retention: i64,
    /// Events of evidence kept with an alert.
    pub evidence_limit: usize,
    /// Sessions kept in the live view.
    pub sessions_in_view: usize,
    /// Alerts kept in the live view.
    pub alerts_in_view: usize,
    /// Bytes that a worker's groups may hold.
    pub state_memory: usize,
    /// Records that a worker takes into one epoch.
    pub epoch_records: usize,
    /// Weights of the risk score.
    pub risk: RiskWeights,
    /// Zone of allowlist time windows that name none.
    pub zone: String,
    /// Names of the sources, by their place in the configuration, with whether their events are ordered by position.
    pub sources: Vec<SourceInfo>,
}

/// What the dataflow knows of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceInfo {
    /// For evidence and positions.
    pub name: String,
    /// Event time is always the reference time, and events are ordered by position.
    pub by_reference: bool,
}

impl Settings {
    /// From the limits of a configuration, for these sources.
    pub fn new(limits: &Limits, sources: Vec<SourceInfo>) -> Settings {
        Settings {
            max_lateness: limits.max_lateness.0,
            max_skew: limits.max_skew.0,
            dedup_window: limits.dedup_window.0,
            session_idle: limits.session_idle.0,
            session_retention: limits.session_retention.0,
            evidence_limit: limits.evidence_limit,
            sessions_in_view: limits.sessions_in_view,
            alerts_in_view: limits.alerts_in_view,
            state_memory: limits.state_memory.0,
            epoch_records: EPOCH_RECORDS,
            risk: RiskWeights::default(),
            zone: "UTC".into(),
            sources,
        }
    }

    /// From a configuration.
    pub fn from_config(config: &Config) -> Settings {
        let source = |s: &crate::config::Source| SourceInfo {
            name: s.name().to_owned(),
            by_reference: s.time() == crate::config::TimeFrom::Reference,
        };
        Settings {
            risk: config.risk.clone(),
            zone: config.rules.zone.clone(),
            ..Settings::new(&config.limits, config.sources.iter().map(source).collect())
        }
    }

    /// Ranks of the sources' names: positions are ordered by name, whatever the order in the configuration.
    pub fn ranks(&self) -> Vec<u16> {
        let mut order: Vec<usize> = (0..self.sources.len()).collect();
        order.sort_by(|&a, &b| self.sources[a].name.cmp(&self.sources[b].name));
        let mut ranks = vec![0; self.sources.len()];
        for (rank, &source) in order.iter().enumerate() {
            ranks[source] = rank as u16;
        }
        ranks
    }

    /// The name of the source with a rank.
    pub fn name_of_rank(&self, rank: u16) -> &str {
        let mut names: Vec<&str> = self.sources.iter().map(|s| s.name.as_str()).collect();
        names.sort_unstable();
        names.get(usize::from(rank)).copied().unwrap_or("?")
    }
}
