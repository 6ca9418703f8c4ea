-- The tables and views of a Postgres sink: those that readers of the worker's own database use, under the
-- same names and with the same columns, typed. The worker runs this with the schema of the sink as the
-- search path, in one transaction.

-- How far each feed is delivered, by the name of the sink. Written in the transaction that writes the
-- rows, so a restored database is at the position that it had.
CREATE TABLE sink_positions (
    sink text COLLATE "C" NOT NULL,
    feed text COLLATE "C" NOT NULL,
    epoch text COLLATE "C" NOT NULL,
    change bigint NOT NULL,
    -- The process that delivers. Another one takes over by writing its own; what the former one still
    -- sends is refused.
    holder text COLLATE "C" NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (sink, feed)
);

-- The epochs that a feed's database knows, and the last number of each that is still what it was (NULL:
-- the epoch is in progress). Two changes can be compared by their numbers only if both are among them.
CREATE TABLE sink_epochs (
    feed text COLLATE "C" NOT NULL,
    epoch text COLLATE "C" NOT NULL,
    through bigint,
    PRIMARY KEY (feed, epoch)
);

CREATE TABLE records (
    uri text COLLATE "C" NOT NULL PRIMARY KEY,
    did text COLLATE "C" NOT NULL,
    collection text COLLATE "C" NOT NULL,
    rkey text COLLATE "C" NOT NULL,
    cid text COLLATE "C",
    rev text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    source text COLLATE "C" NOT NULL,
    time timestamptz NOT NULL,
    -- U+0000 is U+FFFD here, since jsonb has no place for it. record_cbor has what was signed.
    record jsonb,
    record_cbor bytea,
    validity text COLLATE "C",
    invalid_reason text COLLATE "C",
    first_indexed_at timestamptz NOT NULL,
    last_indexed_at timestamptz NOT NULL,
    deleted smallint NOT NULL,
    verified text COLLATE "C" NOT NULL,
    refused_cid text COLLATE "C",
    -- The change that wrote the row.
    feed text COLLATE "C" NOT NULL,
    epoch text COLLATE "C" NOT NULL,
    change bigint NOT NULL,
    CONSTRAINT tombstones_have_no_record CHECK ((deleted = 1) = (record IS NULL))
);

CREATE INDEX records_by_collection ON records (collection, time);

CREATE TABLE accounts (
    did text COLLATE "C" NOT NULL PRIMARY KEY,
    handle text COLLATE "C",
    -- 'verified', 'invalid' or 'unknown': whether the handle is the account's.
    handle_status text COLLATE "C" NOT NULL,
    active smallint NOT NULL,
    status text COLLATE "C",
    -- The time of the latest event that set something.
    as_of timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    -- The latest deletion, and the change that removed what the feed had told before (NULL: the feed had
    -- told nothing before).
    removed_at timestamptz,
    removal_feed text COLLATE "C",
    removal_epoch text COLLATE "C",
    removal_change bigint,
    -- The change that wrote the row.
    feed text COLLATE "C" NOT NULL,
    epoch text COLLATE "C" NOT NULL,
    change bigint NOT NULL
);

-- Accounts whose rows are being deleted, in pieces. No view shows these rows.
CREATE TABLE account_removals (
    did text COLLATE "C" NOT NULL,
    feed text COLLATE "C" NOT NULL,
    epoch text COLLATE "C",
    change bigint,
    -- NULL: the deletion has no time that counts for another feed.
    removed_at timestamptz,
    -- The URI up to which records are deleted.
    done_through text COLLATE "C" NOT NULL,
    PRIMARY KEY (did, feed)
);

-- Records that the set of interest of the worker did not want for a while. No view shows them.
CREATE TABLE stale_records (
    uri text COLLATE "C" NOT NULL PRIMARY KEY,
    did text COLLATE "C" NOT NULL
);

