-- How far a `reprocess` is stands in its command.
DROP TABLE reprocessings;
