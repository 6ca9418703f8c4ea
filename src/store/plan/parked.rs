//! Parked commits. They wait for their key, or for their repository to be fetched.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::Bytes;

use crate::model::ParkedReason;
use crate::store::plan::effect::ChainUpdate;

/// The most bytes of frames that are parked: of one repository, and of all together. If one is
/// exceeded, the repository's frames are dropped and it is fetched as a whole, which gives the same
/// result.
///
/// Frames that wait for the PLC directory do not count. It is shared by all, so a slow directory would
/// have many repositories fetched at once. Instead less is read while much waits for it: see
/// `pipeline/backlog.rs`.
const MAX_OF_ONE: u64 = 16 << 20;
const MAX_OF_ALL: u64 = 1 << 30;

/// The keys of parked frames that a plan has to know before it parks more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParkedNeeds {
    /// The DIDs whose frames are counted.
    pub dids: BTreeSet<String>,
    /// The DIDs and seqs of the frames to park.
    pub frames: BTreeSet<(String, u64)>,
}

/// What is parked already.
#[derive(Clone, Debug, Default)]
pub struct ParkedView {
    /// Bytes of all frames that count.
    pub total: u64,
    /// Bytes of the frames that count, of each requested repository.
    pub bytes: HashMap<String, u64>,
    /// The requested frames that are stored.
    pub frames: HashSet<(String, u64, Bytes)>,
}

/// A commit to park.
#[derive(Clone, Copy, Debug)]
pub struct Parked<'a> {
    pub update: &'a ChainUpdate,
    pub reason: ParkedReason,
}

impl Parked<'_> {
    /// The bytes that count towards the limits.
    pub fn counted_bytes(&self) -> u64 {
        match self.reason {
            ParkedReason::Key => 0,
            ParkedReason::Account | ParkedReason::Inactive | ParkedReason::Repository => {
                self.update.frame.len() as u64
            }
        }
    }
}

/// The frames to add, and the repositories to drop.
#[derive(Debug, Default)]
pub(super) struct Parking<'a> {
    pub(super) added: Vec<Parked<'a>>,
    /// The repositories that exceed a limit.
    pub(super) overflowing: BTreeSet<&'a str>,
}

impl ParkedNeeds {
    /// `removed` are the accounts whose frames are deleted in the same transaction.
    pub(super) fn of<'a>(updates: &[Parked<'_>], removed: impl Iterator<Item = &'a str>) -> Self {
        let did = |parked: &Parked<'_>| parked.update.did.to_string();
        let frame = |parked: &Parked<'_>| (parked.update.did.to_string(), parked.update.seq);
        Self {
            dids: updates
                .iter()
                .map(did)
                .chain(removed.map(str::to_owned))
                .collect(),
            frames: updates.iter().map(frame).collect(),
        }
    }
}

impl<'a> Parking<'a> {
    /// Adds `updates`, except those that are stored already, because a frame may arrive again. If a
    /// limit is exceeded, all frames of the repository are dropped.
    pub(super) fn of(
        updates: &[Parked<'a>],
        parked: &ParkedView,
        is_removed: impl Fn(&str) -> bool,
    ) -> Self {
        let mut bytes: BTreeMap<&str, u64> = BTreeMap::new();
        let removed = parked.bytes.iter().filter(|(did, _)| is_removed(did));
        let removed: u64 = removed.map(|(_, bytes)| bytes).sum();
        let mut total = parked.total.saturating_sub(removed);
        let mut added: Vec<Parked<'_>> = Vec::new();
        let mut known_frames: HashSet<(&str, u64, &Bytes)> = HashSet::new();
        for parked_now in updates {
            let update = parked_now.update;
            let did = update.did.as_str();
            let is_removed = is_removed(did);
            let known = parked.bytes.get(did).filter(|_| !is_removed);
            let bytes = bytes
                .entry(did)
                .or_insert_with(|| known.copied().unwrap_or_default());
            let frame = (update.did.to_string(), update.seq, update.frame.clone());
            let is_stored = !is_removed && parked.frames.contains(&frame);
            if is_stored || !known_frames.insert((did, update.seq, &update.frame)) {
                continue;
            }
            *bytes += parked_now.counted_bytes();
            total += parked_now.counted_bytes();
            added.push(*parked_now);
        }
        let is_full = total > MAX_OF_ALL;
        let overflowing: BTreeSet<&str> = bytes
            .into_iter()
            .filter(|(_, bytes)| *bytes > MAX_OF_ONE || (is_full && *bytes > 0))
            .map(|(did, _)| did)
            .collect();
        added.retain(|parked| !overflowing.contains(parked.update.did.as_str()));
        Self { added, overflowing }
    }
}

#[cfg(test)]
mod tests {
    use cid::Cid;
    use jiff::Timestamp;

