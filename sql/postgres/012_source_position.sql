-- Where an event that is known by its id was read, `source/partition/offset`; the key of any other says it already. NULL in rows
-- from before.
ALTER TABLE agent_events ADD COLUMN IF NOT EXISTS source_position TEXT;
