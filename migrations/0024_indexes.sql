-- An index of `records` that no query needs: the records of an account are found by their URIs, which are
-- those between 'at://DID/' and 'at://DID0' ('0' is the character behind '/'). It cost every new record a
-- page somewhere in the index. Dropping it returns its pages, a moment also where there are millions of
-- rows.
DROP INDEX records_by_did;

-- The records that are being deleted. Ask by did and uri: as a rule no account is being removed, and
-- then no record is read.
DROP VIEW removed_records;

CREATE VIEW removed_records AS
SELECT account_removals.did, records.uri, account_removals.id AS removal
FROM account_removals CROSS JOIN records
    ON records.uri > 'at://' || account_removals.did || '/'
    AND records.uri < 'at://' || account_removals.did || '0'
WHERE
    coalesce(records.after_removal, 0) < account_removals.id
    AND (
        removed_at IS NULL
        OR CASE
            WHEN records.source = removed_source AND records.seq <= followed
            THEN records.seq > removed_seq
            ELSE min(records.time, records.last_indexed_at) > removed_at
        END IS NOT 1
    );
