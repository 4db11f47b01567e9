-- Events as dashboards know them. Names and types are a promise to existing queries: never change them.
-- IF NOT EXISTS adopts a table that was set up by hand.
CREATE TABLE IF NOT EXISTS agent_events (
    time TIMESTAMPTZ NOT NULL,
    agent_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    target TEXT,
    allowed BOOLEAN NOT NULL,
    guard TEXT,
    severity TEXT,
    risk_score DOUBLE PRECISION,
    metadata JSONB
);

CREATE INDEX IF NOT EXISTS idx_agent_events_agent ON agent_events (agent_id, time DESC);
CREATE INDEX IF NOT EXISTS idx_agent_events_violations ON agent_events (time DESC)
    WHERE NOT allowed;
