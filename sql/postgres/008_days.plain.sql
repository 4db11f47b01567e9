-- Days as partitions: retention drops a day as a whole, which costs nothing and leaves no holes. The engine makes them, one
-- for each day of UTC, named agent_events_20260105. What fits no day (older than retention, or far ahead) goes to
-- agent_events_default. What was there before stays as it is, as one partition of its own, agent_events_before.
DO $$
DECLARE
    others TEXT;
BEGIN
    SELECT string_agg(DISTINCT r.ev_class::regclass::text, ', ') INTO others
    FROM pg_depend d JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
    WHERE d.refobjid = 'agent_events'::regclass AND r.ev_class <> 'agent_events_hourly'::regclass;
    IF others IS NOT NULL THEN
        RAISE EXCEPTION 'other views read agent_events (%), which becomes a partitioned table: drop them, and create them again after the start', others;
    END IF;
END $$;

ALTER TABLE agent_events RENAME TO agent_events_before;
DROP INDEX idx_agent_events_time;
ALTER INDEX idx_agent_events_agent RENAME TO idx_agent_events_before_agent;
ALTER INDEX idx_agent_events_violations RENAME TO idx_agent_events_before_violations;
ALTER INDEX idx_agent_events_key RENAME TO idx_agent_events_before_key;
ALTER INDEX idx_agent_events_session RENAME TO idx_agent_events_before_session;

CREATE TABLE agent_events (LIKE agent_events_before INCLUDING DEFAULTS INCLUDING CONSTRAINTS) PARTITION BY RANGE (time);
CREATE INDEX idx_agent_events_agent ON agent_events (agent_id, time DESC);
CREATE INDEX idx_agent_events_violations ON agent_events (time DESC) WHERE NOT allowed;
CREATE UNIQUE INDEX idx_agent_events_key ON agent_events (event_key, time);
CREATE INDEX idx_agent_events_session ON agent_events (session_id, time DESC);
CREATE INDEX idx_agent_events_time ON agent_events (time);
CREATE TABLE agent_events_default PARTITION OF agent_events DEFAULT;

-- Who might read it, still may.
DO $$
DECLARE
    held RECORD;
BEGIN
    FOR held IN
        SELECT privilege_type, is_grantable, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS grantee
        FROM pg_class, aclexplode(relacl)
        WHERE oid = 'agent_events_before'::regclass AND grantee <> relowner
    LOOP
        EXECUTE format('GRANT %s ON agent_events TO %s%s', held.privilege_type, held.grantee,
            CASE WHEN held.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
    END LOOP;
END $$;

-- Hours outlive their events: what retention removes is added up here first, in the same transaction.
CREATE TABLE agent_events_rollup (
    bucket TIMESTAMPTZ NOT NULL,
    agent_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    event_count BIGINT NOT NULL,
    violation_count BIGINT NOT NULL,
    risk_sum DOUBLE PRECISION NOT NULL,
    risk_count BIGINT NOT NULL,
    PRIMARY KEY (bucket, agent_id, event_type)
);

CREATE OR REPLACE VIEW agent_events_hourly AS
SELECT
    bucket,
    agent_id,
    event_type,
    SUM(event_count)::bigint AS event_count,
    SUM(violation_count)::bigint AS violation_count,
    SUM(risk_sum) / NULLIF(SUM(risk_count), 0)::double precision AS avg_risk_score
FROM (
    SELECT
        date_trunc('hour', time, 'UTC') AS bucket,
        agent_id,
        event_type,
        COUNT(*) AS event_count,
        COUNT(*) FILTER (WHERE NOT allowed) AS violation_count,
        COALESCE(SUM(risk_score), 0) AS risk_sum,
        COUNT(risk_score) AS risk_count
    FROM agent_events
    GROUP BY 1, 2, 3
    UNION ALL
    SELECT bucket, agent_id, event_type, event_count, violation_count, risk_sum, risk_count FROM agent_events_rollup
) AS hours
GROUP BY 1, 2, 3;

-- The old rows: up to a midnight that none of them lies behind. Those of clocks far ahead fit no day.
DO $$
DECLARE
    edge TIMESTAMPTZ := date_trunc('day', now(), 'UTC') + INTERVAL '48 hours';
BEGIN
    IF NOT EXISTS (SELECT FROM agent_events_before) THEN
        DROP TABLE agent_events_before;
        RETURN;
    END IF;
    WITH ahead AS (DELETE FROM agent_events_before WHERE time >= edge RETURNING *)
    INSERT INTO agent_events_default SELECT * FROM ahead;
    EXECUTE format('ALTER TABLE agent_events ATTACH PARTITION agent_events_before FOR VALUES FROM (MINVALUE) TO (%L)', edge);
END $$;
