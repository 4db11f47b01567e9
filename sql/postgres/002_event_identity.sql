-- What makes a repeated insert harmless: one row for each event identity and event time. Rows of other writers may
-- leave event_key null; nulls never conflict. A hypertable's unique index must hold its time column.
ALTER TABLE agent_events ADD COLUMN IF NOT EXISTS event_key TEXT;
ALTER TABLE agent_events ADD COLUMN IF NOT EXISTS tenant_id TEXT NOT NULL DEFAULT '';

CREATE UNIQUE INDEX IF NOT EXISTS idx_agent_events_key ON agent_events (event_key, time);
CREATE INDEX IF NOT EXISTS idx_agent_events_session ON agent_events (session_id, time DESC);
