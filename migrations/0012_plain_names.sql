-- Standard words for tables, columns and a state that had words of this project alone. The rows stay.

ALTER TABLE waiting_commits RENAME TO parked_commits;
DROP INDEX waiting_commits_by_did;
DROP INDEX waiting_commits_by_seq;
-- With the bytes, so that they are added up without reading the frames.
CREATE INDEX parked_commits_by_did ON parked_commits (did, id, bytes);
-- Whether a frame is parked already.
CREATE INDEX parked_commits_by_seq ON parked_commits (did, seq);

ALTER TABLE repos RENAME COLUMN has_waiting TO has_parked;
ALTER TABLE repos RENAME COLUMN doubted_by TO recheck_cause;
-- The chain of these commits was never verified.
UPDATE repos SET state = 'unverified_chain' WHERE state = 'unchained';

ALTER TABLE accounts RENAME COLUMN is_hearsay TO is_unconfirmed;
DROP INDEX accounts_hearsay;
CREATE INDEX accounts_unconfirmed ON accounts (retry_at) WHERE is_unconfirmed = 1;

ALTER TABLE enumerations RENAME TO discoveries;

ALTER TABLE gaps RENAME COLUMN doubted_at TO recheck_started_at;
ALTER TABLE gaps RENAME COLUMN doubted_repos TO recheck_repos;
