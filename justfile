# What continuous integration runs, a recipe a check. Plain `just` lists them; `just ci` runs all of
# them in CI's order, and `.ci/run` is that on a machine that may lack `just`.
#
# A check whose tool is missing installs it into the target directory. Where that fails, it says SKIPPED
# and why. Building, running and testing need no `just`: see README.md.

set shell := ["bash", "-euo", "pipefail", "-c"]
set positional-arguments

# The sizes of the long campaigns. Others: `just crashes=100 slow-crashes`.
fault_seeds := "0..20000"
verified_fault_seeds := "0..300"
verified_seeds := "0..50"
crashes := "1000"
power_cuts := "500"
large_repository := "300"

[private]
default:
    @just --list --unsorted

# Everything that CI runs. The README's test command comes last: its figures are what counts.
ci: fmt clippy doc deny advisories machete (mutants "--sample" "2") instructions fresh-seeds test

# The code is formatted.
fmt:
    cargo fmt --all --check

# No lint objects, in the tests and benches either.
clippy:
    cargo clippy --workspace --all-targets -- -D warnings

# The documentation builds, and its links lead somewhere.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --quiet

# Licences, sources and banned crates: deny.toml.
deny:
    scripts/tool.sh cargo-deny cargo deny --locked check --hide-inclusion-graph bans licenses sources

# Known vulnerabilities and yanked crates. Needs the network: skipped where the database is out of reach.
advisories:
    scripts/tool.sh cargo-deny scripts/advisories.sh

# No dependency is without a use.
machete:
    scripts/tool.sh cargo-machete cargo machete --skip-target-dir

# Deliberate bugs are noticed by the tests: all of them, those named, or `--sample N`.
mutants *arguments:
    scripts/mutants.sh "$@"

# What an unwanted event costs in instructions stays within its bound.
instructions:
    scripts/instructions.sh

# Schedules of faults that no run has seen: their seeds are derived from the commit.
fresh-seeds:
    scripts/fresh_seeds.sh

# The tests, each in a process of its own.
nextest *arguments:
    scripts/tool.sh cargo-nextest cargo nextest run "$@"

# The tests.
test *arguments:
    cargo test "$@"

# The long campaigns, one after the other: about an hour. Each has a recipe of its own.
slow: slow-faults slow-verified-faults slow-network slow-crashes slow-power-cuts slow-repository slow-requests

# Generated requests to the interface of operators, and its document.
slow-requests:
    scripts/schemathesis.sh 200

# Schedules of faults against the whole tree, in paused time.
slow-faults: (campaign "HUDDLE_FAULT_SEEDS=" + fault_seeds "faults" "not test(/^verified::/)")

# The same at level `chain`, with the tables in SQLite.
slow-verified-faults: (campaign "HUDDLE_VERIFIED_FAULT_SEEDS=" + verified_fault_seeds "faults" "test(/^verified::/)")

# The whole worker before simulated networks, over real sockets.
slow-network: (campaign "HUDDLE_VERIFIED_SEEDS=" + verified_seeds "pipeline" "test(/^simulated_network::verified::/)")

# The process is killed, at any moment and at every point that has a name.
slow-crashes: (campaign "HUDDLE_CRASHES=" + crashes "pipeline" "test(/^crash/)")

# The machine loses power amid SQLite's writes.
slow-power-cuts: (campaign "HUDDLE_POWER_CUTS=" + power_cuts "pipeline" "test(/^power_loss::/)")

# A repository of so many MiB is fetched within bounded memory.
slow-repository: (campaign "HUDDLE_LARGE_REPOSITORY=" + large_repository "repositories" "test(/^memory::/)")

[private]
campaign size binary tests:
    env "$1" scripts/tool.sh cargo-nextest cargo nextest run --profile slow --test "$2" -E "$3"

# The fuzz targets, 60 seconds each: `just fuzz SECONDS TARGET...`. Needs nightly and cargo-fuzz.
fuzz *arguments:
    scripts/fuzz.sh "$@"

# The worker against the bare limit of the machine: `just bench matched latency`.
bench *rows:
    cargo bench -- "$@"

# Against a real PDS: traffic and kills, a gap and backfills, a migration. Needs an installed testbed.
testbed directory:
    scripts/against_testbed.sh "$1"
    scripts/gap_on_testbed.sh "$1"
    scripts/interest_on_testbed.sh "$1"
    scripts/migration_on_testbed.sh "$1"
    scripts/postgres_on_testbed.sh "$1"
