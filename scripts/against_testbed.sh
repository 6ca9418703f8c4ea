#!/usr/bin/env bash
# Runs the worker against the reference server (a real PDS and PLC directory on loopback) while
# traffic continues. Then compares the worker's database with what the server says it holds.
#
#   scripts/against_testbed.sh TESTBED_DIR [WORK_DIR]
#
# Environment: see testbed.sh; and KILLS: how often the worker is killed during the traffic (default 5).
set -euo pipefail

. "$(dirname "$0")/testbed.sh"
kills=${KILLS:-5}

build_worker
start_server

echo "== live, policy flag; live, policy reject; and a recording"
worker_run "$work/flag.db" flag --stop-after-idle 15 2>"$work/flag.log" &
flag=$!
worker_run "$work/reject.db" reject --stop-after-idle 15 2>"$work/reject.log" &
reject=$!
"$worker" record --source-url "$source_url" --start oldest --out "$work/frames.bin" \
  --stop-after-idle 15 2>"$work/record.log" &
record=$!
started+=("$flag" "$reject" "$record")
start_traffic

echo "== live, policy flag, killed $kills times during the traffic"
killed=0
for _ in $(seq "$kills"); do
  kill -0 "$traffic" 2>/dev/null || break
  worker_run "$work/killed.db" flag 2>>"$work/killed.log" &
  victim=$!
  started+=("$victim")
  sleep "$((RANDOM % 2 + 1)).$((RANDOM % 10))"
  kill -KILL "$victim" && killed=$((killed + 1))
  wait "$victim" 2>/dev/null || true
done
worker_run "$work/killed.db" flag --stop-after-idle 15 2>>"$work/killed.log" &
survivor=$!
started+=("$survivor")

wait "$traffic"
for pid in "$flag" "$reject" "$record" "$survivor"; do wait "$pid"; done

echo "== from the recording"
replay_port=2690
"$worker" mock-relay --file "$work/frames.bin" --listen 127.0.0.1:$replay_port 2>"$work/replay.log" &
relay=$!
started+=("$relay")
wait_until 10 "the mock relay did not come up: $work/replay.log" port_answers $replay_port
source_url=ws://127.0.0.1:$replay_port/xrpc/com.atproto.sync.subscribeRepos
worker_run "$work/replayed.db" flag --stop-after-idle 3 2>"$work/replayed.log"

check "live, flag" flag flag
check "live, reject" reject reject
check "live, killed $killed times" killed flag
check "from the recording" replayed flag
printf '\nlogs and databases: %s\n' "$work"
exit $failed
