-- The sets of interest: which collections and accounts were kept, and since when. The last row is in
-- force. What the tables know (that a repository is whole, that its head is known) holds for the set
-- under which it was found, so a change has consequences, which are done in steps.
CREATE TABLE interest_sets (
    id INTEGER PRIMARY KEY,
    -- JSON arrays: patterns; DIDs, where an empty list allows all; DIDs.
    collections TEXT NOT NULL,
    dids_allow TEXT NOT NULL,
    dids_deny TEXT NOT NULL,
    -- The source that was followed, and its cursor when the set came into force.
    source TEXT NOT NULL,
    seq INTEGER NOT NULL,
    time TEXT,
    since TEXT NOT NULL,
    -- 1 where it wants records that the set before it did not.
    is_widened INTEGER NOT NULL,
    -- The step of the change that is being done: 'hide', 'want_again' or 'void', and the key up to
    -- which it is done. NULL once all are.
    step TEXT,
    done_through TEXT NOT NULL DEFAULT '',
    hidden_records INTEGER NOT NULL DEFAULT 0,
    voided_repos INTEGER NOT NULL DEFAULT 0,
    -- The gap of a widened set.
    gap INTEGER
);

-- Records that were kept once and are not known to be up to date: the set of interest did not want
-- them for a while. The views hide them until they are written or compared again.
CREATE TABLE stale_records (
    uri TEXT NOT NULL PRIMARY KEY,
    did TEXT NOT NULL,
    -- 1 where the set in force wants it again. Then the next fetch of its repository ends this.
    is_wanted INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

CREATE INDEX stale_records_by_did ON stale_records (did);

-- The same table with another `urgency`: a fetch because of a wider set, or of an account that
-- became active, waits like a backfill, behind the work that the stream has shown.
CREATE TABLE repos_with_interest (
    did TEXT NOT NULL PRIMARY KEY,
    -- The newest commit that is believed: where the next one has to begin. NULL until one was seen.
    rev TEXT,
    -- The CID of its MST root.
    data TEXT,
    -- The event that said so, or the resync: then there is no seq.
    seq INTEGER,
    source TEXT,
    time TEXT,
    -- 'synchronized'; 'desynchronized': it has to be fetched as a whole; 'resyncing' and 'throttled':
    -- it is being fetched, or the fetch waits; 'unverified_chain': its chain is not checked.
    state TEXT NOT NULL,
    -- Why it was last found to be desynchronized.
    cause TEXT,
    -- 1 where all that the set of interest in force wants of it was seen: from its first commit on,
    -- or by fetching it.
    is_whole INTEGER NOT NULL DEFAULT 0,
    -- 1 while commits of it are in parked_commits.
    has_parked INTEGER NOT NULL DEFAULT 0,
    -- Not NULL while its head has to be compared with its host: the gap in which a commit may have
    -- been missed, or 0 because a commit was refused.
    recheck_cause INTEGER,
    -- When its job is due again (NULL: at once), and how many attempts have failed.
    retry_at TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    updated_at TEXT NOT NULL,
    -- The job that is due, the most urgent first: 0 replay its parked commits, 1 fetch it because the
    -- stream has shown a loss, 2 compare it, 3 fetch it because its past is wanted (a backfill, a wider
    -- set, an account that became active). NULL: no job.
    urgency INTEGER GENERATED ALWAYS AS (CASE
        WHEN state IN ('desynchronized', 'resyncing', 'throttled')
        THEN iif(cause IN ('announced', 'backfill', 'interest') AND has_parked = 0, 3, 1)
        WHEN has_parked = 1 THEN 0
        WHEN recheck_cause IS NOT NULL THEN 2
    END) VIRTUAL
);

INSERT INTO repos_with_interest (
    did, rev, data, seq, source, time, state, cause, is_whole, has_parked, recheck_cause, retry_at,
    attempts, updated_at
)
SELECT
    did, rev, data, seq, source, time, state, cause, is_whole, has_parked, recheck_cause, retry_at,
    attempts, updated_at
FROM repos;

DROP TABLE repos;
ALTER TABLE repos_with_interest RENAME TO repos;
CREATE INDEX repos_urgent ON repos (urgency, retry_at) WHERE urgency IS NOT NULL;

-- With the uri too, so that counting an offer's visible bookings reads the index alone.
DROP INDEX bookings_by_offer;
CREATE INDEX bookings_by_offer ON bookings (offer_uri, status, did, uri);

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
