-- Events are read back in the order of their times (`rules backtest`, `rules diff`): a hypertable has an index for that.
SELECT 1;
