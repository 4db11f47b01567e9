//! Which events the archive keeps where the configuration asks for a share of low-risk ones (`[store.sampling]`).
//!
//! Low-risk is an event that was allowed, that its guard rates as nothing, `info` or `low`, that is no attempt at prompt injection, and that no
//! rule needs. Whether one of these is kept is decided by a hash of its key with the cluster's secret: the same after a
//! restart, and not for an agent to choose. All else is kept.
//!
//! Detection may have read an event while another rule set was in force. So sets that were replaced count for what may
//! have been read before; of more than are remembered, all of that is kept.

use std::collections::VecDeque;
use std::sync::Arc;

use clawdstrike_rules::plan::RuleSet;
use clawdstrike_telemetry::{Event, EventType, Stamp};
use xxhash_rust::xxh3::xxh3_64_with_secret;

use crate::render::needs::Needs;
use crate::render::settings::Settings;

/// Rule sets that are remembered: the one in force, and those before it.
const SETS: usize = 8;
/// By so much a source's clock may be ahead of this machine's, or this machine learn late that a set is in force.
const MARGIN: i64 = 60_000_000;

/// Decides.
pub(super) struct Sampler {
    share: f64,
    secret: Vec<u8>,
    settings: Settings,
    /// The latest last.
    sets: VecDeque<Set>,
    /// What has a reference time up to this is kept: sets that it may have been read under are forgotten.
    unknown_until: i64,
}

struct Set {
    set: Arc<RuleSet>,
    /// `None`: it can't be asked, so it needs everything.
    needs: Option<Needs>,
    /// What has a later reference time was read after it was replaced.
    until: i64,
}

impl Sampler {
    /// Keeps this share of low-risk events, above 0 and below 1; the secret is the cluster's.
    pub(super) fn new(share: f64, secret: Vec<u8>, settings: Settings) -> Sampler {
        Sampler { share, secret, settings, sets: VecDeque::new(), unknown_until: i64::MIN }
    }

    /// This is the rule set in force at this wall time.
    pub(super) fn follow(&mut self, set: &Arc<RuleSet>, now: i64) {
        if let Some(latest) = self.sets.back_mut() {
            if Arc::ptr_eq(&latest.set, set) {
                return;
            }
            latest.until = now.saturating_add(MARGIN);
        }
        let needs = Needs::new(set, &self.secret, &self.settings)
            .map_err(|error| tracing::error!("all events are archived, not a share of them: {error}"));
        self.sets.push_back(Set { set: set.clone(), needs: needs.ok(), until: i64::MAX });
        if self.sets.len() > SETS
            && let Some(forgotten) = self.sets.pop_front()
        {
            self.unknown_until = self.unknown_until.max(forgotten.until);
        }
    }

    /// The share to record with an event that is kept; `None`: it is left out.
    pub(super) fn share(&mut self, event: &Event<'_>, stamp: &Stamp, key: &str) -> Option<f64> {
        if !is_harmless(event) || self.is_needed(event, stamp) {
            return Some(1.0);
        }
        (self.draw(key) < self.share).then_some(self.share)
    }

    fn is_needed(&mut self, event: &Event<'_>, stamp: &Stamp) -> bool {
        let unknown = self.sets.is_empty() || stamp.reference <= self.unknown_until;
        let sets = self.sets.iter_mut().filter(|set| stamp.reference <= set.until);
        unknown || sets.rev().any(|set| set.needs.as_mut().is_none_or(|needs| needs.need(event, stamp.time)))
    }

    /// In [0, 1).
    fn draw(&self, key: &str) -> f64 {
        // 53 bits are a double exactly.
        (xxh3_64_with_secret(key.as_bytes(), &self.secret) >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn is_harmless(event: &Event<'_>) -> bool {
    let rated = matches!(event.severity.as_ref(), "" | "info" | "low");
    event.allowed && rated && event.event_type != EventType::PromptInjectionAttempt
}

#[cfg(test)]
mod tests {
    use clawdstrike_rules::{SourceFile, compile};
    use clawdstrike_telemetry::decode;

    use super::*;
    use crate::config::Limits;

    const SHARE: f64 = 0.25;

    fn sampler() -> Sampler {
        Sampler::new(SHARE, vec![7; 192], Settings::new(&Limits::default(), Vec::new()))
    }

    fn rules(types: &str) -> Arc<RuleSet> {
        let text = format!(
            "rules: [{{id: A, name: n, severity: low, conditions: [{{type: threshold, window: 1m, count: 9, event_type: {types}}}]}}]"
        );
        Arc::new(compile(&[SourceFile { name: "r.yaml".into(), text }]).unwrap_or_else(|e| panic!("{e}")).set)
    }

    fn kept(sampler: &mut Sampler, kind: &str, result: &str, reference: i64) -> Vec<usize> {
        let text = format!(
            r#"{{"agent_id":"a","session_id":"s","timestamp":"2026-01-05T10:00:00Z","event_type":"{kind}","action":{{"target":"t"}},"result":{{{result}}}}}"#
        );
        let event = decode(text.as_bytes()).expect("an event");
        let stamp = Stamp { reference, time: reference, skewed: false };
        (0..4_000).filter(|n| sampler.share(&event, &stamp, &format!("src/0/{n}")).is_some()).collect()
    }

    #[test]
    fn a_share_of_the_harmless_is_kept_and_all_of_the_rest() {
        let mut some = sampler();
        some.follow(&rules("mcp_tool"), 0);
        let sample = kept(&mut some, "file_write", r#""allowed":true,"severity":"Low""#, 5);
        // 1,000 within four standard deviations: the secret decides which.
        assert!((890..1_110).contains(&sample.len()), "{}", sample.len());
        for (kind, result) in [
            ("mcp_tool", r#""allowed":true"#),
            ("file_write", r#""allowed":false"#),
            ("file_write", r#""allowed":true,"severity":"medium""#),
            ("prompt_injection_attempt", r#""allowed":true"#),
        ] {
            assert_eq!(kept(&mut some, kind, result, 5).len(), 4_000, "{kind} {result}");
        }
        let mut again = sampler();
        again.follow(&rules("mcp_tool"), 0);
        assert_eq!(kept(&mut again, "file_write", r#""allowed":true"#, 5), sample, "the same after a restart");
    }

    #[test]
    fn what_may_have_been_read_under_earlier_rules_is_kept_for_them() {
        let mut some = sampler();
        let allowed = r#""allowed":true"#;
        assert_eq!(kept(&mut some, "file_write", allowed, 5).len(), 4_000, "no rules are known yet");
        some.follow(&rules("file_write"), 0);
        some.follow(&rules("mcp_tool"), 1_000);
        assert_eq!(kept(&mut some, "file_write", allowed, 1_000 + MARGIN).len(), 4_000);
        assert!(kept(&mut some, "file_write", allowed, 1_001 + MARGIN).len() < 1_200);
        assert_eq!(kept(&mut some, "mcp_tool", allowed, i64::MAX).len(), 4_000);
        // The first one is forgotten, and with it what it needed.
        for _ in 0..SETS {
            some.follow(&rules("mcp_tool"), 2_000);
        }
        assert_eq!(kept(&mut some, "shell_command", allowed, 1_000 + MARGIN).len(), 4_000);
        assert!(kept(&mut some, "shell_command", allowed, 2_001 + MARGIN).len() < 1_200);
    }
}