    use super::*;
    use crate::atproto::syntax::{Did, Tid};
    use crate::store::plan::effect::Predecessor;

    fn update(name: &str, seq: u64) -> ChainUpdate {
        ChainUpdate {
            did: Did::parse(&format!("did:plc:{name}")).unwrap(),
            rev: Tid::parse("3jzfcijpj2z2a").unwrap(),
            data: Cid::default(),
            seq,
            time: Timestamp::UNIX_EPOCH,
            predecessor: Predecessor::KeyUnavailable,
            wants_history: false,
            lacks_record: false,
            has_wanted_ops: true,
            begins_empty: false,
            awaits_directory: false,
            frame: Bytes::from_static(b"frame"),
        }
    }

    fn seqs(parking: &Parking<'_>) -> Vec<u64> {
        let added = parking.added.iter();
        added.map(|parked| parked.update.seq).collect()
    }

    fn parked<const N: usize>(updates: [&ChainUpdate; N]) -> [Parked<'_>; N] {
        let reason = ParkedReason::Account;
        updates.map(|update| Parked { update, reason })
    }

    #[test]
    fn a_frame_that_is_parked_already_is_not_parked_again() {
        let (first, second) = (update("alice", 1), update("alice", 2));
        let stored = (first.did.to_string(), 1, first.frame.clone());
        let view = ParkedView {
            frames: [stored].into(),
            ..ParkedView::default()
        };
        let parking = Parking::of(&parked([&first, &second, &second]), &view, |_| false);
        assert_eq!(seqs(&parking), [2]);
        // A deletion removes the account's frames, and later frames are parked again.
        let parking = Parking::of(&parked([&first, &second]), &view, |did| {
            did == "did:plc:alice"
        });
        assert_eq!(seqs(&parking), [1, 2]);
    }

    /// Holds invariant 4.6.
    #[test]
    fn beyond_the_total_limit_a_repository_loses_all_its_parked_frames() {
        let (alice, bob) = (update("alice", 1), update("bob", 2));
        let full = ParkedView {
            total: MAX_OF_ALL,
            ..ParkedView::default()
        };
        let parking = Parking::of(&parked([&alice, &bob]), &full, |_| false);
        assert!(parking.added.is_empty());
        let dids: Vec<&str> = parking.overflowing.into_iter().collect();
        assert_eq!(dids, ["did:plc:alice", "did:plc:bob"]);
    }

    /// Holds invariant 4.12.
    #[test]
    fn what_waits_for_the_directory_is_never_dropped() {
        let view = ParkedView {
            total: MAX_OF_ALL,
            ..ParkedView::default()
        };
        let frame = Bytes::from(vec![0; MAX_OF_ONE as usize + 1]);
        let alice = ChainUpdate {
            frame,
            ..update("alice", 1)
        };
        let reason = ParkedReason::Key;
        let update = &alice;
        let parking = Parking::of(&[Parked { update, reason }], &view, |_| false);
        assert_eq!(seqs(&parking), [1]);
        assert!(parking.overflowing.is_empty());
        let reason = ParkedReason::Account;
        let parking = Parking::of(&[Parked { update, reason }], &view, |_| false);
        assert!(parking.added.is_empty());
    }

    #[test]
    fn beyond_the_limit_of_one_repository_the_others_keep_their_frames() {
        let (alice, bob) = (update("alice", 1), update("bob", 2));
        let bytes = [(alice.did.to_string(), MAX_OF_ONE)].into();
        let view = ParkedView {
            total: MAX_OF_ONE,
            bytes,
            ..ParkedView::default()
        };
        let parking = Parking::of(&parked([&alice, &bob]), &view, |_| false);
        assert_eq!(seqs(&parking), [2]);
        let dids: Vec<&str> = parking.overflowing.into_iter().collect();
        assert_eq!(dids, ["did:plc:alice"]);
    }
}
