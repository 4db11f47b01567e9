-- The latest view of each life of each session. A life is named by its first event's time; when a late event moves that,
-- the old row is removed together with the new row's insert. `epoch` orders the versions of a row.
CREATE TABLE sessions (
    tenant_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    first_seen TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    last_seen TEXT NOT NULL,
    status TEXT NOT NULL,
    resumed INTEGER NOT NULL,
    events INTEGER NOT NULL,
    violations INTEGER NOT NULL,
    unique_targets INTEGER NOT NULL,
    risk_score REAL NOT NULL,
    open_alerts INTEGER NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (tenant_id, agent_id, session_id, first_seen)
) STRICT;

CREATE INDEX idx_sessions_last_seen ON sessions (last_seen DESC);
CREATE INDEX idx_sessions_risk ON sessions (risk_score DESC);
