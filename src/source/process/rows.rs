//! The size of the rows that a commit becomes. A commit may name one record in many operations, so a
//! short frame can stand for far more bytes than it has.

use std::collections::HashMap;

use cid::Cid;

use super::EFFECT_BYTES;
use crate::atproto::event::{Change, Event};
use crate::atproto::json::{MOST_JSON_GROWTH, json_length};

/// The most bytes of rows of one commit: each record as JSON and as DAG-CBOR, once for each operation
/// that names it. They are written in one transaction.
pub const MAX_ROWS: usize = 64 << 20;

/// How often the bytes of a record its row may have: as DAG-CBOR, and as JSON.
pub const MOST_ROW_GROWTH: usize = 1 + MOST_JSON_GROWTH;

/// A commit that is larger than a transaction may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the rows of the commit have {bytes} bytes, {MAX_ROWS} are allowed; the repository is fetched instead"
)]
pub struct RowsError {
    pub bytes: usize,
}

/// Checks that the rows of a commit are not too large. Other events have no large rows.
///
/// # Errors
/// If they are.
pub(crate) fn check(event: &Event) -> Result<(), RowsError> {
    let Event::Commit(commit) = event else {
        return Ok(());
    };
    let records = || {
        commit.ops.iter().filter_map(|op| match &op.change {
            Change::Put { cid, record, .. } => Some((cid, record)),
            Change::Delete | Change::Missing { .. } | Change::Broken { .. } => None,
        })
    };
    // Nearly all commits are far below the limit, whatever they hold.
    let most: usize = records()
        .map(|(_, record)| record.len() * MOST_ROW_GROWTH)
        .sum();
    if most + commit.ops.len() * EFFECT_BYTES <= MAX_ROWS {
        return Ok(());
    }
    let mut lengths: HashMap<&Cid, usize> = HashMap::new();
    let bytes = records()
        .map(|(cid, record)| {
            let json = lengths
                .entry(cid)
                .or_insert_with(|| json_length(record).unwrap_or_default());
            record.len() + *json
        })
        .sum();
    match bytes <= MAX_ROWS {
        true => Ok(()),
        false => Err(RowsError { bytes }),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ipld_core::{ipld, ipld::Ipld};
    use jiff::Timestamp;

    use super::*;
    use crate::atproto::car::address_of;
    use crate::atproto::event::{Commit, PutAction, RecordOp};
    use crate::atproto::syntax::{Did, Nsid, RecordKey, Tid};

    /// A commit of `paths` operations that all name `record`.
    fn commit(record: &Ipld, paths: usize) -> Event {
        let record: Bytes = serde_ipld_dagcbor::to_vec(record).unwrap().into();
        let cid = address_of(&record);
        let op = |index: usize| RecordOp {
            collection: Nsid::parse("com.huddle.note").unwrap(),
            rkey: RecordKey::parse(&format!("r{index}")).unwrap(),
            change: Change::Put {
                action: PutAction::Create,
                cid,
                record: record.clone(),
            },
        };
        Event::Commit(Box::new(Commit {
            seq: 7,
            did: Did::parse("did:plc:ann").unwrap(),
            rev: Tid::parse("3mptbypluud2a").unwrap(),
            since: None,
            time: Timestamp::UNIX_EPOCH,
            commit: cid,
            data: cid,
            prev_data: None,
            ops: (0..paths).map(op).collect(),
            misnamed: Vec::new(),
        }))
    }

    /// Both forms of the record together have a little more than a megabyte.
    fn half_a_megabyte() -> Ipld {
        ipld!({ "$type": "com.huddle.note", "text": "a".repeat(1 << 19) })
    }

    /// Holds invariant 4.8.
    #[test]
    fn each_operation_counts_the_whole_record_that_it_names() {
        assert_eq!(check(&commit(&half_a_megabyte(), 63)), Ok(()));
        let error = check(&commit(&half_a_megabyte(), 64)).unwrap_err();
        assert!(error.bytes > MAX_ROWS, "{error}");
        let both = [error.bytes, MAX_ROWS].map(|figure| figure.to_string());
        let text = error.to_string();
        assert!(both.iter().all(|figure| text.contains(figure)), "{text}");
    }

    /// Holds invariant 4.8.
    #[test]
    fn what_counts_is_what_the_record_becomes() {
        // Empty byte strings: one byte each, and fourteen as JSON.
        let bytes = Ipld::List(vec![Ipld::Bytes(Vec::new()); 1 << 19]);
        let record = ipld!({ "$type": "com.huddle.note", "bytes": bytes });
        assert_eq!(check(&commit(&record, 8)), Ok(()));
        assert!(check(&commit(&record, 9)).is_err());
    }
}
