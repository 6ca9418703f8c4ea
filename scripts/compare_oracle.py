#!/usr/bin/env python3
"""Compares a database of huddle-firehose with what the reference server says it holds.

    compare_oracle.py --database huddle.db --oracle oracle.json --policy flag|reject

The oracle is what the testbed's traffic driver writes after its run: the server's own listing of
records and accounts. Exits with 0 when the two agree, and with 1 when they differ; each difference is a
line.

--missed: the worker missed events. It has all records, except those of inactive accounts, since their
hosts do not serve them. Handles come from events only, and so do statuses of accounts of which nothing
was kept. --records: the worker saw no events. It knows accounts only by their records. --known FILE (one
DID on each line): only these accounts are compared.
"""

import argparse
import json
import sqlite3
import sys

COLLECTIONS = ("com.huddle.slotOffer", "com.huddle.bookingRequest", "com.huddle.booking")
MOST_LINES = 20
# One message of the server does not verify: the #sync after importRepo names another rev than its block.
# The worker refuses it and fetches the repository instead.
REFUSED = "the commit has another rev than the message"


def did_of(uri):
    return uri.split("/")[2]


def collection_of(uri):
    return uri.split("/")[3]


def is_malformed(uri):
    """The traffic driver gives every malformed record such a key."""
    return uri.split("/")[4].startswith("bad-")


class Comparison:
    def __init__(self, database, oracle, known):
        self.known = known
        for kind in ("records", "nearMissRecords", "hiddenRecords"):
            oracle[kind] = [r for r in oracle[kind] if self.counts(did_of(r["uri"]))]
        oracle["accounts"] = [a for a in oracle["accounts"] if self.counts(a["did"])]
        self.rows = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
        self.oracle = oracle
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
        rows = self.rows.execute(query, collections)
        return [row for row in rows if self.counts(did_of(row[0]))]

    def counts(self, did):
        return self.known is None or did in self.known

    def those_with(self, special):
        """The accounts to which this was done."""
        accounts = self.oracle["accounts"]
        return {a["did"] for a in accounts if any(s.startswith(special) for s in a["special"])}

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
            # Malformed records that were deleted later, or whose account is hidden, are dead
            # letters too. The oracle does not list them among the live ones.
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
        # Commits that were parked for a key stay parked until the account is active again.
        query = """
            SELECT DISTINCT did FROM kept_parked_commits
            WHERE did IN (SELECT did FROM accounts WHERE active = 0)
        """
        waiting = {did for (did,) in self.rows.execute(query)}
        print(f"hidden accounts with parked commits: {len(waiting)}")
        hidden, found = (
            {row for row in rows if did_of(row[0]) not in waiting} for rows in (hidden, found)
        )
        self.same("hidden records", hidden, found)

    def untracked(self):
        """The accounts of whose repositories nothing is known."""
        tracked = {did for (did,) in self.rows.execute("SELECT did FROM repos")}
        return {a["did"] for a in self.oracle["accounts"]} - tracked

    def accounts(self, has_missed):
        expected = {(a["did"], a["status"]) for a in self.oracle["accounts"]}
        query = "SELECT did, active, status FROM accounts"
        found = {
            (did, "active" if active else status)
            for did, active, status in self.rows.execute(query)
            if self.counts(did)
        }
        if has_missed:
            untracked = self.untracked()
            print(f"accounts of which nothing is kept: {len(untracked)}")
            expected = {row for row in expected if row[0] not in untracked}
            found = {row for row in found if row[0] not in untracked}
        self.same("account statuses", expected, found)
        handles = {(a["did"], a["handle"]) for a in self.oracle["accounts"]}
        rows = self.rows.execute("SELECT did, handle FROM accounts")
        found = {row for row in rows if self.counts(row[0])}
        if has_missed:
            renamed = self.those_with("handle-change")
            print(f"handles that were changed, and may be old: {len(renamed)}")
            handles = {row for row in handles if row[0] not in renamed}
            found = {row for row in found if row[0] not in renamed}
        self.same("handles", handles, found)

    def refusals(self, has_missed):
        query = "SELECT did, error, count(*) FROM dead_letters WHERE stage = 'verify' GROUP BY 1, 2"
        found = set(self.rows.execute(query))
        expected = {(did, REFUSED, 1) for did in self.those_with("import-repo")}
        if has_missed:
            expected &= found
        print(f"syncs after an import, refused as they have to be: {len(expected & found)}")
        self.same("verification failures beside them", set(), found - expected)
        self.same("such syncs that were not refused", set(), expected - found)

    def no_loss(self):
        (gaps,) = self.rows.execute("SELECT count(*) FROM gaps WHERE closed_at IS NULL").fetchone()
        self.same("open gaps", set(), {"a gap"} if gaps else set())
        query = "SELECT uri, error FROM dead_letters WHERE stage NOT IN ('validate', 'verify')"
        self.same("dead letters of other kinds", set(), set(self.rows.execute(query)))
        (levels,) = self.rows.execute(
            "SELECT group_concat(DISTINCT verified) FROM records WHERE deleted = 0"
        ).fetchone()
        self.same("levels of verification", {"chain"}, set((levels or "").split(",")))
        query = "SELECT did, state, cause FROM repos WHERE state <> 'synchronized' OR has_parked"
        active = {a["did"] for a in self.oracle["accounts"] if a["status"] == "active"}
        unsettled = {row for row in self.rows.execute(query) if row[0] in active}
        self.same("repositories that are not synchronized", set(), unsettled)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", required=True)
    parser.add_argument("--oracle", required=True)
    parser.add_argument("--policy", required=True, choices=("flag", "reject"))
    parser.add_argument("--missed", action="store_true")
    parser.add_argument("--records", action="store_true")
    parser.add_argument("--known")
    arguments = parser.parse_args()
    with open(arguments.oracle, encoding="utf-8") as file:
        oracle = json.load(file)
    known = None
    if arguments.known:
        with open(arguments.known, encoding="utf-8") as file:
            known = set(file.read().split())
    comparison = Comparison(arguments.database, oracle, known)
    comparison.records(arguments.policy)
    comparison.dead_letters(arguments.policy)
    comparison.near_misses()
    has_missed = arguments.missed or arguments.records
    if not has_missed:
        comparison.hidden_records(arguments.policy)
    if not arguments.records:
        comparison.accounts(has_missed)
    comparison.refusals(has_missed)
    comparison.no_loss()
    print(f"{comparison.differences} differences")
    return 1 if comparison.differences else 0


if __name__ == "__main__":
    sys.exit(main())
