//! The typical traffic of the network: commits of other applications.
//!
//! Modelled on 150 frames of the production relay (August 2026): 148 commits of one operation each,
//! 3.6 to 9 KB long and 5.4 KB on average, one #account, one #identity. The blocks of unwanted
//! commits are not decoded, so these contain zeros.

use ipld_core::cid::Cid;
use ipld_core::ipld;
use ipld_core::ipld::Ipld;

const COMMITS: usize = 148;
const SHORTEST_BLOCKS: usize = 3_000;
const LONGEST_BLOCKS: usize = 7_000;
const CID: &str = "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a";
const COLLECTIONS: [&str; 4] = [
    "app.bsky.feed.like",
    "app.bsky.feed.post",
    "app.bsky.feed.repost",
    "app.bsky.graph.follow",
];

pub(crate) fn frames() -> Vec<Vec<u8>> {
    let usual = |number| {
        let collection = COLLECTIONS[number % COLLECTIONS.len()];
        let blocks = SHORTEST_BLOCKS + (LONGEST_BLOCKS - SHORTEST_BLOCKS) * number / COMMITS;
        commit(collection, number, blocks)
    };
    let mut frames: Vec<Vec<u8>> = (0..COMMITS).map(usual).collect();
    frames.insert(50, account());
    frames.insert(100, identity());
    frames
}

fn did(number: usize) -> String {
    format!("did:plc:{number:0>24}")
}

/// A commit of one record in `collection`, by the `number`th account, with `blocks` bytes of
/// blocks.
pub(crate) fn commit(collection: &str, number: usize, blocks: usize) -> Vec<u8> {
    let cid = Ipld::Link(CID.parse::<Cid>().unwrap());
    message(
        "#commit",
        &ipld!({
            "ops": [{
                "cid": cid.clone(),
                "path": format!("{collection}/3mptbypluud2a"),
                "action": "create",
            }],
            "rev": "3mptbypluud2a",
            "seq": 1,
            "repo": did(number),
            "time": "2026-08-04T14:38:07.877Z",
            "blobs": [],
            "since": "3mptbyo7abk2x",
            "blocks": Ipld::Bytes(vec![0; blocks]),
            "commit": cid.clone(),
            "rebase": false,
            "tooBig": false,
            "prevData": cid,
        }),
    )
}

fn account() -> Vec<u8> {
    let time = "2026-08-04T14:38:07.877Z";
    message(
        "#account",
        &ipld!({ "did": did(1), "seq": 1, "time": time, "active": true }),
    )
}

fn identity() -> Vec<u8> {
    let time = "2026-08-04T14:38:07.877Z";
    message(
        "#identity",
        &ipld!({ "did": did(2), "seq": 1, "time": time, "handle": "ann.example" }),
    )
}

fn message(t: &str, payload: &Ipld) -> Vec<u8> {
    let mut frame = serde_ipld_dagcbor::to_vec(&ipld!({ "t": t, "op": 1 })).unwrap();
    frame.extend(serde_ipld_dagcbor::to_vec(payload).unwrap());
    frame
}
