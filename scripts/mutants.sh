#!/usr/bin/env bash
# Applies deliberate bugs one at a time and shows that the tests notice each.
#
#   scripts/mutants.sh                all of tests/mutants/*.patch
#   scripts/mutants.sh NAME ...       the named ones
#   scripts/mutants.sh --sample N     N of them, different ones for each commit
#   scripts/mutants.sh --list         shows, without any bug, how many tests each is caught by
#
# The head of a patch says what would go wrong and which tests catch it; only these tests run. Exits with 1
# when a bug survives: then a test is missing. A bug that makes the tests hang counts as noticed after
# SECONDS_EACH (default 150).
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
mutants=$here/tests/mutants
if [ "${1:-}" = --list ]; then
  cd "$here"
  sed -n 's/^Caught-by: //p' "$mutants"/*.patch | sort -u | while read -ra tests; do
    count=$(cargo test --quiet "${tests[@]}" -- --list </dev/null | grep -c ': test$' || true)
    echo "$count by ${tests[*]}"
    [ "$count" -gt 0 ]
  done
  exit
fi
seconds=${SECONDS_EACH:-150}
if [ $# -eq 0 ]; then
  set -- $(cd "$mutants" && ls -- *.patch)
elif [ "$1" = --sample ]; then
  commit=$(git -C "$here" rev-parse HEAD)
  set -- $(cd "$mutants" && ls -- *.patch | shuf -n "$2" --random-source=<(yes "$commit"))
fi

# Enough seeds of the campaign to meet a bug, and few enough to end before SECONDS_EACH.
export HUDDLE_FAULT_SEEDS=${HUDDLE_FAULT_SEEDS:-0..400}
# Always the same folder, so that the next run can use the builds.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$here/target}
tree=$CARGO_TARGET_DIR/mutants-tree
mkdir -p "$CARGO_TARGET_DIR"
[ ! -e "$tree" ] || git -C "$here" worktree remove --force "$tree"
git -C "$here" worktree add --quiet --detach "$tree" HEAD
trap 'git -C "$here" worktree remove --force "$tree"' EXIT
# Check that all of them still apply: a sample would notice a patch that does not apply only by chance.
for patch in "$mutants"/*.patch; do git -C "$tree" apply --check "$patch"; done

killed=0 survivors=()
for mutant in "$@"; do
  name=${mutant%.patch}
  patch=$mutants/$name.patch
  read -ra tests <<<"$(sed -n 's/^Caught-by: //p' "$patch")"
  git -C "$tree" apply "$patch"
  if ! (cd "$tree" && cargo test --quiet --no-run "${tests[@]}") 2>"$tree/build.log"; then
    echo "$name: does not compile"
    tail -n 20 "$tree/build.log"
    exit 1
  fi
  if (cd "$tree" && timeout "$seconds" cargo test --quiet "${tests[@]}") >/dev/null 2>&1; then
    survivors+=("$name")
    echo "$name: SURVIVED ${tests[*]}"
  else
    killed=$((killed + 1))
    echo "$name: killed by ${tests[*]}"
  fi
  git -C "$tree" checkout --quiet .
done
echo "$killed of $# killed"
[ ${#survivors[@]} -eq 0 ]
