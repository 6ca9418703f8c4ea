-- Commits that did not follow from the last commit of their account, the newest of each account. Those
-- of several accounts within a short time show that the source has lost events.
CREATE TABLE chain_breaks (
    source TEXT NOT NULL,
    did TEXT NOT NULL,
    -- The account's last event before it; NULL after its repository was fetched.
    held_seq INTEGER,
    held_time TEXT,
    -- The commit that did not follow.
    seq INTEGER NOT NULL,
    time TEXT NOT NULL,
    noted_at TEXT NOT NULL,
    -- Commits of the source that have followed from their predecessors since.
    held_since INTEGER NOT NULL DEFAULT 0,
    -- When a gap was last opened on the word of this account.
    used_at TEXT,
    PRIMARY KEY (source, did)
) WITHOUT ROWID;
