#!/usr/bin/env bash
# Counts the instructions of an unwanted event, from the frame to the decision of the prefilter, under
# valgrind. A busy machine does not change the figure.
#
#   scripts/instructions.sh
#
# Exits with 1 when the figure is above the bound.
set -euo pipefail
cd "$(dirname "$0")/.."

# 2,360 when this was written. A change that costs a tenth more needs a reason, and moves the bound.
bound=2600
few=10
many=110

if ! command -v valgrind >/dev/null; then
  apt-get install -y -qq valgrind >/dev/null 2>&1 || { echo "SKIPPED: the count of instructions: valgrind is missing and cannot be installed" >&2; exit 0; }
fi

# Only the counted package is optimised. All others are compiled already, by the tests.
package=profile.dev.package.huddle-firehose
binary=$(cargo build --bench worker --message-format json \
  --config $package.opt-level=3 --config $package.debug-assertions=false \
  --config $package.overflow-checks=false 2>/dev/null |
  sed -n 's/.*"executable":"\([^"]*\/worker-[^"]*\)".*/\1/p')
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Prints "instructions events" of prefiltering the frames $1 times.
count() {
  events=$(valgrind --tool=callgrind --callgrind-out-file=/dev/null "$binary" sift "$1" 2>"$log")
  echo "$(awk '/Collected/ { print $NF }' "$log") $events"
}

# The difference of two runs leaves out what they share, such as the start of the process.
echo "$(count $few) $(count $many)" | awk -v bound="$bound" '{
  each = ($3 - $1) / ($4 - $2)
  printf "%.0f instructions an event, at most %d allowed\n", each, bound
  exit (each > bound)
}'
