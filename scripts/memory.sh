#!/usr/bin/env bash
# Shows that the worker's memory stays flat while a million events pass: serves a recording again and
# again to `run`, at full speed, and samples the resident set.
#
#   scripts/memory.sh [RECORDING] [TIMES]
#
# Exit status 1 where the samples after the warm-up (the first quarter) spread by more than ±10 %.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
recording=${1:-$here/recordings/testbed.bin}
times=${2:-3300}
worker=$here/target/release/huddle-firehose
work=$(mktemp -d)
port=2691
(cd "$here" && cargo build --release --quiet)

"$worker" mock-relay --file "$recording" --repeat "$times" --listen 127.0.0.1:$port \
  >/dev/null 2>"$work/relay.log" &
relay=$!
trap 'kill "$relay" 2>/dev/null || true; rm -rf "$work"' EXIT
sleep 1

"$worker" run --source-url ws://127.0.0.1:$port --database-url "sqlite://$work/memory.db" \
  --listen 127.0.0.1:2692 --stop-after-idle 3 2>"$work/run.log" &
run=$!
while kill -0 "$run" 2>/dev/null; do
  awk '/^VmRSS/ { print $2 }' "/proc/$run/status" 2>/dev/null >>"$work/rss" || true
  sleep 0.2
done
wait "$run"

"$worker" status --database-url "sqlite://$work/memory.db" 2>/dev/null | grep -m1 '"seq"' || true
awk '{ rss[NR] = $1 }
  END {
    first = int(NR / 4) + 1
    for (i = first; i <= NR - 1; i++) {
      sum += rss[i]; n++
      if (!low || rss[i] < low) low = rss[i]
      if (rss[i] > high) high = rss[i]
    }
    mean = sum / n
    printf "%d samples: mean %.1f MiB, lowest %.1f, highest %.1f (%+.1f %% to %+.1f %%)\n", n,
      mean / 1024, low / 1024, high / 1024, 100 * (low / mean - 1), 100 * (high / mean - 1)
    exit (high > 1.1 * mean || low < 0.9 * mean)
  }' "$work/rss"
