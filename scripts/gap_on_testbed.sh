#!/usr/bin/env bash
# Makes the worker miss a part of the reference server's events, and compares its database in the end with
# what the server holds, deletions included.
#
#   scripts/gap_on_testbed.sh TESTBED_DIR [WORK_DIR]
#
# Environment: see testbed.sh.
#
# The gap: the worker is stopped, the traffic continues, the cursor is moved past it. The backfills: a new
# database after the traffic has ended, so that the stream brings none of the records.
set -euo pipefail

. "$(dirname "$0")/testbed.sh"

build_worker
start_server
# Each account brings four events before the traffic begins.
gap_from=$((4 * accounts + commits * 3 / 10)) gap_to=$((4 * accounts + commits * 7 / 10))

server_is_past() {
  (($(server_seq) >= $1))
}

worker_is_past() { # database, seq
  [[ -e $1 ]] && (($(query "$1" 'SELECT coalesce(max(CAST(cursor AS INTEGER)), 0) FROM firehose_cursor') >= $2))
}

echo "== a gap from about seq $gap_from to about $gap_to"
follow() { # name, further flags
  worker_run "$work/$1.db" flag "${@:2}" 2>>"$work/$1.log" &
  started+=($!)
}
first=${#started[@]}
follow gap
follow gap-backfill --backfill true
start_traffic
for name in gap gap-backfill; do
  wait_until 300 "$name did not come to seq $gap_from" worker_is_past "$work/$name.db" "$gap_from"
done
for pid in "${started[@]:first:2}"; do
  kill "$pid"
  wait "$pid"
done
wait_until 300 "the server did not come to seq $gap_to" server_is_past "$gap_to"
moved_to=$(server_seq)
for name in gap gap-backfill; do
  worker_command "$work/$name.db" cursor set "$moved_to" 2>>"$work/$name.log"
  query "$work/$name.db" 'SELECT did FROM repos' >"$work/$name.known"
  query "$work/$name.db" "SELECT 'gap ' || id, cause, from_seq || ' to ' || to_seq FROM gaps"
done
rejoined=${#started[@]}
# A host that refuses a repository is asked again after 30 s, before the account is hidden.
follow gap --stop-after-idle 40
follow gap-backfill --backfill true --stop-after-idle 40
wait "$traffic"
for pid in "${started[@]:rejoined:2}"; do wait "$pid"; done

show_repairs() { # database: prints how its gaps were repaired and what its resyncs changed
  query "$work/$1.db" "SELECT 'gap ' || id, iif(closed_at IS NULL, 'open', 'closed'), resolution FROM gaps"
  query "$work/$1.db" "SELECT 'resyncs', cause, iif(error IS NULL, 'done', 'failed'), count(*), \
    sum(created) || ' created', sum(updated) || ' updated', sum(deleted) || ' deleted', \
    sum(unchanged) || ' unchanged' FROM resyncs GROUP BY 2, 3"
}

is_some_fetched() { # database
  [[ -e $1 ]] && (($(query "$1" "SELECT count(*) FROM resyncs" 2>/dev/null || echo 0) > 2))
}
backfill() { # name, further flags
  worker_command "$work/$1.db" backfill --start live --validation 'com.huddle.*=flag' "${@:2}"
}

echo "== a backfill that is killed, and continues"
backfill backfill >"$work/backfill.out" 2>"$work/backfill.log" &
victim=$!
started+=("$victim")
wait_until 60 "nothing is fetched: $work/backfill.log" is_some_fetched "$work/backfill.db"
kill -KILL "$victim" || true
wait "$victim" 2>/dev/null || true
show_repairs backfill
backfill backfill 2>>"$work/backfill.log" | tail -1

echo "== a backfill beside a worker; both are killed, and continue"
follow_live() {
  worker_run "$work/beside.db" flag --start live 2>>"$work/beside.log" &
  running=$!
  started+=("$running")
}
is_begun() {
  [[ -e $work/beside.db ]] && [[ $(query "$work/beside.db" 'SELECT count(*) FROM firehose_cursor' 2>/dev/null) != 0 ]]
}
follow_live
wait_until 60 "the worker did not begin: $work/beside.log" is_begun
backfill beside --beside >"$work/beside.out" 2>>"$work/beside.log" &
victim=$!
started+=("$victim")
wait_until 60 "nothing is fetched: $work/beside.log" is_some_fetched "$work/beside.db"
kill -KILL "$victim" "$running" || true
wait "$victim" "$running" 2>/dev/null || true
show_repairs beside
follow_live
backfill beside --beside 2>>"$work/beside.log" | tail -1
kill "$running"
wait "$running"

echo "== a resync by the operator: of a database with one record too many, one too few and one that differs"
query "$work/backfill.db" "VACUUM INTO '$work/asked.db'"
did=$(query "$work/asked.db" 'SELECT did FROM visible_records GROUP BY did HAVING count(*) > 3 ORDER BY did LIMIT 1')
python3 - "$work/asked.db" "$did" <<'PYTHON'
import sqlite3, sys

database, did = sys.argv[1:]
with sqlite3.connect(database) as connection:
    columns = [row[1] for row in connection.execute("PRAGMA table_info(records)")]
    uris = [row[0] for row in connection.execute(
        "SELECT uri FROM records WHERE did = ? AND deleted = 0 ORDER BY uri LIMIT 2", (did,))]
    connection.execute("DELETE FROM records WHERE uri = ?", uris[:1])
    values = ", ".join({"uri": "uri || '-more'", "rkey": "rkey || '-more'", "rev": "'222222222222a'"}.get(name, name) for name in columns)
    connection.execute(f"INSERT INTO records SELECT {values} FROM records WHERE uri = ?", uris[1:])
    connection.execute("UPDATE records SET cid = 'another', rev = '222222222222a' WHERE uri = ?", uris[1:])
PYTHON
worker_command "$work/asked.db" resync "$did" 2>>"$work/asked.log"
worker_run "$work/asked.db" flag --start live --stop-after-idle 5 2>>"$work/asked.log"
query "$work/asked.db" "SELECT 'resync', cause, created || ' created', updated || ' updated', deleted || ' deleted', \
  unchanged || ' unchanged', error FROM resyncs WHERE cause = 'operator'"

printf '\nhow the missed records were fetched\n'
for name in gap gap-backfill backfill beside; do
  echo "$name:"
  show_repairs $name
done
# Accounts that were unknown before the gap are found only by a backfill.
check "after the gap, of the accounts that were known" gap flag --missed --known "$work/gap.known"
check "after the gap, with a backfill" gap-backfill flag --missed
check "after a backfill" backfill flag --records
check "after a backfill beside a worker" beside flag --records
check "after a resync by the operator" asked flag --records
printf '\nlogs and databases: %s\n' "$work"
exit $failed
