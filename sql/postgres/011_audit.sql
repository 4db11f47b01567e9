-- A copy of the engine's audit trail, which alone counts. `line` is a row as it stands there: its hash can be recomputed. Rows
-- are known by their hash, because a state folder that is made anew counts from 1 again.
CREATE TABLE audit (
    hash TEXT PRIMARY KEY,
    seq BIGINT NOT NULL,
    time TIMESTAMPTZ NOT NULL,
    actor TEXT NOT NULL,
    actor_kind TEXT NOT NULL,
    address TEXT,
    action TEXT NOT NULL,
    outcome TEXT NOT NULL,
    detail JSONB NOT NULL,
    line TEXT NOT NULL
);

CREATE INDEX idx_audit_time ON audit (time DESC);

-- What analysts did with alerts.
CREATE VIEW acks AS
SELECT alerts.alert_id, alerts.rule_id, alerts.agent_id,
       (note ->> 'time')::timestamptz AS time, note ->> 'by' AS actor, note ->> 'deed' AS deed, note ->> 'comment' AS comment
FROM alerts CROSS JOIN LATERAL jsonb_array_elements(coalesce(alerts.document -> 'handling', '[]')) AS note;
