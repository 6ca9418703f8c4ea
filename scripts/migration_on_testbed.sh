#!/usr/bin/env bash
# Moves an account from the server that the worker follows to another server, and checks its records in the
# worker's tables.
#
#   scripts/migration_on_testbed.sh TESTBED_DIR [WORK_DIR]
#
# Environment: see testbed.sh. The old server says only that the account is no longer active there. Its DID
# document names the new host, and the new host has its records.
set -euo pipefail

. "$(dirname "$0")/testbed.sh"
second_port=2783

build_worker
start_server
worker_run "$work/moved.db" flag 2>"$work/moved.log" &
running=$!
started+=("$running")
start_traffic
wait "$traffic"

# The account with the most offers, among the accounts that have kept their handle and their key.
handle=$(python3 - "$work/oracle.json" <<'PYTHON'
import json, sys
from collections import Counter

oracle = json.load(open(sys.argv[1], encoding="utf-8"))
offers = Counter(r["uri"].split("/")[2] for r in oracle["records"] if "/com.huddle.slotOffer/" in r["uri"])
has_kept = lambda a: a["status"] == "active" and not {"handle-change", "import-repo", "rotate-signing-key"} & set(a["special"])
print(max(filter(has_kept, oracle["accounts"]), key=lambda a: offers[a["did"]])["handle"])
PYTHON
)
number=$((10#${handle:3:4}))
key=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["plcRotationKeyHex"])' "$work/server/testbed.json")

has_caught_up() {
  (($(query "$work/moved.db" "SELECT max(CAST(cursor AS INTEGER)) FROM firehose_cursor") >= $(server_seq)))
}
wait_until 60 "the worker did not come to the end: $work/moved.log" has_caught_up

echo "== $handle moves"
(cd "$testbed" && exec node --input-type=module - --data "$work/second" --port $second_port \
  --pds "http://127.0.0.1:$pds_port" --plc-port $plc_port --handle "$handle" \
  --password "pw-$number-secret" --rotation-key "$key") \
  <"$here/scripts/migrate_account.mjs" >"$work/second.out" 2>"$work/second.log" &
started+=($!)
has_moved() {
  grep -q '^{"did"' "$work/second.out"
}
wait_until 60 "the account did not move: $work/second.log" has_moved
did=$(grep '^{"did"' "$work/second.out" | python3 -c 'import json, sys; print(json.load(sys.stdin)["did"])')

# Checks whether the tables show the account's offers from `before` or `after` its move.
shows() {
  python3 - "$work/moved.db" "$work/second.out" "$1" <<'PYTHON'
import json, sqlite3, sys

database, output, when = sys.argv[1:]
moved = next(json.loads(line) for line in open(output) if line.startswith('{"did"'))
query = "SELECT uri, cid FROM visible_records WHERE did = ? AND collection = 'com.huddle.slotOffer'"
connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)
found = set(connection.execute(query, (moved["did"],)))
expected = {(offer["uri"], offer["cid"]) for offer in moved[when]}
print(f"  offers {when}: expected {len(expected)}, found {len(found)}, equal {len(expected & found)}")
sys.exit(found != expected)
PYTHON
}
knows_status() {
  [[ $(query "$work/moved.db" "SELECT active OR is_unconfirmed FROM accounts WHERE did = '$did'") != "" ]] && has_caught_up
}
states() {
  query "$work/moved.db" "SELECT '  account', active, status, is_unconfirmed FROM accounts WHERE did = '$did'"
  query "$work/moved.db" "SELECT '  repository', state, cause, source FROM repos WHERE did = '$did'"
  query "$work/moved.db" "SELECT '  resync', cause, host, created || ' created', updated || ' updated', \
    deleted || ' deleted', unchanged || ' unchanged', error FROM resyncs WHERE did = '$did' ORDER BY id"
}
wait_until 30 "the worker did not notice the move" knows_status
for _ in 1 2 3 4 5; do
  sleep 2
  shows after >/dev/null && break
done
states
shows before || true
shows after || failed=1

echo "== a resync by the operator fetches what the account wrote at its new host"
worker_command "$work/moved.db" resync "$did" 2>>"$work/moved.log"
for _ in 1 2 3 4 5; do
  sleep 2
  shows after >/dev/null && break
done
states
shows after || failed=1
kill "$running"
wait "$running"
printf '\nlogs and databases: %s\n' "$work"
exit $failed
