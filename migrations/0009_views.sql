-- What discovery and matching read. Everything here is derived when read, so no replay can count
-- anything twice, and an account that is hidden or shown takes its rows along at once.

-- Records that exist, of accounts that are active.
CREATE VIEW visible_records AS
SELECT
    uri, did, collection, rkey, cid, rev, seq, source, time, record, record_cbor, validity,
    invalid_reason, first_indexed_at, last_indexed_at
FROM records
WHERE
    deleted = 0
    AND NOT EXISTS (
        SELECT 1 FROM accounts WHERE accounts.did = records.did AND accounts.active = 0
    );

CREATE VIEW visible_bookings AS
SELECT
    uri, did, rkey, cid, rev, offer_uri, offer_cid, request_uri, request_cid, starts_at, ends_at,
    status, created_at, indexed_at
FROM bookings
WHERE
    NOT EXISTS (
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

-- Requests that still want something. An unknown status is active: hiding a request that somebody
-- waits for is worse than showing one too many.
CREATE VIEW active_booking_requests AS
SELECT
    uri, did, rkey, cid, rev, offer_uri, offer_cid, note, requested_start, status, created_at,
    indexed_at
FROM booking_requests
WHERE
    status NOT IN ('cancelled', 'completed', 'declined')
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
