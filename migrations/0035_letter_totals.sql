-- How many dead letters there are, and their bytes: those of `raw` and of `task`. An id is never given twice,
-- though the letter with the highest one is deleted: an operator and a command mean a letter by its id.
CREATE TABLE dead_letter_totals (
    letters INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    -- The highest id that was ever given.
    last_id INTEGER NOT NULL
);

INSERT INTO dead_letter_totals
SELECT count(*), coalesce(sum(octet_length(raw) + coalesce(octet_length(task), 0)), 0), coalesce(max(id), 0)
FROM dead_letters;

CREATE TRIGGER dead_letter_kept AFTER INSERT ON dead_letters
BEGIN
    UPDATE dead_letters SET id = (SELECT last_id + 1 FROM dead_letter_totals)
    WHERE id = new.id AND new.id <= (SELECT last_id FROM dead_letter_totals);
    UPDATE dead_letter_totals SET letters = letters + 1,
        bytes = bytes + octet_length(new.raw) + coalesce(octet_length(new.task), 0),
        last_id = max(last_id + 1, new.id);
END;

CREATE TRIGGER dead_letter_gone AFTER DELETE ON dead_letters
BEGIN
    UPDATE dead_letter_totals SET letters = letters - 1,
        bytes = bytes - octet_length(old.raw) - coalesce(octet_length(old.task), 0);
END;
