-- The latest state of each action that alerts have asked for: a copy of the engine's ledger, which alone decides. `change` orders
-- the versions of a row.
CREATE TABLE actions (
    key TEXT PRIMARY KEY,
    change INTEGER NOT NULL,
    alert_id TEXT NOT NULL,
    revision INTEGER NOT NULL,
    rule_id TEXT NOT NULL,
    severity TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    action TEXT NOT NULL,
    params TEXT NOT NULL,
    receiver TEXT,
    state TEXT NOT NULL,
    reason TEXT,
    decided_by TEXT,
    attempts INTEGER NOT NULL,
    alert_retracted INTEGER NOT NULL,
    superseded_by TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
) STRICT;

CREATE INDEX idx_actions_updated_at ON actions (updated_at DESC);
CREATE INDEX idx_actions_alert ON actions (alert_id);
