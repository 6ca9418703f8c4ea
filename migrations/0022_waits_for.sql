-- 1 while the job of the repository waits for what is its account's own, such as its host. An account can
-- have that last for ever, so its parked commits are then no lag of the worker.
ALTER TABLE repos ADD COLUMN waits_for_account INTEGER NOT NULL DEFAULT 0;
