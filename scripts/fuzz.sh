#!/usr/bin/env bash
# Runs the fuzz targets one after the other and reports on each.
#
#     scripts/fuzz.sh [SECONDS] [TARGET ...]     default: 60 seconds for each target, all targets
#
# Needs a nightly toolchain and cargo-fuzz. An input that fails a check is written to fuzz/artifacts, and
# the script exits with 1. Inputs that reach new code are collected in fuzz/target/corpus. After the
# findings are fixed, `fuzz/target/TARGET -merge=1 fuzz/corpus/TARGET fuzz/target/corpus/TARGET` adds
# those that the committed corpus lacks.
#
# No sanitizer is used, since it costs time and the code is safe Rust. What can be found are panics,
# overflows (which are checked), wrong answers, and too much memory or time.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"

seconds=${1:-60}
shift || true
targets=("$@")
((${#targets[@]})) || mapfile -t targets < <(cargo +nightly fuzz list)

# Longer inputs find nothing more and cost time.
max_length() {
  case $1 in
    commit | frame) echo 8192 ;;
    cursor) echo 512 ;;
    mst_node) echo 2048 ;;
    *) echo 4096 ;;
  esac
}

cargo +nightly fuzz build --sanitizer none
host=$(rustc +nightly -vV | sed -n 's/^host: //p')
cp "${targets[@]/#/target/$host/release/}" target/

failed=0
printf '%-18s %12s %8s %9s %8s %9s\n' target executions edges features seconds findings
for target in "${targets[@]}"; do
  new=target/corpus/$target artifacts=artifacts/$target log=target/$target.log
  mkdir -p "$new" "$artifacts"
  "target/$target" "$new" "corpus/$target" -max_total_time="$seconds" -max_len="$(max_length "$target")" \
    -rss_limit_mb=2048 -timeout=10 -artifact_prefix="$artifacts/" -print_final_stats=1 >"$log" 2>&1 || failed=1
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  took=$(sed -n 's/^Done .* runs in \([0-9]*\) second.*/\1/p' "$log")
  read -r edges features < <(sed -n 's/^#.* cov: \([0-9]*\) ft: \([0-9]*\) .*/\1 \2/p' "$log" | tail -n 1)
  findings=$(find "$artifacts" -type f | wc -l)
  printf '%-18s %12s %8s %9s %8s %9s\n' \
    "$target" "${executions:--}" "${edges:--}" "${features:--}" "${took:--}" "$findings"
done
exit "$failed"
