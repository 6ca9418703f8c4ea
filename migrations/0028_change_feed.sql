-- The change feed: every write to records, and to the accounts of which records are kept, has a number.
-- A reader that has seen everything up to a number asks for what is behind it. Each row appears once, in
-- its latest state, so the feed takes no space of its own.

-- The number of the change that wrote the row. NULL: the row is of an earlier version and has no number
-- yet, or it is an account of which no record was ever kept.
ALTER TABLE records ADD COLUMN change INTEGER;
ALTER TABLE accounts ADD COLUMN change INTEGER;
-- The change that removed what was kept of the account, the latest one. The rows of its records are
-- deleted and leave no tombstones: a reader deletes the records whose changes are before this one.
ALTER TABLE accounts ADD COLUMN removal_change INTEGER;

CREATE INDEX records_by_change ON records (change) WHERE change IS NOT NULL;
CREATE INDEX accounts_by_change ON accounts (change) WHERE change IS NOT NULL;

-- One row.
CREATE TABLE change_feed (
    -- Random, so that a reader notices another database.
    feed TEXT NOT NULL,
    -- The last number that was given out. Numbers may be left out.
    last INTEGER NOT NULL,
    -- The URI up to which the records of an earlier version have numbers. NULL: all have.
    numbered_through TEXT
);

INSERT INTO change_feed (feed, last, numbered_through)
SELECT lower(hex(randomblob(16))), 0, CASE WHEN EXISTS (SELECT 1 FROM records) THEN '' END;

-- Each start of a worker begins an epoch. After a loss of power, or in a copy that was restored, numbers
-- are given out again. So a number means something only together with its epoch.
CREATE TABLE feed_epochs (
    id INTEGER PRIMARY KEY,
    -- Random.
    epoch TEXT NOT NULL UNIQUE,
    -- The first number that the epoch could give out.
    first_change INTEGER NOT NULL
);
