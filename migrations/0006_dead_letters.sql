-- What could not be applied, kept for an operator until its retention ends.
CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY,
    -- SHA-256 over source, seq, uri, stage and raw: a replay adds nothing.
    fingerprint BLOB NOT NULL UNIQUE,
    source TEXT NOT NULL,
    seq INTEGER,
    did TEXT,
    uri TEXT,
    -- Where it was given up: 'decode', 'validate', 'index' or 'poison'.
    stage TEXT NOT NULL,
    error TEXT NOT NULL,
    -- The index task as JSON, where it came to be one.
    task TEXT,
    -- The bytes at fault: the record, or the whole frame.
    raw BLOB NOT NULL,
    attempts INTEGER NOT NULL,
    created_at TEXT NOT NULL
);

CREATE INDEX dead_letters_by_age ON dead_letters (created_at);
