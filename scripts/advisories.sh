#!/usr/bin/env bash
# Holds the dependencies against the RustSec database: vulnerabilities, unsound and unmaintained crates,
# and yanked versions. Needs cargo-deny, which `just advisories` installs.
#
# The database is cloned from its home. Where that is out of reach, this says SKIPPED and exits with 0.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! problem=$(GIT_TERMINAL_PROMPT=0 timeout 120 cargo deny --locked fetch db 2>&1); then
  problem=$(tail -n 1 <<<"$problem")
  echo "SKIPPED: advisories and yanked crates: the advisory database cannot be fetched: $problem" >&2
  exit 0
fi
cargo deny --locked check advisories
