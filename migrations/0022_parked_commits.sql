-- 1 while the job of the repository waits for what is its account's own, such as its host. An account can
-- have that last for ever, so its parked commits are then no lag of the worker.
ALTER TABLE repos ADD COLUMN waits_for_account INTEGER NOT NULL DEFAULT 0;

-- Parked commits that are dropped, in pieces: those of the repository with an id up to `through`. They
-- are gone for every reader, and are not counted.
CREATE TABLE parked_drops (
    did TEXT NOT NULL PRIMARY KEY,
    through INTEGER NOT NULL
) WITHOUT ROWID;

-- The parked commits that are replayed.
CREATE VIEW kept_parked_commits AS
SELECT id, did, source, seq, bytes, frame, created_at, reason
FROM parked_commits
WHERE NOT EXISTS (
    SELECT 1 FROM parked_drops
    WHERE parked_drops.did = parked_commits.did AND parked_commits.id <= parked_drops.through
);

-- With the reason and the bytes, so that what is dropped is added up without a look at the frames.
DROP INDEX parked_commits_by_did;
CREATE INDEX parked_commits_by_did ON parked_commits (did, id, reason, bytes);
