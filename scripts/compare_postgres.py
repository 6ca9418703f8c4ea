#!/usr/bin/env python3
"""Compares a Postgres sink with the worker's database, and with what the reference server says it holds.

    compare_postgres.py --database huddle.db --oracle oracle.json --postgres URL --schema NAME

The policy has to be `flag`. It reads Postgres with `psql`. Exits with 0 when all agree, and with 1 when
they differ; each difference is a line.
"""

import argparse
import csv
import io
import json
import sqlite3
import subprocess
import sys

COLLECTIONS = ("com.huddle.slotOffer", "com.huddle.bookingRequest", "com.huddle.booking")
MOST_LINES = 20
TIME = "to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"

# A table, its plain columns, its datetimes, and the rows of the worker's database that a sink has.
TABLES = (
    ("records", "uri did collection rkey cid rev seq source validity deleted verified", "time first_indexed_at last_indexed_at", ""),
    ("accounts", "did handle handle_status active status", "removed_at", "WHERE change IS NOT NULL"),
    ("offers_index", "uri cid rev title description timezone capacity location status", "starts_at ends_at created_at indexed_at", ""),
    ("booking_requests", "uri cid rev offer_uri offer_cid note status", "requested_start created_at indexed_at", ""),
    ("bookings", "uri cid rev offer_uri offer_cid request_uri request_cid status", "starts_at ends_at created_at indexed_at", ""),
    ("visible_records", "uri cid", "", ""),
    ("booking_statistics", "day status host bookings", "", ""),
)


class Comparison:
    def __init__(self, arguments):
        self.url, self.schema = arguments.postgres, arguments.schema
        self.rows = sqlite3.connect(f"file:{arguments.database}?mode=ro", uri=True)
        self.differences = 0

    def postgres(self, query):
        script = f"SET search_path = {self.schema}; COPY ({query}) TO STDOUT (FORMAT csv, NULL '-')"
        command = ["psql", "-qX", "-v", "ON_ERROR_STOP=1", self.url, "-c", script]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return {tuple(row) for row in csv.reader(io.StringIO(text))}

    def sqlite(self, query):
        rows = self.rows.execute(query)
        return {tuple("-" if value is None else str(value) for value in row) for row in rows}

    def same(self, what, expected, found):
        missing, unexpected = sorted(expected - found), sorted(found - expected)
        state = "equal" if not missing and not unexpected else "DIFFERENT"
        print(f"{what}: expected {len(expected)}, found {len(found)}: {state}")
        for label, items in (("missing", missing), ("unexpected", unexpected)):
            for item in items[:MOST_LINES]:
                print(f"  {label}: {item}")
        self.differences += len(missing) + len(unexpected)

    def tables(self):
        for table, plain, times, condition in TABLES:
            plain, times = plain.split(), times.split()
            here = ", ".join(plain + times)
            there = ", ".join(plain + [TIME.format(name) for name in times])
            expected = self.sqlite(f"SELECT {here} FROM {table} {condition}")
            self.same(f"postgres {table}", expected, self.postgres(f"SELECT {there} FROM {table}"))

    def record_bodies(self):
        query = "SELECT uri, record FROM records WHERE deleted = 0"
        # jsonb has no place for U+0000.
        expected = {
            uri: json.loads(record.replace("\\u0000", "\\ufffd"))
            for uri, record in self.rows.execute(query)
        }
        found = {uri: json.loads(record) for uri, record in self.postgres(query)}
        wrong = {uri for uri in expected if expected[uri] != found.get(uri)}
        self.same("postgres bodies of records", set(), wrong)

    def oracle(self, path):
        with open(path, encoding="utf-8") as file:
            oracle = json.load(file)
        expected = {(record["uri"], record["cid"]) for record in oracle["records"]}
        names = ", ".join(f"'{name}'" for name in COLLECTIONS)
        query = f"SELECT uri, cid FROM visible_records WHERE collection IN ({names})"
        self.same("postgres live records of the server", expected, self.postgres(query))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--database", "--oracle", "--postgres", "--schema"):
        parser.add_argument(name, required=True)
    arguments = parser.parse_args()
    csv.field_size_limit(1 << 30)
    comparison = Comparison(arguments)
    comparison.tables()
    comparison.record_bodies()
    comparison.oracle(arguments.oracle)
    print(f"{comparison.differences} differences")
    return 1 if comparison.differences else 0


if __name__ == "__main__":
    sys.exit(main())
