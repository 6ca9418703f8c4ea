-- The tables and views of a D1 sink: those that readers of the worker's own database use, under the same
-- names and with the same columns. The worker runs this, one batch a file, and writes the name of the file
-- into wrangler's table `d1_migrations`. So `wrangler d1 migrations apply` may run it as well.
--
-- D1 bills each row and each index entry that is written. A table WITHOUT ROWID has one entry less.

-- How far each feed is delivered, by the name of the sink. Written in the batch that writes the rows, so
-- a restored database is at the position that it had.
CREATE TABLE sink_positions (
    sink TEXT NOT NULL,
    feed TEXT NOT NULL,
    epoch TEXT NOT NULL,
    change INTEGER NOT NULL,
    -- The process that delivers. Another one takes over by writing its own. Then what the former
    -- one still sends is refused.
    holder TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    PRIMARY KEY (sink, feed)
) WITHOUT ROWID;

-- Always empty. A batch whose sender does not hold the position writes 0 here, and fails as a whole.
CREATE TABLE sink_guard (
    ok INTEGER NOT NULL,
    CONSTRAINT sink_position_is_held CHECK (ok = 1)
);

-- The epochs that a feed's database knows, and the last number of each that is still what it was (NULL:
-- the epoch is in progress). Two changes can be compared by their numbers only if both are among them.
CREATE TABLE sink_epochs (
    feed TEXT NOT NULL,
    epoch TEXT NOT NULL,
    through INTEGER,
    PRIMARY KEY (feed, epoch)
) WITHOUT ROWID;

CREATE TABLE records (
    uri TEXT NOT NULL PRIMARY KEY,
    did TEXT NOT NULL,
    collection TEXT NOT NULL,
    rkey TEXT NOT NULL,
    cid TEXT,
    rev TEXT NOT NULL,
    seq INTEGER NOT NULL,
    source TEXT NOT NULL,
    time TEXT NOT NULL,
    record TEXT,
    -- NULL: a row of D1 has a place for either.
    record_cbor BLOB,
    validity TEXT,
    invalid_reason TEXT,
    first_indexed_at TEXT NOT NULL,
    last_indexed_at TEXT NOT NULL,
    deleted INTEGER NOT NULL,
    verified TEXT NOT NULL,
    refused_cid TEXT,
    -- 1 where the record is too large for D1. Its host has it.
    omitted INTEGER NOT NULL DEFAULT 0,
    -- The change that wrote the row.
    feed TEXT NOT NULL,
    epoch TEXT NOT NULL,
    change INTEGER NOT NULL,
    CONSTRAINT tombstones_have_no_record CHECK ((deleted = 1) = (record IS NULL AND omitted = 0)),
    CONSTRAINT omitted_records_are_not_there CHECK (omitted = 0 OR record IS NULL)
) WITHOUT ROWID;

CREATE INDEX records_by_collection ON records (collection, time);

CREATE TABLE accounts (
    did TEXT NOT NULL PRIMARY KEY,
    handle TEXT,
    -- 'verified', 'invalid' or 'unknown': whether the handle is the account's.
    handle_status TEXT NOT NULL,
    active INTEGER NOT NULL,
    status TEXT,
    -- The time of the latest event that set something.
    as_of TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    -- The latest deletion, and the change that removed what the feed had told before (NULL: the feed had
    -- told nothing before).
    removed_at TEXT,
    removal_feed TEXT,
    removal_epoch TEXT,
    removal_change INTEGER,
    -- The change that wrote the row.
    feed TEXT NOT NULL,
    epoch TEXT NOT NULL,
    change INTEGER NOT NULL
) WITHOUT ROWID;

-- Accounts whose rows are being deleted, in pieces. No view shows these rows.
CREATE TABLE account_removals (
    did TEXT NOT NULL,
    feed TEXT NOT NULL,
    epoch TEXT,
    change INTEGER,
    -- NULL: the deletion has no time that counts for another feed.
    removed_at TEXT,
    -- The URI up to which records are deleted.
    done_through TEXT NOT NULL,
    -- The end of the piece that the batch in progress deletes. Between batches it is NULL.
    piece_through TEXT,
    PRIMARY KEY (did, feed)
) WITHOUT ROWID;

