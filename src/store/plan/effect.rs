//! What an event asks of the tables.

use bytes::Bytes;
use cid::Cid;
use jiff::Timestamp;

use super::index_task::IndexTask;
use crate::atproto::syntax::{Did, Nsid, RecordKey, Tid};
use crate::atproto::verify::Level;
use crate::huddle::Projection;
use crate::model::{DeadLetter, Gap, SourceId, Stage, Validity};

/// One change to the tables. Effects are idempotent and monotone: each carries what guards it
/// (a rev, a time), so applying it twice, or after a later one, changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Account(AccountChange),
    Commit(Box<CommitEffect>),
    DeadLetter(Box<DeadLetter>),
    /// Something of this repository could not be verified, so its host is to be asked whether it is
    /// still where the tables have it.
    Recheck(Recheck),
    Gap(Gap),
    Identity(IdentityChange),
}

/// What one commit did. It is written whole: no two transactions share it.
#[derive(Clone, Debug, PartialEq)]
pub struct CommitEffect {
    /// Where the commit leads its repository. The records are written only where that follows from what
    /// is known. `None` where the chain is not followed: at the levels below `chain`, and of a
    /// repository that was fetched as a whole.
    pub chain: Option<ChainUpdate>,
    /// In the order of the commit's operations.
    pub records: Vec<RecordChange>,
}

/// What becomes of one operation of a commit.
#[derive(Clone, Debug, PartialEq)]
pub enum RecordChange {
    /// It cannot be applied. The letter is kept whatever becomes of its commit.
    DeadLetter(Box<DeadLetter>),
    Delete(RecordDelete),
    Upsert(Box<RecordUpsert>),
}

impl Effect {
    /// The effect of records whose chain is not followed.
    pub fn records(records: Vec<RecordChange>) -> Self {
        let chain = None;
        Self::Commit(Box::new(CommitEffect { chain, records }))
    }

    /// The dead letters that the effect brings.
    pub fn dead_letters(&self) -> impl Iterator<Item = &DeadLetter> {
        let (letter, records) = match self {
            Self::DeadLetter(letter) => (Some(letter.as_ref()), [].as_slice()),
            Self::Commit(commit) => (None, commit.records.as_slice()),
            _ => (None, [].as_slice()),
        };
        let of_records = records.iter().filter_map(|record| match record {
            RecordChange::DeadLetter(letter) => Some(letter.as_ref()),
            RecordChange::Delete(_) | RecordChange::Upsert(_) => None,
        });
        letter.into_iter().chain(of_records)
    }

    /// The parts that the database can refuse by themselves, each as an effect of its own: a commit's
    /// chain (`None`), and each of its records by its index.
    pub fn parts(&self) -> Vec<(Option<usize>, Self)> {
        let Self::Commit(commit) = self else {
            return vec![(None, self.clone())];
        };
        let chain = commit.chain.clone().map(|chain| {
            let (chain, records) = (Some(chain), Vec::new());
            (
                None,
                Self::Commit(Box::new(CommitEffect { chain, records })),
            )
        });
        let records = commit.records.iter().enumerate();
        let records =
            records.map(|(index, record)| (Some(index), Self::records(vec![record.clone()])));
        chain.into_iter().chain(records).collect()
    }

    /// `effects` with dead letters in the place of the parts that the database refused.
    pub fn without_refused(
        mut effects: Vec<Self>,
        source: &SourceId,
        rejections: Vec<Rejection>,
    ) -> Vec<Self> {
        for Rejection { part, reason } in rejections {
            if let Some(effect) = effects.get_mut(part.effect) {
                effect.refuse(part.record, source, 1, reason);
            }
        }
        effects
    }

    /// Puts a dead letter in the place of a part that the database has refused `attempts` times. The
    /// parts keep their indexes.
    pub fn refuse(
        &mut self,
        record: Option<usize>,
        source: &SourceId,
        attempts: u32,
        error: String,
    ) {
        let refusal = Refusal {
            source,
            attempts,
            error,
        };
        match (&mut *self, record) {
            (Self::Commit(commit), Some(record)) => {
                if let Some(record) = commit.records.get_mut(record) {
                    *record = RecordChange::DeadLetter(Box::new(refusal.of_record(record)));
                }
            }
            (Self::Commit(commit), None) => {
                if let Some(chain) = commit.chain.take() {
                    let letter = refusal.of_chain(&chain);
                    commit
                        .records
                        .push(RecordChange::DeadLetter(Box::new(letter)));
                }
            }
            (effect, _) => *effect = Self::DeadLetter(Box::new(refusal.of_effect(effect))),
        }
    }
}

impl RecordChange {
    /// Where the record stands, unless the operation cannot be applied.
    pub fn version(&self) -> Option<&RecordVersion> {
        match self {
            Self::DeadLetter(_) => None,
            Self::Delete(delete) => Some(&delete.version),
            Self::Upsert(upsert) => Some(&upsert.version),
        }
    }
}

/// Why something becomes a dead letter.
struct Refusal<'a> {
    source: &'a SourceId,
    attempts: u32,
    error: String,
}

