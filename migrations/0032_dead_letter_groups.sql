-- Letters of one stage whose errors are the same apart from names and numbers. NULL in a letter of an
-- earlier version until the next start, which sets it.
ALTER TABLE dead_letters ADD COLUMN error_group TEXT;
-- When it was tried again last, and refused again.
ALTER TABLE dead_letters ADD COLUMN retried_at TEXT;

CREATE INDEX dead_letters_by_group ON dead_letters (error_group, created_at);
