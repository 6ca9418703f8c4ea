-- Stretches of a source's events that may have been missed. A gap stays open until somebody has
-- reconciled it and says so in `resolution`.
CREATE TABLE gaps (
    id INTEGER PRIMARY KEY,
    source TEXT NOT NULL,
    cause TEXT NOT NULL,
    -- The last event known to be applied before the gap.
    from_seq INTEGER NOT NULL,
    from_time TEXT,
    -- The first event seen after it; NULL while nothing has come.
    to_seq INTEGER,
    to_time TEXT,
    opened_at TEXT NOT NULL,
    closed_at TEXT,
    resolution TEXT
);

CREATE INDEX gaps_by_origin ON gaps (source, cause, from_seq);
CREATE INDEX gaps_open ON gaps (opened_at) WHERE closed_at IS NULL;
