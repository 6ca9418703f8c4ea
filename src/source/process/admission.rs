//! The rules of collections and accounts, applied to effects.

use crate::source::interest::Interest;
use crate::store::plan::effect::{Effect, RecordChange};

impl Interest {
    /// Removes the parts of `effects` that these rules do not want. The decoders have applied the rules
    /// that were in force when they decoded; these may be newer. Dead letters and gaps always stay.
    pub fn retain_wanted(&self, effects: &mut Vec<Effect>) {
        effects.retain_mut(|effect| self.admits(effect));
    }

    fn admits(&self, effect: &mut Effect) -> bool {
        match effect {
            Effect::Account(change) => self.wants_did(change.did.as_str()),
            Effect::Identity(change) => self.wants_did(change.did.as_str()),
            Effect::Commit(commit) => {
                let chain = commit.chain.as_ref();
                if chain.is_some_and(|chain| !self.wants_did(chain.did.as_str())) {
                    commit.chain = None;
                }
                commit.records.retain(|record| self.admits_record(record));
                commit.chain.is_some() || !commit.records.is_empty()
            }
            Effect::DeadLetter(_) | Effect::Gap(_) | Effect::Recheck(_) => true,
        }
    }

    fn admits_record(&self, record: &RecordChange) -> bool {
        let version = match record {
            RecordChange::DeadLetter(_) => return true,
            RecordChange::Delete(delete) => &delete.version,
            RecordChange::Refuse(refusal) => &refusal.version,
            RecordChange::Upsert(upsert) => &upsert.version,
        };
        self.wants_did(version.did.as_str()) && self.wants_collection(version.collection.as_str())
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::atproto::car::address_of;
    use crate::atproto::syntax::{Did, Nsid, RecordKey, Tid};
    use crate::model::{DeadLetter, Gap, GapCause, Stage};
    use crate::store::plan::effect::{
        AccountChange, ChainUpdate, CommitEffect, Predecessor, RecordDelete, RecordVersion,
    };

    fn did(name: &str) -> Did {
        Did::parse(&format!("did:plc:{name}")).unwrap()
    }

    fn rev() -> Tid {
        Tid::parse("3k2222222222a").unwrap()
    }

    fn deletion(name: &str, collection: &str) -> RecordChange {
        RecordChange::Delete(RecordDelete {
            version: RecordVersion {
                did: did(name),
                collection: Nsid::parse(collection).unwrap(),
                rkey: RecordKey::parse("key").unwrap(),
                rev: rev(),
                seq: 1,
                time: Timestamp::UNIX_EPOCH,
                data: address_of(&[1]),
                verified: None,
            },
        })
    }

    fn letter() -> DeadLetter {
        DeadLetter {
            stage: Stage::Decode,
            error: String::new(),
            seq: None,
            did: None,
            uri: None,
            task: None,
            raw: bytes::Bytes::new(),
            attempts: 1,
        }
    }

    fn chain(name: &str) -> Option<ChainUpdate> {
        Some(ChainUpdate {
            did: did(name),
            rev: rev(),
            data: address_of(&[1]),
            seq: 1,
            time: Timestamp::UNIX_EPOCH,
            predecessor: Predecessor::Unstated,
            wants_history: false,
            lacks_record: false,
            has_wanted_ops: true,
            begins_empty: false,
            awaits_directory: false,
            frame: bytes::Bytes::new(),
        })
    }

    fn retained(mut effects: Vec<Effect>) -> Vec<Effect> {
        let interest = Interest::new(["com.huddle.*".parse().unwrap()]).denying([did("denied")]);
        interest.retain_wanted(&mut effects);
        effects
    }

    /// Holds invariant 7.1: what remains keeps its order.
    #[test]
    fn records_of_other_collections_and_of_denied_accounts_are_removed_in_place() {
        let first = deletion("ann", "com.huddle.booking");
        let second = deletion("bob", "com.huddle.slotOffer");
        let effects = retained(vec![Effect::records(vec![
            first.clone(),
            deletion("ann", "com.other.thing"),
            deletion("denied", "com.huddle.booking"),
            second.clone(),
        ])]);
        assert_eq!(effects, [Effect::records(vec![first, second])]);
    }

    #[test]
    fn a_commit_without_a_wanted_part_is_no_effect() {
        let commit = CommitEffect {
            chain: chain("denied"),
            records: vec![deletion("denied", "com.huddle.booking")],
        };
        assert_eq!(retained(vec![Effect::Commit(Box::new(commit))]), []);
    }

    #[test]
    fn the_chain_of_a_wanted_account_stays_without_records() {
        let commit = CommitEffect {
            chain: chain("ann"),
            records: Vec::new(),
        };
        let effects = vec![Effect::Commit(Box::new(commit))];
        assert_eq!(retained(effects.clone()), effects);
    }

    #[test]
    fn the_status_of_a_denied_account_is_removed() {
        let status = |name: &str| {
            Effect::Account(AccountChange {
                did: did(name),
                active: false,
                status: None,
                is_unconfirmed: false,
                wants_history: false,
                seq: 1,
                time: Timestamp::UNIX_EPOCH,
            })
        };
        assert_eq!(
            retained(vec![status("denied"), status("ann")]),
            [status("ann")]
        );
    }

    /// Holds invariant 5.1.
    #[test]
    fn dead_letters_and_gaps_stay_whatever_the_rules_say() {
        let gap = Gap {
            cause: GapCause::StartedLive,
            from_seq: 1,
            from_time: None,
            to_seq: None,
            to_time: None,
        };
        let in_commit = RecordChange::DeadLetter(Box::new(letter()));
        let effects = vec![
            Effect::Gap(gap),
            Effect::DeadLetter(Box::new(letter())),
            Effect::records(vec![in_commit]),
        ];
        assert_eq!(retained(effects.clone()), effects);
    }
}
