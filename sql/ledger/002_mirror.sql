-- What the store's copy has yet to get: each change of a row has a number, which never goes back even if this file is lost
-- and made anew, since it follows the clock.
ALTER TABLE actions ADD COLUMN change INTEGER NOT NULL DEFAULT 0;
UPDATE actions SET change = rowid;
CREATE INDEX actions_change ON actions (change);
CREATE TABLE mirror (
    last   INTEGER NOT NULL,   -- the latest change
    copied INTEGER NOT NULL    -- the latest that the store has
) STRICT;
INSERT INTO mirror SELECT coalesce(max(change), 0), 0 FROM actions;
CREATE TRIGGER actions_added AFTER INSERT ON actions BEGIN
    UPDATE mirror SET last = max(last + 1, CAST(unixepoch('subsec') * 1000000 AS INTEGER));
    UPDATE actions SET change = (SELECT last FROM mirror) WHERE key = NEW.key;
END;
CREATE TRIGGER actions_changed AFTER UPDATE OF revision, receiver, state, reason, decided_by, attempts, alert_retracted, superseded_by ON actions
BEGIN
    UPDATE mirror SET last = max(last + 1, CAST(unixepoch('subsec') * 1000000 AS INTEGER));
    UPDATE actions SET change = (SELECT last FROM mirror) WHERE key = NEW.key;
END;
