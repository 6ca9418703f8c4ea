-- The rows that discovery and matching read, one per live record of the three collections.
--
-- Bookings, requests and offers live in different people's repositories and arrive in any order. So
-- what one says of another is a soft reference (uri and cid, no foreign key), resolved when read.
-- Statuses are an open vocabulary.
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
);

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
);

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
);

CREATE INDEX bookings_by_did ON bookings (did);
-- With the did, so that counting an offer's confirmed bookings reads the index alone.
CREATE INDEX bookings_by_offer ON bookings (offer_uri, status, did);
