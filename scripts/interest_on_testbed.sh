#!/usr/bin/env bash
# Changes the set of interest between runs against the reference server, and compares the database in the
# end with what the server holds.
#
#   scripts/interest_on_testbed.sh TESTBED_DIR [WORK_DIR]
#
# Environment: see testbed.sh.
#
# A run that keeps less for the middle of the traffic, at levels chain, commit and none; an account that is
# denied meanwhile; and a backfill of one collection, followed by one of all.
set -euo pipefail

. "$(dirname "$0")/testbed.sh"

build_worker
start_server
all='com.huddle.*'
narrow_from=$((4 * accounts + commits * 3 / 10)) narrow_to=$((4 * accounts + commits * 7 / 10))

worker_is_past() { # database, seq
  [[ -e $1 ]] && (($(query "$1" 'SELECT coalesce(max(CAST(cursor AS INTEGER)), 0) FROM firehose_cursor') >= $2))
}
follow() { # name, further flags
  worker_run "$work/$1.db" flag "${@:2}" 2>>"$work/$1.log" &
  started+=($!)
  running+=($!)
}
stop_running() {
  for pid in "${running[@]}"; do kill "$pid"; done
  for pid in "${running[@]}"; do wait "$pid"; done
  running=()
}
until_past() { # seq
  for name in chain commit none denied; do
    wait_until 300 "$name did not come to seq $1" worker_is_past "$work/$name.db" "$1"
  done
}
show() { # name
  query "$work/$1.db" "SELECT 'gap ' || id, cause, from_seq || ' to ' || coalesce(to_seq, '-'), \
    iif(closed_at IS NULL, 'open', 'closed'), resolution FROM gaps"
  query "$work/$1.db" "SELECT 'stale', count(*) FROM stale_records"
}

running=()
follow chain
follow commit --verify commit
follow none --verify none
follow denied
start_traffic
until_past "$narrow_from"
stop_running
denied=$(query "$work/denied.db" 'SELECT did FROM records WHERE deleted = 0 GROUP BY did ORDER BY count(*) DESC LIMIT 1')
echo "== seq $narrow_from: only offers are kept, and $denied is denied"
follow chain --collections com.huddle.slotOffer
follow commit --verify commit --collections com.huddle.slotOffer
follow none --verify none --collections com.huddle.slotOffer
follow denied --dids-deny "$denied"
until_past "$narrow_to"
stop_running
for name in chain commit none; do
  query "$work/$name.db" "SELECT '$name', collection, count(*) FROM visible_records GROUP BY 2"
done
query "$work/denied.db" "SELECT 'denied', count(*) FROM visible_records WHERE did = '$denied'"
echo "== seq $narrow_to: everything is kept again"
follow chain --stop-after-idle 15
follow commit --verify commit --stop-after-idle 15
follow none --verify none --stop-after-idle 15
follow denied --stop-after-idle 15
wait "$traffic"
for pid in "${running[@]}"; do wait "$pid"; done

backfill() { # collections
  worker_command "$work/backfill.db" backfill --start live --validation 'com.huddle.*=flag' \
    --collections "$1" 2>>"$work/backfill.log" | tail -1
}
echo "== a backfill of one collection, and of all"
backfill com.huddle.slotOffer
backfill "$all"
# A repository that its host has refused is asked about again after 30 s. Until then the gap is open.
worker_run "$work/backfill.db" flag --start live --stop-after-idle 40 2>>"$work/backfill.log"

for name in chain commit none denied backfill; do
  echo "$name:"
  show $name
done
check "at level chain" chain flag --missed
check "after an account was denied" denied flag --missed
check "after the backfills" backfill flag --records
# The other levels are compared with level chain: equal, and nothing that is not there.
shown() { # name
  query "$work/$1.db" 'SELECT uri, cid FROM visible_records' | LC_ALL=C sort
}
printf '\n== at level commit\n'
diff <(shown chain) <(shown commit) && echo equal || failed=1
# An imported repository changes without a commit. Only its #sync tells, and level none fetches nothing.
imported() {
  python3 -c 'import json, sys
for account in json.load(open(sys.argv[1]))["accounts"]:
    if "import-repo" in account["special"]:
        print("at://" + account["did"] + "/")' "$work/oracle.json"
}
printf '\n== at level none\n'
wrong=$(LC_ALL=C comm -13 <(shown chain) <(shown none) | grep -vcFf <(imported) || true)
echo "records that are not there, except of imported repositories: $wrong"
[[ $wrong == 0 ]] || failed=1
open=$(query "$work/none.db" "SELECT count(*) FROM gaps WHERE cause = 'interest_widened' AND closed_at IS NULL")
[[ $open == 1 ]] || { echo "at level none $open gaps are open"; failed=1; }
printf '\nlogs and databases: %s\n' "$work"
exit $failed
