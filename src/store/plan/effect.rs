//! The changes that an event asks of the tables.

use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;
use jiff::Timestamp;

use super::index_task::IndexTask;
use crate::atproto::json::MOST_JSON_GROWTH;
use crate::atproto::syntax::{Did, Nsid, RecordKey, Tid};
use crate::atproto::verify::Level;
use crate::huddle::Projection;
use crate::model::{DeadLetter, Gap, Judgement, SourceId, Stage, Validity};

/// One change to the tables. Effects are idempotent and monotone: each carries its guard (a rev or
/// a time), so applying it twice, or after a later one, changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Account(AccountChange),
    Commit(Box<CommitEffect>),
    DeadLetter(Box<DeadLetter>),
    /// A commit of this repository could not be verified, or not be applied as a whole.
    Recheck(Recheck),
    Gap(Gap),
    Identity(IdentityChange),
}

/// The effect of one commit. It is written in one transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct CommitEffect {
    /// The chain update. The records are written only if it follows from the known head. `None` if
    /// the chain is not checked: at the levels below `chain`, and for a repository that was fetched
    /// as a whole.
    pub chain: Option<ChainUpdate>,
    /// In the order of the commit's operations.
    pub records: Vec<RecordChange>,
}

/// The effect of one operation of a commit.
#[derive(Clone, Debug, PartialEq)]
pub enum RecordChange {
    /// It cannot be applied. The dead letter is kept even if its commit is not applied.
    DeadLetter(Box<DeadLetter>),
    Delete(RecordDelete),
    /// Its new value is refused. The dead letter comes before it.
    Refuse(Box<RecordRefusal>),
    Upsert(Box<RecordUpsert>),
}

/// The bytes of short rows after which a statement takes no more of them.
pub const STATEMENT_BYTES: usize = 1 << 20;
/// The bytes of rows after which the database is sent no more of them at a time, so that the memory that
/// writing takes has a limit. A single row may be longer.
pub const TRIP_BYTES: usize = 4 << 20;
/// What an effect may become besides its records: the columns of its rows.
const ROW_BYTES: usize = 1 << 10;

/// The bytes that writing `effects` takes for a moment.
pub fn writing_bytes(effects: &[Effect]) -> usize {
    let longest = effects.iter().map(Effect::longest_row).max();
    let rows = effects.iter().map(Effect::rows_bytes).sum::<usize>();
    writing_bytes_of(longest.unwrap_or_default(), rows)
}

/// The bytes that writing rows of so many bytes takes for a moment, the longest of which has so many: of
/// rows that are short, as many as are sent at a time, and else one row, as it is sent, as the database
/// copies it, and as it is stored.
pub fn writing_bytes_of(longest_row: usize, rows: usize) -> usize {
    3 * longest_row.max(rows.min(TRIP_BYTES)).max(STATEMENT_BYTES)
}

impl Effect {
    /// The account that it changes, if there is one.
    pub fn did(&self) -> Option<&str> {
        match self {
            Self::Account(change) => Some(change.did.as_str()),
            Self::Identity(change) => Some(change.did.as_str()),
            Self::Recheck(recheck) => Some(recheck.did.as_str()),
            Self::DeadLetter(letter) => letter.did.as_deref(),
            Self::Commit(commit) => {
                let of_chain = commit.chain.as_ref().map(|chain| &chain.did);
                let mut versions = commit.records.iter().filter_map(RecordChange::version);
                let did = of_chain.or_else(|| versions.next().map(|version| &version.did));
                did.map(Did::as_str)
            }
            Self::Gap(_) => None,
        }
    }

    /// The bytes of its longest row, in which a record is as JSON and as DAG-CBOR. Rows are written
    /// one by one if they are long.
    pub fn longest_row(&self) -> usize {
        match self {
            Self::Commit(commit) => {
                let parked = commit.chain.as_ref().map(|chain| chain.frame.len());
                let records = commit.records.iter().map(RecordChange::row_bytes);
                records.chain(parked).max().unwrap_or_default()
            }
            Self::DeadLetter(letter) => bytes_of(letter),
            _ => 0,
        }
    }

    /// The bytes of all of its rows.
    fn rows_bytes(&self) -> usize {
        let (parked, rows) = match self {
            Self::Commit(commit) => {
                let parked = commit.chain.as_ref().map(|chain| chain.frame.len());
                (parked.unwrap_or_default(), 1 + commit.records.len())
            }
            _ => (0, 1),
        };
        self.bytes().max(parked) + rows * ROW_BYTES
    }

    /// The effect of records whose chain is not checked.
    pub fn records(records: Vec<RecordChange>) -> Self {
        let chain = None;
        Self::Commit(Box::new(CommitEffect { chain, records }))
    }

