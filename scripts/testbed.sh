# Shared by the scripts that run against the testbed: the reference server (a real PDS and PLC directory
# on loopback), traffic on it, the worker, and the comparison of the two.
#
# Source it with the script's own arguments: TESTBED_DIR [WORK_DIR]. TESTBED_DIR is an installed testbed
# (its setup.sh makes one). Environment: ACCOUNTS, COMMITS, SEED, HUDDLE_FRACTION and BAD_FRACTION shape
# the traffic; WORKER names a binary to use instead of building one.

testbed=$(cd "$1" && pwd)
work=${2:-$(mktemp -d)}
mkdir -p "$work"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
worker=${WORKER:-${CARGO_TARGET_DIR:-$here/target}/release/huddle-firehose}
accounts=${ACCOUNTS:-40} commits=${COMMITS:-800} seed=${SEED:-7}
huddle_fraction=${HUDDLE_FRACTION:-0.4} bad_fraction=${BAD_FRACTION:-0.15}
pds_port=2683 plc_port=2682 control_port=2684
plc_url=http://127.0.0.1:$plc_port
source_url=ws://127.0.0.1:$pds_port/xrpc/com.atproto.sync.subscribeRepos
PATH=$testbed/node24/bin:$PATH

started=()
failed=0

stop_started() {
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
}
trap stop_started EXIT

build_worker() {
  [[ -z ${WORKER:-} ]] || return 0
  (cd "$here" && cargo build --release --quiet --bin huddle-firehose)
}

# Waits until a condition holds: wait_until SECONDS WHAT COMMAND...
wait_until() {
  local seconds=$1 what=$2
  shift 2
  for _ in $(seq "$((seconds * 5))"); do
    if "$@"; then return; fi
    sleep 0.2
  done
  echo "after $seconds s: $what" >&2
  return 1
}

port_answers() {
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

start_server() {
  (cd "$testbed" && exec node start.mjs --data "$work/server" --pds-port $pds_port \
    --plc-port $plc_port --control-port $control_port --admin-password admin-pass) \
    >"$work/server.log" 2>&1 &
  started+=($!)
  wait_until 60 "the testbed's server did not come up: $work/server.log" port_answers $control_port
}

# Prints the last seq that the server has sent.
server_seq() {
  query "$work/server/pds/sequencer.sqlite" 'SELECT coalesce(max(seq), 0) FROM repo_seq'
}

# Starts the traffic; `traffic` is its process.
start_traffic() {
  (cd "$testbed" && exec node traffic.mjs --pds "http://127.0.0.1:$pds_port" --plc "$plc_url" \
    --control "http://127.0.0.1:$control_port" --accounts "$accounts" --commits "$commits" \
    --seed "$seed" --huddle-fraction "$huddle_fraction" --bad-fraction "$bad_fraction" \
    --oracle "$work/oracle.json") >"$work/traffic.log" 2>&1 &
  traffic=$!
  started+=("$traffic")
}

# Runs a command of the worker with its configuration: worker_command DATABASE COMMAND... In the
# background the shell is replaced by the worker, so that a signal to the process reaches the worker.
worker_command() {
  local database=$1 replace=()
  shift
  [[ $BASHPID == "$$" ]] || replace=(exec)
  "${replace[@]}" "$worker" "$@" --source-url "$source_url" --database-url "sqlite://$database" \
    --plc-url "$plc_url" --allow-private-addresses true --listen 127.0.0.1:0
}

worker_run() { # database, policy, further flags
  worker_command "$1" run --validation "com.huddle.*=$2" "${@:3}"
}

# Prints the rows of a query, columns separated by tabs. The database may be in use.
query() {
  python3 - "$@" <<'PYTHON'
import sqlite3, sys

database, sql = sys.argv[1:]
for row in sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10).execute(sql):
    print("\t".join(str(value) for value in row))
PYTHON
}

check() { # title, database, policy, further flags
  printf '\n== %s\n' "$1"
  python3 "$here/scripts/compare_oracle.py" --database "$work/$2.db" --oracle "$work/oracle.json" \
    --policy "$3" "${@:4}" || failed=1
}
