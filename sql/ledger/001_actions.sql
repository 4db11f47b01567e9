-- What alerts ask for: one row for each action of each alert, before anybody is asked to carry it out.
CREATE TABLE actions (
    key             TEXT PRIMARY KEY,   -- the Idempotency-Key, in hex
    alert_id        TEXT NOT NULL,
    revision        INTEGER NOT NULL,   -- of the alert's version that asked for it
    rule_id         TEXT NOT NULL,
    severity        TEXT NOT NULL,
    tenant_id       TEXT NOT NULL,
    agent_id        TEXT NOT NULL,
    session_id      TEXT NOT NULL,
    action          TEXT NOT NULL,      -- as in rules; "retraction": the SOC is told that the alert doesn't hold
    params          TEXT NOT NULL,      -- JSON
    receiver        TEXT,               -- a key of [response]; NULL: a line in the log
    state           TEXT NOT NULL CHECK (state IN
        ('pending', 'sent', 'acknowledged', 'failed', 'rejected', 'waiting', 'expired', 'cancelled')),
    reason          TEXT,               -- why it is in this state, where that isn't plain
    decided_by      TEXT,               -- who approved, rejected or retried it
    turn            INTEGER NOT NULL,   -- its place in its receiver's queue
    attempts        INTEGER NOT NULL DEFAULT 0,
    alert_retracted INTEGER NOT NULL DEFAULT 0,
    superseded_by   TEXT,               -- the alert that its alert became part of
    counted_at      INTEGER,            -- when it was let pass under the caps; microseconds since 1970, as all times
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    touched_at      INTEGER NOT NULL,   -- when its alert last asked for it, about
    give_up_at      INTEGER NOT NULL,   -- when it is not tried again
    document        TEXT                -- the alert in JSON, while it may have to be sent
) STRICT;
CREATE INDEX actions_queue ON actions (receiver, turn) WHERE state IN ('pending', 'sent');
CREATE INDEX actions_state ON actions (state, turn);
CREATE INDEX actions_alert ON actions (alert_id);
CREATE INDEX actions_counted ON actions (counted_at, agent_id) WHERE counted_at IS NOT NULL;
CREATE INDEX actions_touched ON actions (touched_at);
