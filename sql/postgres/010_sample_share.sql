-- The share of events like this one that are kept: 1 unless a share of low-risk events was asked for. So 1 / sample_share is how
-- many events a row stands for.
ALTER TABLE agent_events ADD COLUMN IF NOT EXISTS sample_share DOUBLE PRECISION NOT NULL DEFAULT 1;
