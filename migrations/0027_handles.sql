-- Handles are verified: the account's document has to declare the handle, and DNS or the handle's host
-- has to name the account.

-- 'verified', 'invalid' (none is declared, or it leads to no account or to another one) or 'unknown' (not
-- checked yet).
ALTER TABLE accounts ADD COLUMN handle_status TEXT NOT NULL DEFAULT 'unknown';
-- When that was found out, and when it is checked next: NULL is at once.
ALTER TABLE accounts ADD COLUMN handle_checked_at TEXT;
ALTER TABLE accounts ADD COLUMN handle_check_at TEXT;

-- Accounts that are active, as they may be shown: a handle that is not verified is none.
CREATE VIEW visible_accounts AS
SELECT
    did, iif(handle_status = 'verified', handle, NULL) AS handle, handle AS claimed_handle,
    handle_status, handle_checked_at
FROM accounts
WHERE active = 1;

-- The views have `handle_status`, behind the columns that they had.
DROP VIEW booking_statistics;
DROP VIEW active_booking_requests;
DROP VIEW open_offers;
DROP VIEW visible_bookings;
DROP VIEW visible_records;

-- Records that exist and are up to date, of accounts that are active.
CREATE VIEW visible_records AS
SELECT
    uri, did, collection, rkey, cid, rev, seq, source, time, record, record_cbor, validity,
    invalid_reason, first_indexed_at, last_indexed_at,
    coalesce(
        (SELECT handle_status FROM accounts WHERE accounts.did = records.did), 'unknown'
    ) AS handle_status
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

