-- The chain state of a repository: the newest commit from which something was kept. The next
-- commit's `since` and `prevData` have to name this rev and this root.
CREATE TABLE repos (
    did TEXT NOT NULL PRIMARY KEY,
    rev TEXT NOT NULL,
    -- The CID of the repository's MST root.
    data TEXT NOT NULL,
    seq INTEGER NOT NULL,
    source TEXT NOT NULL,
    time TEXT NOT NULL,
    -- 'unverified': the commit's signature and proof have not been checked.
    state TEXT NOT NULL,
    updated_at TEXT NOT NULL
);
