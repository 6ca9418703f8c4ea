-- What the network says of an account. An account that no event spoke of has no row, and is active.
--
-- Status and handle come from different events, so each has its own guard: the time and seq of the
-- event that set it. Relays renumber seqs but keep times, hence the time decides first.
CREATE TABLE accounts (
    did TEXT NOT NULL PRIMARY KEY,
    -- Claimed by the account's server, and not verified.
    handle TEXT,
    handle_as_of TEXT,
    handle_as_of_seq INTEGER,
    active INTEGER NOT NULL DEFAULT 1,
    status TEXT,
    as_of TEXT,
    as_of_seq INTEGER,
    -- The time of the latest deletion of the account, whatever its status is by now. Records of
    -- events up to then are gone for good; later ones are welcome.
    removed_at TEXT
);