impl Refusal<'_> {
    fn of_record(self, record: &RecordChange) -> DeadLetter {
        let (version, task, raw) = match record {
            RecordChange::DeadLetter(letter) => return self.of_letter(letter),
            RecordChange::Delete(delete) => (
                &delete.version,
                IndexTask::delete(delete, self.source, self.attempts),
                Bytes::new(),
            ),
            RecordChange::Upsert(upsert) => (
                &upsert.version,
                IndexTask::upsert(upsert, self.source, self.attempts),
                upsert.cbor.clone(),
            ),
        };
        DeadLetter {
            uri: Some(version.uri()),
            task: serde_json::to_string(&task).ok(),
            raw,
            ..self.letter(Some(version.seq), Some(version.did.to_string()))
        }
    }

    fn of_chain(self, chain: &ChainUpdate) -> DeadLetter {
        DeadLetter {
            raw: chain.frame.clone(),
            ..self.letter(Some(chain.seq), Some(chain.did.to_string()))
        }
    }

    /// Of an effect that is no commit.
    fn of_effect(self, effect: &Effect) -> DeadLetter {
        let (seq, did) = match effect {
            Effect::Account(change) => (Some(change.seq), Some(&change.did)),
            Effect::Recheck(doubt) => (None, Some(&doubt.did)),
            Effect::Gap(gap) => (gap.to_seq, None),
            Effect::Identity(change) => (Some(change.seq), Some(&change.did)),
            Effect::DeadLetter(letter) => return self.of_letter(letter),
            Effect::Commit(_) => (None, None),
        };
        self.letter(seq, did.map(Did::to_string))
    }

    fn of_letter(self, letter: &DeadLetter) -> DeadLetter {
        DeadLetter {
            uri: letter.uri.clone(),
            raw: letter.raw.clone(),
            ..self.letter(letter.seq, letter.did.clone())
        }
    }

    fn letter(self, seq: Option<u64>, did: Option<String>) -> DeadLetter {
        DeadLetter {
            stage: Stage::Index,
            error: self.error,
            seq,
            did,
            uri: None,
            task: None,
            raw: Bytes::new(),
            attempts: self.attempts,
        }
    }
}

/// A part of a batch that the database refuses whatever is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub part: EffectPart,
    pub reason: String,
}

/// Where a part stands in what was to be written (see [`Effect::parts`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EffectPart {
    /// The index of the effect.
    pub effect: usize,
    /// The index of the record among those of its commit; `None` is the chain, or an effect that is no
    /// commit.
    pub record: Option<usize>,
}

/// See [`Effect::Recheck`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recheck {
    pub did: Did,
    /// What could not be verified would have been kept, so the repository is fetched also where it is
    /// not tracked.
    pub is_wanted: bool,
}

/// Where a record stands, and which commit said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordVersion {
    pub did: Did,
    pub collection: Nsid,
    pub rkey: RecordKey,
    /// Guards the row: only a higher rev replaces it.
    pub rev: Tid,
    pub seq: u64,
    /// The event's `time`. Records from before their account's deletion are not brought back.
    pub time: Timestamp,
    /// The MST root of the commit, for the repository's chain state.
    pub data: Cid,
    /// How much of the commit was verified; `None` is nothing.
    pub verified: Option<Level>,
}

/// A repository says that it has gone from one state to the next. Whether what it did is to be
/// written depends on the state in which the tables have it.
#[derive(Clone, Debug, PartialEq)]
pub struct ChainUpdate {
    pub did: Did,
    /// The rev and the MST root that it has come to.
    pub rev: Tid,
    pub data: Cid,
    pub seq: u64,
    pub time: Timestamp,
    pub predecessor: Predecessor,
    /// Where it is the first that is seen of its repository, what was before it is wanted too.
    pub wants_history: bool,
    /// The frame that says so, to be read again where it has to be parked.
    pub frame: Bytes,
}

/// Where a chain update begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Predecessor {
    /// A commit, proven by itself.
    After {
        since: Option<Tid>,
        /// The tree before it, proven. `None` for the first commit of a repository, and where that is
        /// let pass unproven.
        prev_data: Option<Cid>,
        /// Whether it is let pass.
        is_lenient: bool,
    },
    /// A `#sync`, which doesn't say.
    Unstated,
    /// Not proven: who signs for the account is not known for now, or may have changed.
    KeyUnavailable,
}

impl RecordVersion {
    /// `at://did/collection/rkey`
    pub fn uri(&self) -> String {
        format!("at://{}/{}/{}", self.did, self.collection, self.rkey)
    }
}

/// A record was created or replaced.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordUpsert {
    pub version: RecordVersion,
    pub cid: Cid,
    /// The record as JSON (the protocol's JSON form of its data model).
    pub json: String,
    /// The record as signed.
    pub cbor: Bytes,
    pub validity: Validity,
    /// The row that discovery and matching read; `None` where the record has no such form.
    pub projection: Option<Projection>,
}

/// A record was deleted, or replaced by something that is not kept. Leaves a tombstone.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordDelete {
    pub version: RecordVersion,
}

/// An account's hosting status, guarded by (`time`, `seq`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountChange {
    pub did: Did,
    pub active: bool,
    pub status: Option<String>,
    /// The account's host is asked: whether the account is really gone before anything is removed, and
    /// for all that it has where it returns.
    pub is_unconfirmed: bool,
    pub seq: u64,
    pub time: Timestamp,
}

impl AccountChange {
    /// Whether the account's records are to be removed rather than hidden.
    pub fn is_deletion(&self) -> bool {
        !self.active && self.status.as_deref() == Some("deleted")
    }
}

/// A handle, guarded by (`time`, `seq`). An identity event without a handle changes no row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityChange {
    pub did: Did,
    pub handle: Option<String>,
    pub seq: u64,
    pub time: Timestamp,
}
