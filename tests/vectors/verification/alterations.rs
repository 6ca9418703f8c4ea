//! An altered commit is refused, or has the same meaning as before. Holds invariant 9.4.

use std::collections::BTreeMap;

use cid::Cid;
use fastrand::Rng;
use huddle_firehose::atproto::mst::empty_root;
use huddle_firehose::atproto::verify::{CommitEvidence, Level, Op};
use simulated_network::car::address_of;

use super::support::{Message, commits, verify};

/// Everything that a commit proves.
#[derive(Debug, PartialEq)]
struct Meaning {
    cid: Cid,
    did: String,
    rev: String,
    data: Cid,
    /// A first commit may name no previous tree, or the empty one.
    prev_data: Cid,
    ops: BTreeMap<String, Op>,
    records: Vec<Option<bytes::Bytes>>,
}

impl Meaning {
    fn of(evidence: CommitEvidence) -> Self {
        // Whether they are there is asked where they are wanted.
        let records = evidence.ops.values().filter_map(Op::cid);
        let records: Vec<_> = records
            .map(|cid| {
                let block = evidence.blocks.get(&cid);
                block.filter(|block| address_of(block) == cid).cloned()
            })
            .collect();
        Self {
            cid: evidence.cid,
            did: evidence.commit.did.to_string(),
            rev: evidence.commit.rev.to_string(),
            data: evidence.commit.data,
            prev_data: evidence.prev_data.unwrap_or_else(empty_root),
            records,
            ops: evidence.ops,
        }
    }
}

/// Asserts that an altered commit has the same meaning. Returns `false` if it is refused.
fn means_the_same(message: &Message, original: &Meaning, altered: &[u8], what: &str) -> bool {
    match verify(altered, &message.public(), Level::Chain) {
        Ok(evidence) => {
            let mut meaning = Meaning::of(evidence);
            // A record that was altered is missing.
            for (record, of_original) in meaning.records.iter_mut().zip(&original.records) {
                if record.is_none() {
                    record.clone_from(of_original);
                }
            }
            assert_eq!(meaning, *original, "{what}");
            true
        }
        Err(error) => {
            assert!(!error.name().is_empty());
            false
        }
    }
}

#[test]
fn a_flipped_bit_is_refused_or_changes_nothing() {
    let (mut refused, mut accepted) = (0, 0);
    for seed in 0..3 {
        let mut random = Rng::with_seed(seed);
        for message in commits(seed, 40) {
            let bytes = message.bytes();
            let original = Meaning::of(message.verify(Level::Chain).unwrap());
            for _ in 0..40 {
                let (at, bit) = (random.usize(..bytes.len()), random.u32(..8));
                let mut altered = bytes.clone();
                altered[at] ^= 1 << bit;
                let what = format!("seed {seed}: bit {bit} of byte {at}");
                match means_the_same(&message, &original, &altered, &what) {
                    true => accepted += 1,
                    false => refused += 1,
                }
            }
        }
    }
    // What is flipped in a record or in `since` is accepted: the first counts as missing, the second
    // is not signed.
    assert!(refused > 2 * accepted, "{refused} refused, {accepted} not");
}

#[test]
fn a_cut_or_mixed_commit_is_refused_or_means_the_same() {
    for seed in 0..2 {
        let mut random = Rng::with_seed(seed);
        let commits = commits(seed, 50);
        for message in &commits {
            let bytes = message.bytes();
            let original = Meaning::of(message.verify(Level::Chain).unwrap());
            for _ in 0..20 {
                let cut = random.usize(..bytes.len());
                let what = format!("seed {seed}: cut at {cut}");
                assert!(!means_the_same(message, &original, &bytes[..cut], &what));

                let other = &commits[random.usize(..commits.len())];
                let fields: Vec<&String> = other.payload.keys().collect();
                let field = fields[random.usize(..fields.len())];
                let mut mixed = message.clone();
                mixed.set(field, other.payload[field].clone());
                let what = format!("seed {seed}: {field} of another commit");
                means_the_same(message, &original, &mixed.bytes(), &what);
            }
        }
    }
}
