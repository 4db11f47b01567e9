//! Which events rules need, for whoever keeps only some of the others: those that can fill or prevent something in a rule of a
//! set, by the very classes that the dataflow goes by.
//!
//! Allowlists don't count here: what one takes out today a changed one may ask for. Memory is bounded as in `classify`.

use clawdstrike_rules::plan::RuleSet;
use clawdstrike_telemetry::Event;

use super::class::Class;
use super::classify::Classifier;
use super::key::Hasher;
use super::rules::{Registry, Rules};
use super::settings::Settings;
use crate::loads::InForce;

/// A rule set, ready to be asked.
pub struct Needs {
    classifier: Classifier,
    rules: Rules,
    /// By the class's number.
    needed: Vec<bool>,
    values: Vec<u64>,
}

impl Needs {
    /// Of this set; `secret` is the cluster's.
    ///
    /// # Errors
    /// The set's patterns can't be compiled together, so it can't be in force either.
    pub fn new(set: &RuleSet, secret: &[u8], settings: &Settings) -> Result<Needs, String> {
        let set = RuleSet { allowlist: Vec::new(), ..set.clone() };
        let rules = Registry::default().load(&set, InForce::first(&set), settings);
        let mut classifier = Classifier::new(0, Hasher::new(secret), &settings.zone);
        classifier.load(&rules)?;
        Ok(Needs { classifier, rules, needed: Vec::new(), values: Vec::new() })
    }

    /// Whether some rule needs an event with this event time.
    pub fn need(&mut self, event: &Event<'_>, time: i64) -> bool {
        let class = self.classifier.classify(event, time, &mut self.values).number();
        // Classes are numbered in the order in which they are met.
        let news = self.classifier.take_news().into_iter();
        self.needed.extend(news.map(|def| Class::new(def, &self.rules).roles != 0));
        // One that can't be is better kept.
        self.needed.get(class).copied().unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use clawdstrike_rules::{SourceFile, compile};
    use clawdstrike_telemetry::decode;

    use super::*;
    use crate::config::Limits;

    fn needs(text: &str) -> Needs {
        let set =
            compile(&[SourceFile { name: "r.yaml".into(), text: text.into() }]).unwrap_or_else(|e| panic!("{e}")).set;
        Needs::new(&set, &[7; super::super::SECRET_BYTES], &Settings::new(&Limits::default(), Vec::new()))
            .expect("compiled")
    }

    fn need(needs: &mut Needs, kind: &str, target: &str) -> bool {
        let text = format!(
            r#"{{"agent_id":"a","session_id":"s","timestamp":"2026-01-05T10:00:00Z","event_type":"{kind}","action":{{"target":"{target}"}},"result":{{"allowed":true}}}}"#
        );
        needs.need(&decode(text.as_bytes()).expect("an event"), 0)
    }

    #[test]
    fn what_fills_or_prevents_is_needed_and_nothing_else() {
        let mut some = needs(
            "allowlist: [{agent_pattern: \"*\", reason: x}]
rules:
- {id: A, name: n, severity: low, conditions: [{type: sequence, window: 5m, events: [
    {event_type: file_access, target_glob: \"/secret/**\"},
    {event_type: network_egress, without: {event_type: mcp_tool, target_in: [ask]}}], until: {event_type: patch_apply}}]}
- {id: B, name: n, severity: low, enabled: false, conditions: [{type: threshold, window: 1m, count: 5, event_type: file_write}]}
",
        );
        for _ in 0..2 {
            for (kind, target, needed) in [
                ("file_access", "/secret/key", true),
                ("file_access", "/public/key", false),
                ("network_egress", "a.example:443", true),
                ("mcp_tool", "ask", true),
                ("mcp_tool", "tell", false),
                ("patch_apply", "/a", true),
                ("file_write", "/a", false),
            ] {
                assert_eq!(need(&mut some, kind, target), needed, "{kind} {target}");
            }
        }
        assert!(!need(&mut needs("rules: []"), "file_access", "/secret/key"));
    }
}
