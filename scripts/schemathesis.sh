#!/usr/bin/env bash
# Sends generated requests, valid and not, to the interface of operators, and compares each answer with its
# OpenAPI document.
#
#   scripts/schemathesis.sh [EXAMPLES]      how many examples for each operation (20)
#
# It installs schemathesis from PyPI below target/. Exits with 1 where an answer is a failure of the server,
# or is not as the document says, or invalid data was accepted. A worker of its own answers, with a recording.
set -euo pipefail
cd "$(dirname "$0")/.."

examples=${1:-20}
tool=target/schemathesis
if ! [ -x "$tool/bin/schemathesis" ]; then
  python3 -m venv "$tool" && "$tool/bin/pip" install -q schemathesis ||
    { echo "SKIPPED: the generated requests: schemathesis cannot be installed" >&2; exit 0; }
fi
cargo build -q --bin huddle-firehose
program=target/debug/huddle-firehose

folder=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait || true; rm -rf "$folder"' EXIT

relay=127.0.0.1:2593
"$program" mock-relay --file recordings/testbed.bin --listen "$relay" >/dev/null 2>&1 &
pids+=($!)
token=$("$program" admin token new generated --role admin --admin-tokens-file "$folder/tokens" 2>/dev/null | tail -1)
"$program" run --source-url "ws://$relay/xrpc/com.atproto.sync.subscribeRepos" --verify none \
  --database-url "sqlite://$folder/huddle.db" --listen 127.0.0.1:0 \
  --admin-listen 127.0.0.1:8193 --admin-tokens-file "$folder/tokens" >"$folder/log" 2>&1 &
pids+=($!)

url=http://127.0.0.1:8193
for _ in $(seq 100); do
  curl -sf -o "$folder/openapi.json" -H "Authorization: Bearer $token" "$url/admin/v1/openapi.json" && break
  sleep 0.2
done

# What ends the worker, or never ends, is tested by tests/service. So is a request without a token: after ten
# of them an address is refused for a while.
"$tool/bin/schemathesis" run "$folder/openapi.json" --url "$url" -H "Authorization: Bearer $token" \
  --exclude-path /admin/v1/drain --exclude-path /admin/v1/events \
  --exclude-path-regex '/sources/.*/(cursor|reconnect|rerun)' --exclude-path-regex '/filters/.*' \
  --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,negative_data_rejection \
  --phases examples,coverage,fuzzing --max-examples "$examples" --suppress-health-check all
