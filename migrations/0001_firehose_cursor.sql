-- Where the worker stands in the firehose: the last seq whose effects are durable.
-- '0' is the place before the oldest event that the upstream still holds, so a fresh install reads
-- everything there is. The cursor is text, since not every source counts in integers.
CREATE TABLE firehose_cursor (
    id TEXT PRIMARY KEY DEFAULT 'main',
    cursor TEXT NOT NULL,
    updated_at INTEGER NOT NULL DEFAULT (unixepoch())
);

INSERT INTO firehose_cursor (id, cursor) VALUES ('main', '0');
