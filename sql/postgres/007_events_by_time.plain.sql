-- Events are read back in the order of their times (`rules backtest`, `rules diff`).
CREATE INDEX IF NOT EXISTS idx_agent_events_time ON agent_events (time);