    /// The dead letters of the effect.
    pub fn dead_letters(&self) -> impl Iterator<Item = &DeadLetter> {
        let (letter, records) = match self {
            Self::DeadLetter(letter) => (Some(letter.as_ref()), [].as_slice()),
            Self::Commit(commit) => (None, commit.records.as_slice()),
            _ => (None, [].as_slice()),
        };
        let of_records = records.iter().filter_map(|record| match record {
            RecordChange::DeadLetter(letter) => Some(letter.as_ref()),
            RecordChange::Delete(_) | RecordChange::Refuse(_) | RecordChange::Upsert(_) => None,
        });
        letter.into_iter().chain(of_records)
    }

    /// The bytes of the records and dead letters that are written because of it.
    pub fn bytes(&self) -> usize {
        match self {
            Self::DeadLetter(letter) => bytes_of(letter),
            Self::Commit(commit) => commit.records.iter().map(RecordChange::row_bytes).sum(),
            Self::Account(_) | Self::Gap(_) | Self::Identity(_) | Self::Recheck(_) => 0,
        }
    }

    /// Makes it cheaper to write, because it could not be written in time in `attempts` attempts: its
    /// records become dead letters, and if they are, they lose their bytes. Returns whether that was
    /// possible.
    pub fn lighten(&mut self, source: &SourceId, attempts: u32, error: &str) -> bool {
        let records = match self {
            Self::Commit(commit) => commit.records.as_mut_slice(),
            Self::DeadLetter(letter) => return empty(letter),
            _ => return false,
        };
        let is_put = |record: &RecordChange| matches!(record, RecordChange::Upsert(_));
        if !records.iter().any(is_put) {
            let mut is_emptied = false;
            for record in records {
                if let RecordChange::DeadLetter(letter) = record {
                    is_emptied |= empty(letter);
                }
            }
            return is_emptied;
        }
        for record in records.iter_mut().filter(|record| is_put(record)) {
            let refusal = Refusal {
                source,
                attempts,
                error: error.to_owned(),
            };
            let letter = DeadLetter {
                task: None,
                ..refusal.of_record(record)
            };
            *record = RecordChange::DeadLetter(Box::new(letter));
        }
        true
    }

    /// The parts that the database can refuse separately, each as an effect of its own: a commit's
    /// chain update (`None`), and each of its records by its index.
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

    /// Returns `effects` with dead letters in place of the parts that the database refused.
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

    /// Puts a dead letter in place of a part that the database refused `attempts` times. The
    /// indexes of the parts stay the same.
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

/// The bytes of the row of a dead letter. Only a task holds the record once more, as JSON.
fn bytes_of(letter: &DeadLetter) -> usize {
    let json = letter.task.as_ref().map_or(0, |_| MOST_JSON_GROWTH);
    letter.raw.len() * (1 + json)
}

/// Takes the bytes from a dead letter. Returns whether it had any.
fn empty(letter: &mut DeadLetter) -> bool {
    let had_bytes = !letter.raw.is_empty() || letter.task.is_some();
    if had_bytes {
        letter.error = format!(
            "{}; its {} bytes are not kept",
            letter.error,
            letter.raw.len()
        );
        (letter.raw, letter.task) = (Bytes::new(), None);
    }
    had_bytes
}

impl RecordChange {
    fn row_bytes(&self) -> usize {
        match self {
            Self::DeadLetter(letter) => bytes_of(letter),
            Self::Delete(_) | Self::Refuse(_) => 0,
            Self::Upsert(upsert) => upsert.cbor.len() + upsert.json_bytes,
        }
    }

