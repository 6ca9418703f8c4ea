-- What is known of each tracked repository: of any that has or had a record that is kept.
CREATE TABLE repos_with_chains (
    did TEXT NOT NULL PRIMARY KEY,
    -- The newest commit that is believed: where the next one has to begin. NULL until one was seen.
    rev TEXT,
    -- The CID of its MST root.
    data TEXT,
    -- The event that said so, or the resync: then there is no seq.
    seq INTEGER,
    source TEXT,
    time TEXT,
    -- 'synchronized'; 'desynchronized', which is to be fetched as a whole, 'resyncing' and
    -- 'throttled' on the way there; 'unchained' where nobody asks whether commits follow each other.
    state TEXT NOT NULL,
    -- Why it was last found to be desynchronized.
    cause TEXT,
    -- 1 where all that is wanted of it was seen: from its first commit on, or by fetching it.
    is_whole INTEGER NOT NULL DEFAULT 0,
    -- 1 while commits of it wait in waiting_commits.
    has_waiting INTEGER NOT NULL DEFAULT 0,
    -- Set while its host is to be asked whether it is still where we think it is: the gap in which
    -- something may have been missed, or 0 where a commit of it was refused.
    doubted_by INTEGER,
    -- When somebody is to see to it again, and how often it was in vain; NULL is at once.
    retry_at TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    updated_at TEXT NOT NULL,
    -- What is to be done, the most urgent first: 0 let through what waits, 1 fetch it because of what
    -- the stream said, 2 compare it, 3 fetch it for a backfill. NULL is nothing.
    urgency INTEGER GENERATED ALWAYS AS (CASE
        WHEN state IN ('desynchronized', 'resyncing', 'throttled')
        THEN iif(cause IS 'backfill' AND has_waiting = 0, 3, 1)
        WHEN has_waiting = 1 THEN 0
        WHEN doubted_by IS NOT NULL THEN 2
    END) VIRTUAL
);

INSERT INTO repos_with_chains (did, rev, data, seq, source, time, state, updated_at)
SELECT did, rev, data, seq, source, time, 'unchained', updated_at FROM repos;

DROP TABLE repos;
ALTER TABLE repos_with_chains RENAME TO repos;

CREATE INDEX repos_urgent ON repos (urgency, retry_at) WHERE urgency IS NOT NULL;

-- Frames of tracked repositories that wait for a key or for a resync, in their order.
CREATE TABLE waiting_commits (
    -- Never given twice: whoever is at a frame that was dropped meanwhile must not settle another.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    did TEXT NOT NULL,
    source TEXT NOT NULL,
    seq INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    frame BLOB NOT NULL,
    created_at TEXT NOT NULL
);

-- With the bytes, so that they are added up without a look at the frames.
CREATE INDEX waiting_commits_by_did ON waiting_commits (did, id, bytes);
-- Whether a frame waits already.
CREATE INDEX waiting_commits_by_seq ON waiting_commits (did, seq);

-- Each attempt to fetch a repository as a whole.
CREATE TABLE resyncs (
    id INTEGER PRIMARY KEY,
    did TEXT NOT NULL,
    -- Why: the chain was broken ('prev_data', 'since', 'sync'), a commit was not believed ('refused') or
    -- signed by another key ('disputed'), the account returned ('returned'), too much waited
    -- ('overflow'), a gap ('gap'), 'backfill', or an 'operator'.
    cause TEXT NOT NULL,
    host TEXT,
    started_at TEXT NOT NULL,
    ended_at TEXT NOT NULL,
    -- What it came to; NULL where it failed.
    rev TEXT,
    created INTEGER NOT NULL DEFAULT 0,
    updated INTEGER NOT NULL DEFAULT 0,
    deleted INTEGER NOT NULL DEFAULT 0,
    unchanged INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    error TEXT
);

CREATE INDEX resyncs_by_did ON resyncs (did, id);
CREATE INDEX resyncs_by_age ON resyncs (ended_at);

-- How much of the commit was verified that the row comes from: 'none', 'commit' (signed, and proven to
-- be in the tree) or 'chain' (and nothing was missed before it).
ALTER TABLE records ADD COLUMN verified TEXT NOT NULL DEFAULT 'none';

-- 1 while the account's own host has not been asked whether it is really gone. Only of accounts whose
-- repositories are tracked.
ALTER TABLE accounts ADD COLUMN is_hearsay INTEGER NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN retry_at TEXT;
ALTER TABLE accounts ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
CREATE INDEX accounts_hearsay ON accounts (retry_at) WHERE is_hearsay = 1;

-- The search for the repositories that hold a collection.
CREATE TABLE enumerations (
    collection TEXT NOT NULL PRIMARY KEY,
    -- Where the directory's list goes on.
    cursor TEXT,
    repos INTEGER NOT NULL DEFAULT 0,
    started_at TEXT NOT NULL,
    ended_at TEXT,
    -- How often in a row the list could not be had, and why the last time.
    attempts INTEGER NOT NULL DEFAULT 0,
    error TEXT
);

-- When the repositories were marked that may have changed in the gap, and how many.
ALTER TABLE gaps ADD COLUMN doubted_at TEXT;
ALTER TABLE gaps ADD COLUMN doubted_repos INTEGER;
