-- Without TimescaleDB: the same name and columns, computed at each read. No compression, no retention.
CREATE VIEW agent_events_hourly AS
SELECT
    date_trunc('hour', time, 'UTC') AS bucket,
    agent_id,
    event_type,
    COUNT(*) AS event_count,
    COUNT(*) FILTER (WHERE NOT allowed) AS violation_count,
    AVG(risk_score) AS avg_risk_score
FROM agent_events
GROUP BY 1, 2, 3;
