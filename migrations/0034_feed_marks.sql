-- Where the change feed stood, once a minute, so that a sink can be set back by a time.
CREATE TABLE feed_marks (
    change INTEGER NOT NULL PRIMARY KEY,
    marked_at TEXT NOT NULL
);
