-- Events. Times are RFC 3339 text in UTC with microseconds, so that they sort as text; JSON is text.
CREATE TABLE agent_events (
    time TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    target TEXT,
    allowed INTEGER NOT NULL,
    guard TEXT,
    severity TEXT,
    risk_score REAL,
    metadata TEXT,
    event_key TEXT,
    tenant_id TEXT NOT NULL DEFAULT ''
) STRICT;

-- One row for each event identity and event time: a repeated insert is harmless.
CREATE UNIQUE INDEX idx_agent_events_key ON agent_events (event_key, time);
CREATE INDEX idx_agent_events_agent ON agent_events (agent_id, time DESC);
CREATE INDEX idx_agent_events_violations ON agent_events (time DESC) WHERE NOT allowed;

CREATE VIEW agent_events_hourly AS
SELECT
    substr(time, 1, 13) || ':00:00.000000Z' AS bucket,
    agent_id,
    event_type,
    COUNT(*) AS event_count,
    COUNT(*) FILTER (WHERE NOT allowed) AS violation_count,
    AVG(risk_score) AS avg_risk_score
FROM agent_events
GROUP BY 1, 2, 3;
