"""Reads a firehose with Python's atproto: parses every message, decodes every commit's CAR, and counts
the operations on the collections.

    python python_atproto.py SOURCE PLC LAST_SEQ COLLECTIONS

Prints "END" and what it saw after LAST_SEQ, and waits.
"""

import json
import sys

from atproto import CAR, FirehoseSubscribeReposClient, models, parse_subscribe_repos_message

source, _plc, last_seq, collections = sys.argv[1:]
prefixes = tuple(pattern.removesuffix("*") for pattern in collections.split(","))
seen = {"events": 0, "kept": 0, "errors": 0}
parameters = models.ComAtprotoSyncSubscribeRepos.Params(cursor=0)
client = FirehoseSubscribeReposClient(parameters, base_uri=f"{source}/xrpc")


def read(message):
    commit = parse_subscribe_repos_message(message)
    if not isinstance(commit, models.ComAtprotoSyncSubscribeRepos.Commit) or not commit.blocks:
        return
    blocks = CAR.from_bytes(commit.blocks).blocks
    for op in commit.ops:
        if op.path.startswith(prefixes):
            seen["kept"] += 1
            if op.cid is not None:
                blocks.get(op.cid)


def on_message(message):
    seen["events"] += 1
    try:
        read(message)
    except Exception:
        seen["errors"] += 1
    if message.body.get("seq", 0) >= int(last_seq):
        print("END", json.dumps(seen), flush=True)


client.start(on_message)
