//! An alert with nothing special, for tests to change where they care.

use clawdstrike_edr::alert::{Alert, Status};
use clawdstrike_rules::plan::{OnRemoval, Severity};

pub(crate) fn alert() -> Alert {
    Alert {
        alert_id: "a-1".into(),
        revision: 1,
        rule_id: "CREDENTIAL_EXFILTRATION".into(),
        rule_name: "Credential Exfiltration Attempt".into(),
        rule_version: "abc".into(),
        severity: Severity::Critical,
        status: Status::Open,
        superseded_by: None,
        tenant_id: String::new(),
        group: vec![("agent_id".into(), "agent-1".into()), ("session_id".into(), "s-1".into())],
        agent_id: "agent-1".into(),
        session_id: "s-1".into(),
        first_seen: 0,
        last_seen: 0,
        match_count: 1,
        risk_score: 30.0,
        evidence: Vec::new(),
        attack: Vec::new(),
        actions: Vec::new(),
        run_actions: true,
        shadow: false,
        backfilled: false,
        rule_removed: false,
        on_removal: OnRemoval::Keep,
        retracted_because: None,
        trigger_event: "{}".into(),
        handling: Default::default(),
    }
}
