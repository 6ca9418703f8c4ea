-- How the worker's runs ended, so that a frame that ends the whole process each time it is read can be
-- found: it is not in anybody's memory then.

-- Runs that began and have not come to a good end.
CREATE TABLE unfinished_runs (
    source TEXT PRIMARY KEY,
    runs INTEGER NOT NULL,
    -- SHA-256 of the frame that is being read, where frames are read one by one.
    in_hand BLOB
);

-- Frames that were being read when a run ended.
CREATE TABLE crash_suspects (
    source TEXT NOT NULL,
    frame_sha256 BLOB NOT NULL,
    crashes INTEGER NOT NULL,
    PRIMARY KEY (source, frame_sha256)
);
