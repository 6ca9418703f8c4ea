-- 1 while the server that is asked does not have the method that the search needs. Nothing waits for such
-- a search. The column collection holds a collection, 'listRepos' (all repositories that the relay index
-- lists) or 'dids_allow' (the accounts of that setting).
ALTER TABLE discoveries ADD COLUMN is_unsupported INTEGER NOT NULL DEFAULT 0;

-- The repositories that could not be compared with their hosts since a gap, whether the gap is still
-- open or was closed without them. They are tried again at retry_at (NULL: at once), for ever.
CREATE VIEW uncompared_repos AS
SELECT did, recheck_cause AS gap, state, attempts, retry_at
FROM repos
WHERE urgency IS NOT NULL
AND (recheck_cause > 0 OR (cause = 'gap' AND state IN ('desynchronized', 'resyncing', 'throttled')))
AND NOT EXISTS (SELECT 1 FROM accounts WHERE accounts.did = repos.did AND active = 0);
