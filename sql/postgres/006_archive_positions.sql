-- How far the archive has come in each partition: written in the transaction that holds the events before it.
CREATE TABLE archive_positions (
    source TEXT NOT NULL,
    partition BIGINT NOT NULL,
    next_offset BIGINT NOT NULL,
    PRIMARY KEY (source, partition)
);
