#!/usr/bin/env bash
# Runs the worker against the reference server (a real PDS and PLC directory on loopback) while
# traffic goes on, and holds its database against what the server says it holds.
#
#   scripts/against_testbed.sh TESTBED_DIR [WORK_DIR]
#
# TESTBED_DIR is an installed testbed (its setup.sh makes one). Environment: ACCOUNTS, COMMITS, SEED,
# HUDDLE_FRACTION and BAD_FRACTION shape the traffic; KILLS is how often the worker is killed in the
# middle (default 5).
set -euo pipefail

testbed=$(cd "$1" && pwd)
work=${2:-$(mktemp -d)}
mkdir -p "$work"
here=$(cd "$(dirname "$0")/.." && pwd)
worker=$here/target/release/huddle-firehose
compare=$here/scripts/compare_oracle.py
accounts=${ACCOUNTS:-40} commits=${COMMITS:-800} seed=${SEED:-7} kills=${KILLS:-5}
huddle_fraction=${HUDDLE_FRACTION:-0.4} bad_fraction=${BAD_FRACTION:-0.15}
pds_port=2683 plc_port=2682 control_port=2684
source_url=ws://127.0.0.1:$pds_port/xrpc/com.atproto.sync.subscribeRepos
PATH=$testbed/node24/bin:$PATH

(cd "$here" && cargo build --release --quiet)

started=()
stop_started() {
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
}
trap stop_started EXIT

worker_run() { # database, policy, further flags
  local database=$1 policy=$2
  shift 2
  "$worker" run --source-url "$source_url" --database-url "sqlite://$database" \
    --plc-url "http://127.0.0.1:$plc_port" --allow-private-addresses true \
    --validation "com.huddle.*=$policy" --listen 127.0.0.1:0 "$@"
}

wait_for_server() {
  for _ in $(seq 120); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$pds_port") 2>/dev/null; then return; fi
    sleep 0.5
  done
  echo "the testbed's server did not come up: $work/server.log" >&2
  return 1
}

(cd "$testbed" && exec node start.mjs --data "$work/server" --pds-port $pds_port --plc-port $plc_port \
  --control-port $control_port --admin-password admin-pass) >"$work/server.log" 2>&1 &
started+=($!)
wait_for_server

echo "== live, policy flag; live, policy reject; and a recording"
worker_run "$work/flag.db" flag --stop-after-idle 15 2>"$work/flag.log" &
flag=$!
worker_run "$work/reject.db" reject --stop-after-idle 15 2>"$work/reject.log" &
reject=$!
"$worker" record --source-url "$source_url" --start oldest --out "$work/frames.bin" \
  --stop-after-idle 15 2>"$work/record.log" &
record=$!
started+=("$flag" "$reject" "$record")

traffic() {
  (cd "$testbed" && exec node traffic.mjs --pds "http://127.0.0.1:$pds_port" \
    --plc "http://127.0.0.1:$plc_port" --control "http://127.0.0.1:$control_port" \
    --accounts "$accounts" --commits "$commits" --seed "$seed" \
    --huddle-fraction "$huddle_fraction" --bad-fraction "$bad_fraction" --oracle "$work/oracle.json") \
    >"$work/traffic.log" 2>&1
}
traffic &
traffic=$!
started+=("$traffic")

echo "== live, policy flag, killed $kills times in the middle"
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
source_url=ws://127.0.0.1:$replay_port/xrpc/com.atproto.sync.subscribeRepos
sleep 1
worker_run "$work/replayed.db" flag --stop-after-idle 3 2>"$work/replayed.log"

failed=0
check() { # title, database, policy, further flags
  printf '\n== %s\n' "$1"
  python3 "$compare" --database "$work/$2.db" --oracle "$work/oracle.json" --policy "$3" "${@:4}" || failed=1
}
check "live, flag" flag flag
check "live, reject" reject reject
check "live, killed $killed times" killed flag --late
check "from the recording" replayed flag --late
printf '\nlogs and databases: %s\n' "$work"
exit $failed
