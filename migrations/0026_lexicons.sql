-- The views that are made from lexicons, one for each collection without tables of its own, so that
-- they can be made anew when a lexicon changes, and dropped when it is gone.
CREATE TABLE lexicon_views (
    name TEXT NOT NULL PRIMARY KEY,
    collection TEXT NOT NULL,
    -- The SHA-256 of the statement that made it.
    digest TEXT NOT NULL,
    made_at TEXT NOT NULL
) WITHOUT ROWID;

-- The indexes on columns of these views that an operator asked for. They are indexes of the table
-- `records`.
CREATE TABLE lexicon_indexes (
    name TEXT NOT NULL PRIMARY KEY,
    collection TEXT NOT NULL,
    column_name TEXT NOT NULL,
    -- The SHA-256 of the statement that made it. Empty until it is made.
    digest TEXT NOT NULL,
    made_at TEXT NOT NULL
) WITHOUT ROWID;

-- By which rules the records of a collection were judged (`records.judgement`), so that a worker with
-- other rules says so at its start.
CREATE TABLE collection_rules (
    collection TEXT NOT NULL PRIMARY KEY,
    judgement INTEGER NOT NULL,
    -- 1: a worker has run with other rules since, so some records were judged by those.
    is_mixed INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

-- How far a `reprocess` is that has not ended, so that it goes on from there.
CREATE TABLE reprocessings (
    -- What it selects, and the rules by which it judges, as JSON.
    selection TEXT NOT NULL PRIMARY KEY,
    -- As JSON.
    progress TEXT NOT NULL,
    updated_at TEXT NOT NULL
) WITHOUT ROWID;
