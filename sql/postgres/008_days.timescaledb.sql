-- Days as partitions, for PostgreSQL alone: a hypertable has chunks.
SELECT 1;
