-- The latest version of each alert. `document` is the alert as the API shows it; the other columns are for queries, and
-- hold what the document leaves out.
CREATE TABLE alerts (
    alert_id TEXT PRIMARY KEY,
    revision BIGINT NOT NULL,
    rule_id TEXT NOT NULL,
    rule_name TEXT NOT NULL,
    rule_version TEXT NOT NULL,
    severity TEXT NOT NULL,
    status TEXT NOT NULL,
    superseded_by TEXT,
    tenant_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    first_seen TIMESTAMPTZ NOT NULL,
    last_seen TIMESTAMPTZ NOT NULL,
    match_count BIGINT NOT NULL,
    risk_score DOUBLE PRECISION NOT NULL,
    shadow BOOLEAN NOT NULL,
    run_actions BOOLEAN NOT NULL,
    actions JSONB NOT NULL,        -- with their parameters
    trigger_event TEXT NOT NULL,   -- the record as it was received
    document JSONB NOT NULL
);

CREATE INDEX idx_alerts_last_seen ON alerts (last_seen DESC);
CREATE INDEX idx_alerts_agent ON alerts (agent_id, last_seen DESC);
