-- Who says what about an account: the source, its host, an operator.

-- 'takendown' or 'suspended', as the source said. The account's host cannot end it. NULL once the source
-- says that the account is active.
ALTER TABLE accounts ADD COLUMN held_status TEXT;
-- The event that set or ended it.
ALTER TABLE accounts ADD COLUMN hold_as_of TEXT;
ALTER TABLE accounts ADD COLUMN hold_as_of_seq INTEGER;
ALTER TABLE accounts ADD COLUMN hold_as_of_source TEXT;
-- 1 while an operator shows the account although the source holds it.
ALTER TABLE accounts ADD COLUMN is_overridden INTEGER NOT NULL DEFAULT 0;
-- The status with which the host refused the account's repository. It hides nothing until it is
-- confirmed.
ALTER TABLE accounts ADD COLUMN suspected_status TEXT;
-- When the handle is taken from the account's document. NULL means never.
ALTER TABLE accounts ADD COLUMN handle_due_at TEXT;
-- When the row was last written, or found to be still needed, by our own clock.
ALTER TABLE accounts ADD COLUMN updated_at TEXT NOT NULL DEFAULT '';

UPDATE accounts SET updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now');

-- A status with the seq 0 did not come from the source: a host refused a repository. Until now one such
-- answer hid the account.
UPDATE accounts SET
    active = 1,
    status = NULL,
    suspected_status = status,
    is_unconfirmed = 1,
    retry_at = NULL,
    attempts = 0
WHERE active = 0 AND as_of_seq = 0 AND is_unconfirmed = 1;

UPDATE accounts SET
    held_status = status,
    hold_as_of = as_of,
    hold_as_of_seq = as_of_seq,
    hold_as_of_source = as_of_source,
    is_unconfirmed = 0,
    retry_at = NULL,
    attempts = 0
WHERE active = 0 AND status IN ('takendown', 'suspended') AND as_of_seq IS NOT 0;

-- Handles and statuses were kept as they came. These statements keep only what can be right; the worker
-- checks each one that comes from now on.
UPDATE accounts SET handle = NULL
WHERE
    length(CAST(handle AS BLOB)) > 253
    OR instr(CAST(handle AS BLOB), X'00') > 0
    OR handle GLOB '*[^a-zA-Z0-9.-]*'
    OR handle NOT LIKE '%_._%';
UPDATE accounts SET handle = lower(handle) WHERE handle GLOB '*[A-Z]*';
UPDATE accounts SET status = NULL
WHERE
    status = ''
    OR length(CAST(status AS BLOB)) > 64
    OR instr(CAST(status AS BLOB), X'00') > 0
    OR status GLOB '*[^a-zA-Z0-9._:#-]*';

CREATE INDEX accounts_by_age ON accounts (updated_at);
CREATE INDEX accounts_handle_due ON accounts (handle_due_at) WHERE handle_due_at IS NOT NULL;
