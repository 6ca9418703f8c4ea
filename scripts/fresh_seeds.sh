#!/usr/bin/env bash
# Runs the fault campaigns on seeds that are derived from the commit, beside the fixed ones of `cargo test`.
# Seeds that always pass prove little. Prints the seeds, so that a failure can be run again.
set -euo pipefail
cd "$(dirname "$0")/.."

plain=${PLAIN:-300}
verified=${VERIFIED:-100}

commit=$(git rev-parse HEAD)
first=$((16#${commit:0:8} % 1000000000 + 1000000))
plain_seeds=$first..$((first + plain))
verified_seeds=$first..$((first + verified))
echo "fresh seeds of commit ${commit:0:12}: HUDDLE_FAULT_SEEDS=$plain_seeds HUDDLE_VERIFIED_FAULT_SEEDS=$verified_seeds"
HUDDLE_FAULT_SEEDS=$plain_seeds HUDDLE_VERIFIED_FAULT_SEEDS=$verified_seeds cargo test --test faults
