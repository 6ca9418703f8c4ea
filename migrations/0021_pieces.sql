-- Work that is too large for one transaction is done in pieces. Others write between two of them, and
-- the next start goes on where the last run stopped.

-- Accounts whose rows are being deleted. Such rows are gone for every reader from the transaction on
-- that removes the account. Rows that are written later stay.
CREATE TABLE account_removals (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    did TEXT NOT NULL,
    -- The deletion: rows that came after it stay. NULL: all rows are deleted.
    removed_at TEXT,
    removed_source TEXT,
    removed_seq INTEGER,
    -- The seq up to which rows of the source are of the sequence that is followed.
    followed INTEGER,
    -- The newest dead letter at the time. Later ones stay.
    letters_through INTEGER NOT NULL,
    -- The URI up to which records are deleted.
    done_through TEXT NOT NULL,
    began_at TEXT NOT NULL
);

CREATE INDEX account_removals_by_did ON account_removals (did);
CREATE INDEX dead_letters_by_did ON dead_letters (did) WHERE did IS NOT NULL;

-- The removal of its account after which the record was written, if that was not complete.
ALTER TABLE records ADD COLUMN after_removal INTEGER;

-- The records that are being deleted. Ask by did and uri: as a rule no account is being removed, and
-- then no record is read.
CREATE VIEW removed_records AS
SELECT account_removals.did, records.uri, account_removals.id AS removal
FROM account_removals CROSS JOIN records ON records.did = account_removals.did
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

DROP VIEW booking_statistics;
DROP VIEW active_booking_requests;
DROP VIEW open_offers;
DROP VIEW visible_bookings;
DROP VIEW visible_records;

-- Records that exist and are up to date, of accounts that are active.
CREATE VIEW visible_records AS
SELECT
    uri, did, collection, rkey, cid, rev, seq, source, time, record, record_cbor, validity,
    invalid_reason, first_indexed_at, last_indexed_at
FROM records
WHERE
    deleted = 0
    AND NOT EXISTS (SELECT 1 FROM stale_records WHERE stale_records.uri = records.uri)
    AND NOT EXISTS (
        SELECT 1 FROM removed_records
        WHERE removed_records.did = records.did AND removed_records.uri = records.uri
    )
    AND NOT EXISTS (
        SELECT 1 FROM accounts WHERE accounts.did = records.did AND accounts.active = 0
    );

CREATE VIEW visible_bookings AS
SELECT
    uri, did, rkey, cid, rev, offer_uri, offer_cid, request_uri, request_cid, starts_at, ends_at,
    status, created_at, indexed_at
FROM bookings
WHERE
    NOT EXISTS (SELECT 1 FROM stale_records WHERE stale_records.uri = bookings.uri)
    AND NOT EXISTS (
        SELECT 1 FROM removed_records
        WHERE removed_records.did = bookings.did AND removed_records.uri = bookings.uri
    )
    AND NOT EXISTS (
        SELECT 1 FROM accounts WHERE accounts.did = bookings.did AND accounts.active = 0
    );

-- Offers that are visible, open and not over, with places left. `places_left` is NULL where the
-- capacity is without limit.
CREATE VIEW open_offers AS
SELECT
    uri, did, rkey, cid, rev, title, description, starts_at, ends_at, timezone, duration_minutes,
    capacity,
    capacity - (
        SELECT count(*) FROM visible_bookings
        WHERE
            visible_bookings.offer_uri = offers_index.uri
            AND visible_bookings.status = 'confirmed'
    ) AS places_left,
    location, tags, created_at, indexed_at
FROM offers_index
WHERE
    status = 'open'
    AND ends_at > strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
    AND NOT EXISTS (SELECT 1 FROM stale_records WHERE stale_records.uri = offers_index.uri)
    AND NOT EXISTS (
        SELECT 1 FROM removed_records
        WHERE removed_records.did = offers_index.did AND removed_records.uri = offers_index.uri
    )
    AND NOT EXISTS (
        SELECT 1 FROM accounts WHERE accounts.did = offers_index.did AND accounts.active = 0
    )
    AND (
        capacity IS NULL
        OR capacity > (
            SELECT count(*) FROM visible_bookings
            WHERE
                visible_bookings.offer_uri = offers_index.uri
                AND visible_bookings.status = 'confirmed'
        )
    );

-- Requests that are not cancelled, declined or completed. An unknown status counts as active: to
-- show one request too many is better than to hide one that still waits for an answer.
CREATE VIEW active_booking_requests AS
SELECT
    uri, did, rkey, cid, rev, offer_uri, offer_cid, note, requested_start, status, created_at,
    indexed_at
FROM booking_requests
WHERE
    status NOT IN ('cancelled', 'completed', 'declined')
    AND NOT EXISTS (SELECT 1 FROM stale_records WHERE stale_records.uri = booking_requests.uri)
    AND NOT EXISTS (
        SELECT 1 FROM removed_records
        WHERE
            removed_records.did = booking_requests.did
            AND removed_records.uri = booking_requests.uri
    )
    AND NOT EXISTS (
        SELECT 1 FROM accounts WHERE accounts.did = booking_requests.did AND accounts.active = 0
    );

-- Visible bookings per UTC day of their start, status, and host: the account whose offer was
-- booked, which is the authority of the offer's URI (at://host/collection/rkey).
CREATE VIEW booking_statistics AS
SELECT
    substr(starts_at, 1, 10) AS day,
    status,
    substr(offer_uri, 6, instr(substr(offer_uri, 6), '/') - 1) AS host,
    count(*) AS bookings
FROM visible_bookings
GROUP BY 1, 2, 3;

-- Why a commit was parked: 'key' (the account's key is unavailable), 'fetch' (its repository has to
-- be fetched), 'order' (it comes behind parked ones). An earlier version did not note it.
ALTER TABLE parked_commits ADD COLUMN reason TEXT NOT NULL DEFAULT 'unknown';

-- How much is parked, for each reason and of each repository, so that nothing is added up when a commit
-- is parked. Written with parked_commits.
CREATE TABLE parked_totals (
    reason TEXT NOT NULL PRIMARY KEY,
    commits INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE parked_repos (
    did TEXT NOT NULL PRIMARY KEY,
    commits INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) WITHOUT ROWID;

INSERT INTO parked_totals (reason, commits, bytes)
SELECT reason, count(*), sum(bytes) FROM parked_commits GROUP BY reason;

INSERT INTO parked_repos (did, commits, bytes)
SELECT did, count(*), sum(bytes) FROM parked_commits GROUP BY did;

-- The bytes are no longer added up from it.
DROP INDEX parked_commits_by_did;
CREATE INDEX parked_commits_by_did ON parked_commits (did, id);

-- Jobs on accounts and repositories that are in progress. Those that are left of a run that ended
-- without a word may be why it ended.
CREATE TABLE jobs_in_progress (
    did TEXT NOT NULL,
    job TEXT NOT NULL,
    PRIMARY KEY (did, job)
) WITHOUT ROWID;

-- How many runs in a row ended without a word while the job was in progress.
CREATE TABLE suspected_jobs (
    did TEXT NOT NULL,
    job TEXT NOT NULL,
    runs INTEGER NOT NULL,
    -- The job is not tried before that time. NULL: it is tried, alone.
    set_aside_until TEXT,
    PRIMARY KEY (did, job)
) WITHOUT ROWID;
