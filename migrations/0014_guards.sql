-- Which source an event came from that set a value. Its seqs order the events of one source; times
-- are written by others. NULL is unknown, because an earlier version set the value.
ALTER TABLE accounts ADD COLUMN as_of_source TEXT;
ALTER TABLE accounts ADD COLUMN handle_as_of_source TEXT;
-- The event of the account's latest deletion, whose time is removed_at.
ALTER TABLE accounts ADD COLUMN removed_source TEXT;
ALTER TABLE accounts ADD COLUMN removed_seq INTEGER;

-- A fingerprint of the rules by which the record was judged: policy, schema and projection. NULL for
-- a record that was deleted, or that an earlier version judged.
ALTER TABLE records ADD COLUMN judgement INTEGER;
-- The value that was refused, of a tombstone that a refusal left; invalid_reason says why.
ALTER TABLE records ADD COLUMN refused_cid TEXT;

UPDATE records SET refused_cid = letters.cid, invalid_reason = letters.error
FROM (
    SELECT uri, error, json_extract(task, '$.cid') AS cid, json_extract(task, '$.rev') AS rev
    FROM dead_letters
    WHERE uri IS NOT NULL AND stage IN ('decode', 'validate') AND json_valid(task)
) AS letters
WHERE records.uri = letters.uri AND records.rev = letters.rev AND records.deleted = 1;

-- 1 if the commit at the head was verified. The rev of an unverified one bounds nothing.
ALTER TABLE repos ADD COLUMN is_proven INTEGER NOT NULL DEFAULT 0;

UPDATE repos SET is_proven = 1
WHERE
    state = 'synchronized'
    OR EXISTS (
        SELECT 1 FROM records WHERE records.did = repos.did AND records.verified <> 'none'
    );
