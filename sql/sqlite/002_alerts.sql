-- The latest version of each alert. `document` is the alert as the API shows it; the other columns are for queries, and
-- hold what the document leaves out.
CREATE TABLE alerts (
    alert_id TEXT PRIMARY KEY,
    revision INTEGER NOT NULL,
    rule_id TEXT NOT NULL,
    rule_name TEXT NOT NULL,
    rule_version TEXT NOT NULL,
    severity TEXT NOT NULL,
    status TEXT NOT NULL,
    superseded_by TEXT,
    tenant_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    first_seen TEXT NOT NULL,
    last_seen TEXT NOT NULL,
    match_count INTEGER NOT NULL,
    risk_score REAL NOT NULL,
    shadow INTEGER NOT NULL,
    run_actions INTEGER NOT NULL,
    actions TEXT NOT NULL,         -- with their parameters
    trigger_event TEXT NOT NULL,   -- the record as it was received
    document TEXT NOT NULL
) STRICT;

CREATE INDEX idx_alerts_last_seen ON alerts (last_seen DESC);
CREATE INDEX idx_alerts_agent ON alerts (agent_id, last_seen DESC);
