-- A search is not begun again while it runs: another pass follows it. A page belongs to the pass in which it was
-- asked for, so a page that arrives late changes no later pass.
ALTER TABLE discoveries ADD COLUMN pass INTEGER NOT NULL DEFAULT 1;
-- 1 where another pass follows, because a gap was found while this one ran.
ALTER TABLE discoveries ADD COLUMN has_next_pass INTEGER NOT NULL DEFAULT 0;

-- Gaps that were closed are purged by age.
CREATE INDEX gaps_closed ON gaps (closed_at) WHERE closed_at IS NOT NULL;
