-- How far a sink is that keeps no position of its own, such as a webhook or a queue. It moves behind the
-- sink's answer: after a crash some changes are delivered once more.
CREATE TABLE sink_positions (
    sink TEXT NOT NULL PRIMARY KEY,
    epoch TEXT NOT NULL,
    change INTEGER NOT NULL,
    -- What the sink was when it took them: a stream that was created anew has nothing.
    target TEXT NOT NULL,
    updated_at TEXT NOT NULL
) WITHOUT ROWID;