-- Records that the set of interest of the worker did not want for a while. No view shows them.
CREATE TABLE stale_records (
    uri TEXT NOT NULL PRIMARY KEY,
    did TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE offers_index (
    uri TEXT NOT NULL PRIMARY KEY,
    did TEXT NOT NULL,
    rkey TEXT NOT NULL,
    cid TEXT NOT NULL,
    rev TEXT NOT NULL,
    title TEXT NOT NULL,
    description TEXT,
    starts_at TEXT NOT NULL,
    ends_at TEXT NOT NULL,
    timezone TEXT,
    duration_minutes INTEGER,
    -- NULL is without limit.
    capacity INTEGER,
    location TEXT,
    -- A JSON array of strings.
    tags TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at TEXT NOT NULL,
    indexed_at TEXT NOT NULL
) WITHOUT ROWID;

CREATE INDEX offers_by_host ON offers_index (did, starts_at);
CREATE INDEX offers_by_start ON offers_index (starts_at);
CREATE INDEX offers_open_by_end ON offers_index (ends_at) WHERE status = 'open';

CREATE TABLE booking_requests (
    uri TEXT NOT NULL PRIMARY KEY,
    did TEXT NOT NULL,
    rkey TEXT NOT NULL,
    cid TEXT NOT NULL,
    rev TEXT NOT NULL,
    offer_uri TEXT NOT NULL,
    offer_cid TEXT NOT NULL,
    note TEXT,
    requested_start TEXT,
    status TEXT NOT NULL,
    created_at TEXT NOT NULL,
    indexed_at TEXT NOT NULL
) WITHOUT ROWID;

CREATE INDEX booking_requests_by_did ON booking_requests (did);
CREATE INDEX booking_requests_by_offer ON booking_requests (offer_uri);

-- Those that have come to an end are purged by age.
CREATE INDEX booking_requests_ended ON booking_requests (indexed_at)
WHERE status IN ('cancelled', 'completed', 'declined');

CREATE TABLE bookings (
    uri TEXT NOT NULL PRIMARY KEY,
    did TEXT NOT NULL,
    rkey TEXT NOT NULL,
    cid TEXT NOT NULL,
    rev TEXT NOT NULL,
    offer_uri TEXT NOT NULL,
    offer_cid TEXT NOT NULL,
    request_uri TEXT,
    request_cid TEXT,
    starts_at TEXT NOT NULL,
    ends_at TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at TEXT NOT NULL,
    indexed_at TEXT NOT NULL
) WITHOUT ROWID;

CREATE INDEX bookings_by_did ON bookings (did);
-- With the did, so that counting an offer's visible bookings reads the index alone.
CREATE INDEX bookings_by_offer ON bookings (offer_uri, status, did);

-- The records that are being deleted. Ask by did and uri: as a rule no account is being removed, and
-- then no record is read. Numbers tell only where both the record's and the removal's are remembered:
-- a database that was put back gives them out again.
CREATE VIEW removed_records AS
SELECT removal.did, records.uri, removal.feed AS removal_feed
FROM account_removals AS removal
CROSS JOIN records
    ON records.uri > 'at://' || removal.did || '/' AND records.uri < 'at://' || removal.did || '0'
WHERE CASE
    WHEN records.feed = removal.feed AND EXISTS (
        SELECT 1 FROM sink_epochs AS known
        WHERE
            known.feed = records.feed AND known.epoch = records.epoch
            AND records.change <= coalesce(known.through, 9223372036854775807)
    ) AND (removal.change IS NULL OR EXISTS (
        SELECT 1 FROM sink_epochs AS known
        WHERE
            known.feed = removal.feed AND known.epoch = removal.epoch
            AND removal.change <= coalesce(known.through, 9223372036854775807)
    ))
    THEN records.change < coalesce(removal.change, 0)
    ELSE min(records.time, records.last_indexed_at) <= removal.removed_at
END;

-- Those of the piece in progress. The removed ones are among the URIs up to the end of the piece.
CREATE VIEW removal_piece AS
SELECT removal.did, records.uri
FROM account_removals AS removal
CROSS JOIN records
    ON records.uri > removal.done_through AND records.uri <= removal.piece_through
WHERE EXISTS (
    SELECT 1 FROM removed_records AS removed
    WHERE
        removed.did = removal.did AND removed.uri = records.uri
        AND removed.removal_feed = removal.feed
);

-- Accounts that are active, as they may be shown: a handle that is not verified is none.
CREATE VIEW visible_accounts AS
SELECT
    did, iif(handle_status = 'verified', handle, NULL) AS handle, handle AS claimed_handle,
    handle_status
FROM accounts
WHERE active = 1;

-- Records that exist and are up to date, of accounts that are active. `record` is NULL where it is
-- omitted.
CREATE VIEW visible_records AS
SELECT
    uri, did, collection, rkey, cid, rev, seq, source, time, record, record_cbor, validity,
    invalid_reason, first_indexed_at, last_indexed_at,
    coalesce(
        (SELECT handle_status FROM accounts WHERE accounts.did = records.did), 'unknown'
    ) AS handle_status,
    omitted
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
    status, created_at, indexed_at,
    coalesce(
        (SELECT handle_status FROM accounts WHERE accounts.did = bookings.did), 'unknown'
    ) AS handle_status
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
    location, tags, created_at, indexed_at,
    coalesce(
        (SELECT handle_status FROM accounts WHERE accounts.did = offers_index.did), 'unknown'
    ) AS handle_status
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
    indexed_at,
    coalesce(
        (SELECT handle_status FROM accounts WHERE accounts.did = booking_requests.did), 'unknown'
    ) AS handle_status
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

-- The views that are made from lexicons, so that they can be made anew when a lexicon changes, and dropped
-- when it is gone.
CREATE TABLE lexicon_views (
    name TEXT NOT NULL PRIMARY KEY,
    collection TEXT NOT NULL,
    -- The sink that made it. Another one, whose worker knows other lexicons, does not drop it.
    sink TEXT NOT NULL,
    -- The SHA-256 of the statement that made it.
    digest TEXT NOT NULL,
    made_at TEXT NOT NULL
);
