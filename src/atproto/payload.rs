//! The payloads that carry blocks, in the form for serde. serde checks the types of the fields
//! only.

use cid::Cid;
use serde::Deserialize;

use super::syntax::Tid;

/// The largest number of operations in one commit.
pub(crate) const MAX_OPS: usize = 200;
/// The longest CAR of a commit, in bytes. The lexicon says 2,000,000; real servers use 2 MiB.
pub(crate) const MAX_BLOCKS: usize = 2 << 20;
/// The longest CAR of a `#sync`, in bytes.
pub(crate) const MAX_SYNC_BLOCKS: usize = 10_000;

/// `tooBig`, `rebase` and `blobs` are not read, so they may be absent.
#[derive(Deserialize)]
pub(crate) struct CommitPayload<'a> {
    pub(crate) seq: u64,
    pub(crate) repo: &'a str,
    pub(crate) rev: &'a str,
    pub(crate) since: Option<&'a str>,
    pub(crate) time: &'a str,
    pub(crate) commit: Cid,
    #[serde(rename = "prevData")]
    pub(crate) prev_data: Option<Cid>,
    #[serde(with = "serde_bytes")]
    pub(crate) blocks: &'a [u8],
    #[serde(borrow)]
    pub(crate) ops: Vec<Op<'a>>,
}

#[derive(Clone, Copy, Deserialize)]
pub(crate) struct Op<'a> {
    pub(crate) action: &'a str,
    pub(crate) path: &'a str,
    pub(crate) cid: Option<Cid>,
    /// The CID before an update or a delete.
    pub(crate) prev: Option<Cid>,
}

#[derive(Deserialize)]
pub(crate) struct SyncPayload<'a> {
    pub(crate) seq: u64,
    pub(crate) did: &'a str,
    pub(crate) rev: &'a str,
    pub(crate) time: &'a str,
    #[serde(with = "serde_bytes")]
    pub(crate) blocks: &'a [u8],
}

/// The rev before a commit. It is not signed, so one that is no rev refuses nothing. Some servers
/// write `""` in the first commit, which has no rev before it.
pub(crate) fn since(text: Option<&str>) -> Option<Tid> {
    text.and_then(|text| Tid::parse(text).ok())
}
