-- The records of an account, asked for by its DID. The worker itself asks by URIs, but readers write
-- `WHERE did = ?`, and without this index each such query reads the whole table.
CREATE INDEX records_by_did ON records (did);
