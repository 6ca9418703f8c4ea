-- The views have `handle_status`, as in the worker's own database, and accounts have a view. Views of
-- lexicons.

-- Accounts that are active, as they may be shown: a handle that is not verified is none.
CREATE VIEW visible_accounts AS
SELECT
    did, CASE WHEN handle_status = 'verified' THEN handle END AS handle, handle AS claimed_handle,
    handle_status
FROM accounts
WHERE active = 1;

CREATE OR REPLACE VIEW visible_records AS
SELECT
    uri, did, collection, rkey, cid, rev, seq, source, time, record, record_cbor, validity,
    invalid_reason, first_indexed_at, last_indexed_at,
    coalesce(
        (SELECT accounts.handle_status FROM accounts WHERE accounts.did = records.did), 'unknown'
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

CREATE OR REPLACE VIEW visible_bookings AS
SELECT
    uri, did, rkey, cid, rev, offer_uri, offer_cid, request_uri, request_cid, starts_at, ends_at,
    status, created_at, indexed_at,
    coalesce(
        (SELECT accounts.handle_status FROM accounts WHERE accounts.did = bookings.did), 'unknown'
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

CREATE OR REPLACE VIEW open_offers AS
SELECT
    uri, did, rkey, cid, rev, title, description, starts_at, ends_at, timezone, duration_minutes,
    capacity, capacity - taken.places AS places_left, location, tags, created_at, indexed_at,
    coalesce(
        (SELECT accounts.handle_status FROM accounts WHERE accounts.did = offers_index.did), 'unknown'
    ) AS handle_status
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

CREATE OR REPLACE VIEW active_booking_requests AS
SELECT
    uri, did, rkey, cid, rev, offer_uri, offer_cid, note, requested_start, status, created_at,
    indexed_at,
    coalesce(
        (SELECT accounts.handle_status FROM accounts WHERE accounts.did = booking_requests.did),
        'unknown'
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

-- The views that are made from lexicons, so that they can be made anew when a lexicon changes, and dropped
-- when it is gone.
CREATE TABLE lexicon_views (
    name text COLLATE "C" NOT NULL PRIMARY KEY,
    collection text COLLATE "C" NOT NULL,
    -- The sink that made it. Another one, whose worker knows other lexicons, does not drop it.
    sink text COLLATE "C" NOT NULL,
    -- The SHA-256 of the statement that made it.
    digest text COLLATE "C" NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now()
);

-- The moment that a datetime of the protocol names, cut to milliseconds; NULL for a text that is none. It
-- never fails, so that no record of a stranger stops a query. The zone is subtracted as hours and minutes,
-- since a timestamptz reads none beyond 16 hours.
CREATE FUNCTION lexicon_moment(value text) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    part text[] := regexp_match(
        value,
        '^(\d{4}-\d{2}-\d{2}T[0-2]\d:[0-5]\d:[0-5]\d)(?:(\.\d{1,3})\d*)?(?:Z|([+-])(\d{2}):(\d{2}))$'
    );
    away interval;
BEGIN
    IF part IS NULL OR value < '0001-01-02' THEN
        RETURN NULL;
    END IF;
    away := make_interval(hours => coalesce(part[4], '0')::int, mins => coalesce(part[5], '0')::int);
    IF part[3] = '-' THEN
        away := -away;
    END IF;
    RETURN ((part[1] || coalesce(part[2], ''))::timestamp - away) AT TIME ZONE 'UTC';
EXCEPTION
    WHEN data_exception THEN
        RETURN NULL;
END
$$;
