#!/usr/bin/env python3
"""Holds a database of huddle-firehose against what the reference server itself says it holds.

    compare_oracle.py --database huddle.db --oracle oracle.json --policy flag|reject

The oracle is what the testbed's traffic driver writes after its run: the server's own listing of
records and accounts. Exit status 0 where the two agree, 1 where they differ; each difference is a
line.

The worker verifies by the keys that accounts have, and some of what the server sends does not verify by
them: two operations on one path, and after importRepo a #sync that another server's key has signed. The
repositories are fetched instead, so their records count; the dead letters are told apart. Whoever
hears of a commit only after the account's key was rotated (--late) refuses that one too.
"""

import argparse
import json
import sqlite3
import sys

COLLECTIONS = ("com.huddle.slotOffer", "com.huddle.bookingRequest", "com.huddle.booking")
MOST_LINES = 20


def did_of(uri):
    return uri.split("/")[2]


def collection_of(uri):
    return uri.split("/")[3]


def is_malformed(uri):
    """The traffic driver gives every malformed record such a key."""
    return uri.split("/")[4].startswith("bad-")


class Comparison:
    def __init__(self, database, oracle):
        self.rows = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
        self.oracle = oracle
        self.special = {account["did"]: account["special"] for account in oracle["accounts"]}
        self.differences = 0

    def same(self, what, expected, found):
        missing, unexpected = sorted(expected - found), sorted(found - expected)
        state = "equal" if not missing and not unexpected else "DIFFERENT"
        print(f"{what}: expected {len(expected)}, found {len(found)}: {state}")
        for label, items in (("missing", missing), ("unexpected", unexpected)):
            for item in items[:MOST_LINES]:
                print(f"  {label}: {item}")
            if len(items) > MOST_LINES:
                print(f"  {label}: and {len(items) - MOST_LINES} more")
        self.differences += len(missing) + len(unexpected)

    def visible(self, collections):
        marks = ",".join("?" * len(collections))
        query = f"SELECT uri, cid, validity FROM visible_records WHERE collection IN ({marks})"
        return list(self.rows.execute(query, collections))

    def was(self, did, *kinds):
        """Whether something of these kinds was done to the account."""
        return any(what.startswith(kinds) for what in self.special.get(did, ()))

    def records(self, policy):
        expected = {
            (r["uri"], r["cid"])
            for r in self.oracle["records"]
            if policy == "flag" or not is_malformed(r["uri"])
        }
        found = self.visible(COLLECTIONS)
        self.same("live records", expected, {(uri, cid) for uri, cid, _ in found})
        if policy == "flag":
            malformed = {r["uri"] for r in self.oracle["records"] if is_malformed(r["uri"])}
            flagged = {uri for uri, _, validity in found if validity == "invalid"}
            self.same("records marked invalid", malformed, flagged)

    def dead_letters(self, policy):
        found = {
            uri
            for (uri,) in self.rows.execute("SELECT uri FROM dead_letters WHERE stage = 'validate'")
        }
        live = {r["uri"] for r in self.oracle["records"] if is_malformed(r["uri"])}
        if policy == "flag":
            self.same("dead letters", set(), found)
        else:
            # Malformed records that were deleted since, or whose account is hidden, are dead
            # letters too, and the oracle does not list them among the live ones.
            malformed = {uri for uri in found if is_malformed(uri)}
            self.same("dead letters of live records", live, found & live)
            self.same("dead letters of well-formed records", set(), found - malformed)

    def near_misses(self):
        near = {
            (r["uri"], r["cid"], "unvalidated")
            for r in self.oracle["nearMissRecords"]
            if collection_of(r["uri"]).startswith("com.huddle.")
        }
        kept = self.visible(("com.huddle.profile", "com.huddle.slotOfferV2"))
        self.same("near misses, kept unvalidated", near, set(kept))
        foreign = self.rows.execute(
            "SELECT uri FROM records WHERE collection NOT LIKE 'com.huddle.%'"
        )
        self.same("records of other namespaces", set(), {uri for (uri,) in foreign})

    def hidden_records(self, policy):
        hidden = {
            (r["uri"], r["cid"])
            for r in self.oracle["hiddenRecords"]
            if policy == "flag" or not is_malformed(r["uri"])
        }
        query = """
            SELECT uri, cid FROM records
            WHERE deleted = 0 AND collection IN (?, ?, ?)
              AND uri NOT IN (SELECT uri FROM visible_records)
        """
        found = set(self.rows.execute(query, COLLECTIONS))
        self.same("hidden records", hidden, found)

    def accounts(self):
        expected = {(a["did"], a["status"]) for a in self.oracle["accounts"]}
        query = "SELECT did, active, status FROM accounts"
        found = {
            (did, "active" if active else status)
            for did, active, status in self.rows.execute(query)
        }
        self.same("account statuses", expected, found)
        handles = {(a["did"], a["handle"]) for a in self.oracle["accounts"]}
        self.same("handles", handles, set(self.rows.execute("SELECT did, handle FROM accounts")))

    def no_loss(self, is_late):
        (gaps,) = self.rows.execute("SELECT count(*) FROM gaps WHERE closed_at IS NULL").fetchone()
        self.same("open gaps", set(), {"a gap"} if gaps else set())
        query = "SELECT uri, error FROM dead_letters WHERE stage NOT IN ('validate', 'verify')"
        self.same("dead letters of other kinds", set(), set(self.rows.execute(query)))
        query = "SELECT did, seq, error FROM dead_letters WHERE stage = 'verify'"
        refused = set(self.rows.execute(query))
        kinds = ("import-repo", "same-path-twice", *(("rotate-signing-key",) if is_late else ()))
        known = {letter for letter in refused if self.was(letter[0], *kinds)}
        print(f"refused, as they have to be: {len(known)}")
        self.same("verification failures", set(), refused - known)
        (levels,) = self.rows.execute(
            "SELECT group_concat(DISTINCT verified) FROM records WHERE deleted = 0"
        ).fetchone()
        self.same("levels of verification", {"chain"}, set((levels or "").split(",")))
        query = "SELECT did, state, cause FROM repos WHERE state <> 'synchronized' OR has_waiting"
        active = {a["did"] for a in self.oracle["accounts"] if a["status"] == "active"}
        unsettled = {row for row in self.rows.execute(query) if row[0] in active}
        self.same("repositories that are not synchronized", set(), unsettled)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", required=True)
    parser.add_argument("--oracle", required=True)
    parser.add_argument("--policy", required=True, choices=("flag", "reject"))
    parser.add_argument("--late", action="store_true")
    arguments = parser.parse_args()
    with open(arguments.oracle, encoding="utf-8") as file:
        oracle = json.load(file)
    comparison = Comparison(arguments.database, oracle)
    comparison.records(arguments.policy)
    comparison.dead_letters(arguments.policy)
    comparison.near_misses()
    comparison.hidden_records(arguments.policy)
    comparison.accounts()
    comparison.no_loss(arguments.late)
    print(f"{comparison.differences} differences")
    return 1 if comparison.differences else 0


if __name__ == "__main__":
    sys.exit(main())
