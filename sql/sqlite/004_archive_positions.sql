-- How far the archive has come in each partition: written in the transaction that holds the events before it.
CREATE TABLE archive_positions (
    source TEXT NOT NULL,
    partition INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    PRIMARY KEY (source, partition)
) STRICT;
