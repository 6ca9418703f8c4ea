-- Identities that were looked up, so that a restart does not ask the directory for every account
-- again. They are a cache: a row that is missing is looked up. The row of an account is deleted with
-- the transaction that applies an #identity event of it.
CREATE TABLE identities (
    did TEXT NOT NULL PRIMARY KEY,
    -- A Multikey, as the document has it.
    signing_key TEXT NOT NULL,
    -- NULL: the document names no usable host.
    pds TEXT,
    -- As the account claims it.
    handle TEXT,
    -- When the directory or the host said so.
    looked_up_at TEXT NOT NULL,
    -- It is from an export of the directory, and was not looked up since.
    is_imported INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

-- The oldest rows are dropped where there are too many.
CREATE INDEX identities_by_age ON identities (looked_up_at);

-- How far each export of a directory is read.
CREATE TABLE identity_imports (
    -- The file or the URL.
    source TEXT NOT NULL PRIMARY KEY,
    -- The byte of a file at which the next line begins, or the `after` of the next page of a URL.
    position TEXT NOT NULL,
    -- The `createdAt` of the last operation that was read.
    as_of TEXT,
    lines INTEGER NOT NULL
) WITHOUT ROWID;
