-- Every kept record, whatever its collection. Only a higher rev replaces a row.
--
-- A deleted record leaves its row behind as a tombstone (also where there was none), so that an
-- older create that comes late can't bring it back.
--
-- Datetimes that people query are UTC text of fixed width, YYYY-MM-DDTHH:MM:SS.sssZ, which sorts.
CREATE TABLE records (
    uri TEXT NOT NULL PRIMARY KEY,
    did TEXT NOT NULL,
    collection TEXT NOT NULL,
    rkey TEXT NOT NULL,
    cid TEXT,
    rev TEXT NOT NULL,
    -- Where the version came from: the source, the seq and the time of its event.
    seq INTEGER NOT NULL,
    source TEXT NOT NULL,
    time TEXT NOT NULL,
    -- As JSON, to be queried, and as signed, to be verified.
    record TEXT,
    record_cbor BLOB,
    -- 'valid', 'invalid' or 'unvalidated'; NULL for a tombstone.
    validity TEXT,
    invalid_reason TEXT,
    first_indexed_at TEXT NOT NULL,
    last_indexed_at TEXT NOT NULL,
    deleted INTEGER NOT NULL DEFAULT 0,
    CHECK (deleted = (record IS NULL))
);

-- An account's records are hidden, shown and removed together.
CREATE INDEX records_by_did ON records (did);

CREATE INDEX records_by_collection ON records (collection, time);
