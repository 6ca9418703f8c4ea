-- Seqs of two sources have nothing to do with each other, so each source has a row of its own.
-- The row 'main' belongs to the first source that is seen; the id of every later row is its source.
-- Rows are made in the order in which sources were first seen, and their rowids tell it.
ALTER TABLE firehose_cursor ADD COLUMN source TEXT;

-- The time of the event at the cursor, to the precision in which the source gave it. It tells one
-- sequence space from another that happens to have similar numbers.
ALTER TABLE firehose_cursor ADD COLUMN event_time TEXT;

-- 1 once an event was applied or an operator has set the cursor. A cursor of '0' alone doesn't say
-- whether anything ever came.
ALTER TABLE firehose_cursor ADD COLUMN moved INTEGER NOT NULL DEFAULT 0;

UPDATE firehose_cursor SET moved = 1 WHERE cursor <> '0';

CREATE UNIQUE INDEX firehose_cursor_source ON firehose_cursor (source);
