-- Hours outlive their events: what retention removes is added up here first, in the same transaction.
CREATE TABLE agent_events_rollup (
    bucket TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    event_count INTEGER NOT NULL,
    violation_count INTEGER NOT NULL,
    risk_sum REAL NOT NULL,
    risk_count INTEGER NOT NULL,
    PRIMARY KEY (bucket, agent_id, event_type)
) STRICT, WITHOUT ROWID;

DROP VIEW agent_events_hourly;
CREATE VIEW agent_events_hourly AS
SELECT
    bucket,
    agent_id,
    event_type,
    SUM(event_count) AS event_count,
    SUM(violation_count) AS violation_count,
    SUM(risk_sum) / NULLIF(SUM(risk_count), 0) AS avg_risk_score
FROM (
    SELECT
        substr(time, 1, 13) || ':00:00.000000Z' AS bucket,
        agent_id,
        event_type,
        COUNT(*) AS event_count,
        COUNT(*) FILTER (WHERE NOT allowed) AS violation_count,
        TOTAL(risk_score) AS risk_sum,
        COUNT(risk_score) AS risk_count
    FROM agent_events
    GROUP BY 1, 2, 3
    UNION ALL
    SELECT bucket, agent_id, event_type, event_count, violation_count, risk_sum, risk_count FROM agent_events_rollup
)
GROUP BY 1, 2, 3;
