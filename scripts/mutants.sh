#!/usr/bin/env bash
# Applies deliberate bugs one at a time and shows that the tests notice each.
#
#   scripts/mutants.sh [NAME ...]      all of tests/mutants/*.patch, or those named
#
# Exit status 1 where one survives: then a test is missing. A bug that makes the tests hang counts as
# noticed after SECONDS_EACH (default 150).
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
seconds=${SECONDS_EACH:-150}
tree=$(mktemp -d)
git -C "$here" worktree add --quiet --detach "$tree" HEAD
trap 'git -C "$here" worktree remove --force "$tree"' EXIT
export CARGO_TARGET_DIR=$here/target/mutants

if [ $# -eq 0 ]; then
  set -- "$here"/tests/mutants/*.patch
fi
killed=0 survivors=()
for mutant in "$@"; do
  name=$(basename "$mutant" .patch)
  git -C "$tree" apply "$here/tests/mutants/$name.patch"
  if ! (cd "$tree" && cargo build --quiet --tests) 2>"$tree/build.log"; then
    echo "$name: does not compile"
    tail -n 20 "$tree/build.log"
    exit 1
  fi
  if (cd "$tree" && timeout "$seconds" cargo test --quiet --lib --test store --test faults \
    --test pipeline --test connection) >/dev/null 2>&1; then
    survivors+=("$name")
    echo "$name: SURVIVED"
  else
    killed=$((killed + 1))
    echo "$name: killed"
  fi
  git -C "$tree" checkout --quiet .
done
echo "$killed of $# killed"
[ ${#survivors[@]} -eq 0 ]