    /// The version of the record, unless the operation cannot be applied.
    pub fn version(&self) -> Option<&RecordVersion> {
        match self {
            Self::DeadLetter(_) => None,
            Self::Delete(delete) => Some(&delete.version),
            Self::Refuse(refusal) => Some(&refusal.version),
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
                IndexTask::delete(&delete.version, self.source, self.attempts),
                Bytes::new(),
            ),
            RecordChange::Refuse(refusal) => (
                &refusal.version,
                IndexTask::delete(&refusal.version, self.source, self.attempts),
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

    /// The dead letter of an effect that is no commit.
    fn of_effect(self, effect: &Effect) -> DeadLetter {
        let (seq, did) = match effect {
            Effect::Account(change) => (Some(change.seq), Some(&change.did)),
            Effect::Recheck(recheck) => (None, Some(&recheck.did)),
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

/// A part of a batch that the database refuses for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub part: EffectPart,
    pub reason: String,
}

/// The place of a part in a batch (see [`Effect::parts`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EffectPart {
    /// The index of the effect.
    pub effect: usize,
    /// The index of the record in its commit; `None` means the chain update, or an effect that is
    /// no commit.
    pub record: Option<usize>,
}

/// See [`Effect::Recheck`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recheck {
    pub did: Did,
    pub reason: RecheckReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecheckReason {
    /// A wanted record did not come with its commit, whose chain is not checked. The repository is
    /// fetched.
    RecordMissing,
    /// The commit was refused, so the repository's host is asked whether it is still at the head
    /// that the tables have.
    Refused {
        /// The commit had wanted records, so the repository is fetched even if it is not tracked.
        is_wanted: bool,
    },
}

/// The identity of a record, and the commit that set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordVersion {
    pub did: Did,
    pub collection: Nsid,
    pub rkey: RecordKey,
    /// Guards the row: see `store/plan/order.rs`.
    pub rev: Tid,
    pub seq: u64,
    /// The event's `time`. Records from before their account's deletion are not brought back.
    pub time: Timestamp,
    /// The MST root of the commit, for the repository's head.
    pub data: Cid,
    /// How much of the commit was verified; `None` means nothing.
    pub verified: Option<Level>,
}

/// The step of a repository from one head to the next. Whether its records are written depends on
/// the head that the tables have.
#[derive(Clone, Debug, PartialEq)]
pub struct ChainUpdate {
    pub did: Did,
    /// The rev and the MST root of the new head.
    pub rev: Tid,
    pub data: Cid,
    pub seq: u64,
    pub time: Timestamp,
    pub predecessor: Predecessor,
    /// If it is the first commit that arrives of its repository, the older records are wanted too.
    pub wants_history: bool,
    /// The block of a wanted record did not come with the commit. The repository has it.
    pub lacks_record: bool,
    /// It has operations of wanted collections, even if it is not verified yet.
    pub has_wanted_ops: bool,
    /// It says that its repository was empty before it, as a new account's first commit does.
    pub begins_empty: bool,
    /// Its key is unavailable, because the PLC directory has not answered yet.
    pub awaits_directory: bool,
    /// The frame, which is read again if it has to be parked.
    pub frame: Bytes,
}

/// Where a chain update says that it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Predecessor {
    /// A verified commit.
    After {
        since: Option<Tid>,
        /// The proven tree before it. `None` for the first commit of a repository, and at level
        /// `lenient` if the commit does not name it.
        prev_data: Option<Cid>,
        /// Whether a missing `prev_data` is accepted (level `lenient`).
        is_lenient: bool,
    },
    /// A `#sync`, which does not name its predecessor.
    Unstated,
    /// A commit that is not verified: the account's key is unavailable, or may have changed.
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
    /// The record as signed. Its JSON is written when the row is.
    pub cbor: Bytes,
    /// The length of its JSON, in bytes.
    pub json_bytes: usize,
    pub validity: Validity,
    /// The rules by which it was judged.
    pub judgement: Judgement,
    /// Its projection; `None` if the record has no row of its own. Operations of one commit that
    /// name the same record share it.
    pub projection: Option<Arc<Projection>>,
}

/// A record was replaced by a value that is refused. Leaves a tombstone that tells what was refused,
/// so that the value is accepted when the rules are others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRefusal {
    pub version: RecordVersion,
    /// The CID of the refused value.
    pub cid: Cid,
    pub judgement: Judgement,
    pub reason: String,
}

/// A record was deleted. Leaves a tombstone.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordDelete {
    pub version: RecordVersion,
}

/// An account's hosting status, guarded by `seq` and `time`: see `store/plan/order.rs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountChange {
    pub did: Did,
    pub active: bool,
    pub status: Option<String>,
    /// The account's host has to confirm this: before anything is removed, or to fetch its
    /// repository when it becomes active again.
    pub is_unconfirmed: bool,
    /// What the account wrote before it was heard of is wanted too.
    pub wants_history: bool,
    pub seq: u64,
    pub time: Timestamp,
}

/// The status of an account that does not exist any more.
pub(crate) const DELETED: &str = "deleted";

impl AccountChange {
    /// Whether the account's records are removed and not only hidden.
    pub fn is_deletion(&self) -> bool {
        !self.active && self.status.as_deref() == Some(DELETED)
    }

    /// Whether the status holds until the source itself ends it. A moderator of the source decided
    /// on it, and the account's host has no say in that.
    pub fn is_hold(&self) -> bool {
        !self.active && matches!(self.status.as_deref(), Some("takendown" | "suspended"))
    }
}

/// A handle, guarded by `seq` and `time`: see `store/plan/order.rs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityChange {
    pub did: Did,
    /// `None` means that the known handle may no longer be right. It is taken from the account's
    /// document.
    pub handle: Option<String>,
    pub seq: u64,
    pub time: Timestamp,
}
