#!/usr/bin/env bash
# Runs the worker with a Postgres sink against the reference server (a real PDS and PLC directory on
# loopback) while traffic continues. The worker is killed and the sink's connections are ended on the way.
# Then compares the sink with the worker's database, and both with what the server says it holds.
#
#   scripts/postgres_on_testbed.sh TESTBED_DIR [WORK_DIR]
#
# Environment: see testbed.sh; KILLS: how often the worker is killed during the traffic (default 5);
# POSTGRES: the URL of the server (default postgres://postgres@127.0.0.1:5432/test). It uses a schema of
# its own there, and drops it.
set -euo pipefail

. "$(dirname "$0")/testbed.sh"
kills=${KILLS:-5}
postgres=${POSTGRES:-postgres://postgres@127.0.0.1:5432/test}
schema=huddle_testbed_$$
sink="$postgres?schema=$schema&sslmode=disable&application_name=$schema"

psql -qX "$postgres" -c 'SELECT 1' >/dev/null
drop_schema() {
  stop_started
  PGOPTIONS='-c client_min_messages=warning' \
    psql -qX "$postgres" -c "DROP SCHEMA IF EXISTS $schema CASCADE" || true
}
trap drop_schema EXIT

end_connections() {
  psql -qXtA "$postgres" -c "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE application_name = '$schema'"
}

build_worker
start_server
start_traffic

echo "== killed $kills times during the traffic, and connections ended between"
killed=0
for _ in $(seq "$kills"); do
  kill -0 "$traffic" 2>/dev/null || break
  worker_run "$work/huddle.db" flag --sink "$sink" 2>>"$work/huddle.log" &
  victim=$!
  started+=("$victim")
  sleep "$((RANDOM % 2 + 1)).$((RANDOM % 10))"
  echo "connections ended: $(end_connections)"
  sleep "0.$((RANDOM % 10))"
  kill -KILL "$victim" && killed=$((killed + 1))
  wait "$victim" 2>/dev/null || true
done
worker_run "$work/huddle.db" flag --sink "$sink" --stop-after-idle 15 2>>"$work/huddle.log" &
survivor=$!
started+=("$survivor")
wait "$traffic"
wait "$survivor"
grep 'stopped;' "$work/huddle.log" | tail -n 1

check "the worker's database, killed $killed times" huddle flag
printf '\n== the sink\n'
python3 "$here/scripts/compare_postgres.py" --database "$work/huddle.db" --oracle "$work/oracle.json" \
  --postgres "$postgres" --schema "$schema" || failed=1
printf '\nlogs and databases: %s\n' "$work"
exit $failed
