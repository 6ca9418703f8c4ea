-- What operators ask for. The worker carries the commands out in the order of their ids; what was running
-- when it died is interrupted, and is done again.
CREATE TABLE commands (
    id INTEGER PRIMARY KEY,
    -- The kind, and the other fields of the command as JSON.
    kind TEXT NOT NULL,
    arguments TEXT NOT NULL,
    -- Who asked for it, and why.
    actor TEXT NOT NULL,
    reason TEXT,
    created_at TEXT NOT NULL,
    -- 'queued', 'running', 'interrupted'; and at its end 'done', 'failed', 'cancelled' or 'denied'.
    state TEXT NOT NULL,
    started_at TEXT,
    ended_at TEXT,
    -- How many times in a row it was running when the worker died.
    interruptions INTEGER NOT NULL DEFAULT 0,
    -- How far a long command is, as JSON. It goes on from there.
    progress TEXT,
    -- What came of it: JSON, or the reason of a failure.
    result TEXT,
    error TEXT,
    -- A request with the same key within a day is this one.
    idempotency_key TEXT
);

CREATE INDEX commands_open ON commands (id) WHERE ended_at IS NULL;
CREATE INDEX commands_ended ON commands (ended_at) WHERE ended_at IS NOT NULL;
CREATE UNIQUE INDEX commands_by_key ON commands (idempotency_key) WHERE idempotency_key IS NOT NULL;

-- Who did what, in the transaction of its effect. What was denied is here too.
CREATE TABLE audit (
    id INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    actor TEXT NOT NULL,
    -- NULL: the worker itself did it at its start, or nothing was asked for in a form that can be read.
    command INTEGER,
    action TEXT NOT NULL,
    -- The account, source or setting that it is about; '' where it is about the worker.
    target TEXT NOT NULL,
    -- JSON.
    before TEXT,
    after TEXT,
    reason TEXT,
    -- 'ok', 'failed' or 'denied'.
    outcome TEXT NOT NULL,
    -- Why it failed or was denied.
    problem TEXT
);

-- A command that is done again has one row for each effect.
CREATE UNIQUE INDEX audit_of_command ON audit (command, target, action) WHERE command IS NOT NULL;
CREATE INDEX audit_by_age ON audit (at);
CREATE INDEX audit_by_target ON audit (target, id);

-- Settings that an operator has changed while the worker ran. They win over the configuration until they
-- are reset, or until the configuration says something else than when they were set.
CREATE TABLE run_time_settings (
    name TEXT NOT NULL PRIMARY KEY,
    -- Both as JSON.
    value TEXT NOT NULL,
    configured TEXT NOT NULL,
    set_at TEXT NOT NULL,
    set_by TEXT NOT NULL
) WITHOUT ROWID;

-- What an operator has paused: 'backfill', or 'source:' and the id of the source.
CREATE TABLE pauses (
    subject TEXT NOT NULL PRIMARY KEY,
    since TEXT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT
) WITHOUT ROWID;

-- Where the cursor of each source stood, once a minute, so that it can be moved back by a time.
CREATE TABLE cursor_marks (
    source TEXT NOT NULL,
    seq INTEGER NOT NULL,
    -- The time of the event with that seq, and the time of the worker's clock.
    event_time TEXT,
    marked_at TEXT NOT NULL,
    PRIMARY KEY (source, seq)
) WITHOUT ROWID;
