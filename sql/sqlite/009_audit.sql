-- A copy of the engine's audit trail, which alone counts. `line` is a row as it stands there: its hash can be recomputed. Rows
-- are known by their hash, because a state folder that is made anew counts from 1 again.
CREATE TABLE audit (
    hash TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,
    time TEXT NOT NULL,
    actor TEXT NOT NULL,
    actor_kind TEXT NOT NULL,
    address TEXT,
    action TEXT NOT NULL,
    outcome TEXT NOT NULL,
    detail TEXT NOT NULL,
    line TEXT NOT NULL
) STRICT;

CREATE INDEX idx_audit_time ON audit (time DESC);

-- What analysts did with alerts.
CREATE VIEW acks AS
SELECT alerts.alert_id, alerts.rule_id, alerts.agent_id,
       note.value ->> 'time' AS time, note.value ->> 'by' AS actor, note.value ->> 'deed' AS deed, note.value ->> 'comment' AS comment
FROM alerts, json_each(alerts.document, '$.handling') AS note;
