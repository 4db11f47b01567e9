-- With TimescaleDB: hypertable, hourly continuous aggregate, compression after 7 days, retention of 90 days.
SELECT create_hypertable('agent_events', 'time', if_not_exists => TRUE, migrate_data => TRUE);

-- WITH NO DATA, because filling it can't be part of a transaction; the policy below fills it.
CREATE MATERIALIZED VIEW IF NOT EXISTS agent_events_hourly
WITH (timescaledb.continuous) AS
SELECT
    time_bucket('1 hour', time) AS bucket,
    agent_id,
    event_type,
    COUNT(*) AS event_count,
    COUNT(*) FILTER (WHERE NOT allowed) AS violation_count,
    AVG(risk_score) AS avg_risk_score
FROM agent_events
GROUP BY bucket, agent_id, event_type
WITH NO DATA;

-- Real-time: what isn't materialised yet is read from the events.
ALTER MATERIALIZED VIEW agent_events_hourly SET (timescaledb.materialized_only = false);

-- The window reaches far back, since an archive that was behind inserts old events; only what changed is refreshed.
-- It ends short of the retention, or dropped events would empty their hours.
SELECT add_continuous_aggregate_policy('agent_events_hourly',
    start_offset => INTERVAL '88 days',
    end_offset => INTERVAL '1 hour',
    schedule_interval => INTERVAL '30 minutes',
    if_not_exists => TRUE);

-- event_key is in the order, because the unique index must be checked in compressed chunks too.
ALTER TABLE agent_events SET (
    timescaledb.compress,
    timescaledb.compress_segmentby = 'agent_id',
    timescaledb.compress_orderby = 'time DESC, event_key');
SELECT add_compression_policy('agent_events', INTERVAL '7 days', if_not_exists => TRUE);

SELECT add_retention_policy('agent_events', INTERVAL '90 days', if_not_exists => TRUE);
