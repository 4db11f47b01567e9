-- Who approved first where two must.
ALTER TABLE actions ADD COLUMN approved_by TEXT;

-- Quarantines, so that only a share of the fleet is in one at a time. Those that were begun before this step aren't counted.
ALTER TABLE actions ADD COLUMN quarantine_for INTEGER;     -- how long a quarantine is asked for, in microseconds; NULL: it is none
ALTER TABLE actions ADD COLUMN quarantined_until INTEGER;  -- while it may hold; the largest number: it may begin at any time. NULL: it doesn't
CREATE INDEX actions_quarantined ON actions (quarantined_until) WHERE quarantined_until IS NOT NULL;

-- The fleet: agents, and the hour since 1970 in which a session of theirs last changed.
CREATE TABLE fleet (
    tenant_id TEXT NOT NULL,
    agent_id  TEXT NOT NULL,
    hour      INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, agent_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX fleet_hour ON fleet (hour);