CREATE TABLE offers_index (
    uri text COLLATE "C" NOT NULL PRIMARY KEY,
    did text COLLATE "C" NOT NULL,
    rkey text COLLATE "C" NOT NULL,
    cid text COLLATE "C" NOT NULL,
    rev text COLLATE "C" NOT NULL,
    title text COLLATE "C" NOT NULL,
    description text COLLATE "C",
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    timezone text COLLATE "C",
    duration_minutes bigint,
    capacity bigint,
    location text COLLATE "C",
    tags jsonb NOT NULL,
    status text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    indexed_at timestamptz NOT NULL
);

CREATE INDEX offers_by_host ON offers_index (did, starts_at);
CREATE INDEX offers_by_start ON offers_index (starts_at);
CREATE INDEX offers_open_by_end ON offers_index (ends_at) WHERE status = 'open';

CREATE TABLE booking_requests (
    uri text COLLATE "C" NOT NULL PRIMARY KEY,
    did text COLLATE "C" NOT NULL,
    rkey text COLLATE "C" NOT NULL,
    cid text COLLATE "C" NOT NULL,
    rev text COLLATE "C" NOT NULL,
    offer_uri text COLLATE "C" NOT NULL,
    offer_cid text COLLATE "C" NOT NULL,
    note text COLLATE "C",
    requested_start timestamptz,
    status text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    indexed_at timestamptz NOT NULL
);

CREATE INDEX booking_requests_by_did ON booking_requests (did);
-- By hash: the URI is text of a stranger, and an entry of a tree has a limit of 2.7 kB.
CREATE INDEX booking_requests_by_offer ON booking_requests USING hash (offer_uri);
CREATE INDEX booking_requests_ended ON booking_requests (indexed_at)
WHERE status IN ('cancelled', 'completed', 'declined');

CREATE TABLE bookings (
    uri text COLLATE "C" NOT NULL PRIMARY KEY,
    did text COLLATE "C" NOT NULL,
    rkey text COLLATE "C" NOT NULL,
    cid text COLLATE "C" NOT NULL,
    rev text COLLATE "C" NOT NULL,
    offer_uri text COLLATE "C" NOT NULL,
    offer_cid text COLLATE "C" NOT NULL,
    request_uri text COLLATE "C",
    request_cid text COLLATE "C",
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    status text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    indexed_at timestamptz NOT NULL
);

CREATE INDEX bookings_by_did ON bookings (did);
CREATE INDEX bookings_by_offer ON bookings USING hash (offer_uri);

-- The records that are being deleted. Ask by did and uri: as a rule no account is being removed, and
-- then no record is read. Numbers tell only where both the record's and the removal's are remembered:
-- a database that was put back gives them out again.
CREATE VIEW removed_records AS
SELECT removal.did, records.uri, removal.feed AS removal_feed
FROM account_removals AS removal
INNER JOIN records
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
    ELSE least(records.time, records.last_indexed_at) <= removal.removed_at
END;

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
    capacity, capacity - taken.places AS places_left, location, tags, created_at, indexed_at
FROM offers_index
CROSS JOIN LATERAL (
    SELECT count(*) AS places FROM visible_bookings
    WHERE
        visible_bookings.offer_uri = offers_index.uri
        AND visible_bookings.status = 'confirmed'
) AS taken
WHERE
    status = 'open'
    AND ends_at > now()
    AND NOT EXISTS (SELECT 1 FROM stale_records WHERE stale_records.uri = offers_index.uri)
    AND NOT EXISTS (
        SELECT 1 FROM removed_records
        WHERE removed_records.did = offers_index.did AND removed_records.uri = offers_index.uri
    )
    AND NOT EXISTS (
        SELECT 1 FROM accounts WHERE accounts.did = offers_index.did AND accounts.active = 0
    )
    AND (capacity IS NULL OR capacity > taken.places);

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
    to_char(starts_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day,
    status,
    split_part(offer_uri, '/', 3) AS host,
    count(*) AS bookings
FROM visible_bookings
GROUP BY 1, 2, 3;
