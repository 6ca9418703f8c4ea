//! The tables in memory: effects are folded one by one, in the simplest way.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cid::Cid;
use jiff::Timestamp;

use huddle_firehose::model::{DeadLetter, Gap, Position, Stage, Validity};
use huddle_firehose::store::WriteBatch;
use huddle_firehose::store::plan::effect::{Effect, RecordChange, RecordVersion};

#[derive(Debug, Default)]
pub(crate) struct Tables {
    /// By URI.
    pub(crate) records: BTreeMap<String, Row>,
    /// By DID.
    pub(crate) statuses: BTreeMap<String, (AsOf, Option<String>)>,
    pub(crate) handles: BTreeMap<String, (AsOf, String)>,
    pub(crate) removed_at: BTreeMap<String, Timestamp>,
    pub(crate) letters: BTreeSet<Letter>,
    pub(crate) gaps: Vec<Gap>,
    pub(crate) cursor: Position,
    /// Whether the cursor was ever written.
    pub(crate) is_known: bool,
}

/// The time and the seq of the event that set the value.
pub(crate) type AsOf = (Timestamp, u64);

#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) time: Timestamp,
    rev: String,
    /// `None` if the record was deleted.
    pub(crate) content: Option<Content>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Content {
    pub(crate) cid: Cid,
    pub(crate) is_invalid: bool,
    pub(crate) has_row: bool,
}

/// What identifies a dead letter. The event counts only for a record: the fields of a frame that
/// can't be read are not trusted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Letter {
    pub(crate) stage: Stage,
    pub(crate) record: Option<(u64, String)>,
    pub(crate) raw: Bytes,
}

impl Letter {
    fn of(letter: &DeadLetter) -> Self {
        Self {
            stage: letter.stage,
            record: letter.seq.zip(letter.uri.clone()),
            raw: letter.raw.clone(),
        }
    }
}

impl Tables {
    pub(crate) fn apply(&mut self, batch: &WriteBatch<'_>) {
        for effect in batch.effects {
            self.take(effect);
        }
        if batch.sequence_restarted || batch.position.seq > self.cursor.seq {
            self.cursor = batch.position;
        }
        self.is_known = true;
    }

    pub(crate) fn move_cursor(&mut self, position: Position, gap: Option<&Gap>) {
        self.cursor = position;
        self.is_known = true;
        if let Some(gap) = gap {
            self.open(gap);
        }
    }

    fn take(&mut self, effect: &Effect) {
        match effect {
            Effect::Commit(commit) => {
                assert!(
                    commit.chain.is_none(),
                    "nothing is verified here: {effect:?}"
                );
                for record in &commit.records {
                    self.take_record(record);
                }
            }
            Effect::Account(change) => {
                let did = change.did.to_string();
                if change.is_deletion() {
                    self.forget(&did, change.time);
                }
                let status = (!change.active).then(|| change.status.clone().unwrap_or_default());
                take_newer(&mut self.statuses, did, (change.time, change.seq), status);
            }
            Effect::Identity(change) => {
                if let Some(handle) = change.handle.clone() {
                    let did = change.did.to_string();
                    take_newer(&mut self.handles, did, (change.time, change.seq), handle);
                }
            }
            Effect::DeadLetter(letter) => {
                self.letters.insert(Letter::of(letter));
            }
            Effect::Gap(gap) => self.open(gap),
            Effect::Recheck(_) => panic!("nothing is verified here: {effect:?}"),
        }
    }

    fn take_record(&mut self, record: &RecordChange) {
        match record {
            RecordChange::Upsert(upsert) => {
                let content = Content {
                    cid: upsert.cid,
                    is_invalid: matches!(upsert.validity, Validity::Invalid { .. }),
                    has_row: upsert.projection.is_some(),
                };
                self.put(&upsert.version, Some(content));
            }
            RecordChange::Delete(delete) => self.put(&delete.version, None),
            RecordChange::Refuse(refusal) => self.put(&refusal.version, None),
            RecordChange::DeadLetter(letter) => {
                self.letters.insert(Letter::of(letter));
            }
        }
    }

    fn put(&mut self, version: &RecordVersion, content: Option<Content>) {
        let removed_at = self.removed_at.get(version.did.as_str());
        if removed_at.is_some_and(|removed_at| version.time <= *removed_at) {
            return;
        }
        let (uri, rev) = (version.uri(), version.rev.to_string());
        let before = self.records.get(&uri);
        if before.is_none_or(|before| rev > before.rev) {
            let time = version.time;
            self.records.insert(uri, Row { time, rev, content });
        }
    }

    fn forget(&mut self, did: &str, time: Timestamp) {
        let removed_at = self.removed_at.entry(did.to_owned()).or_insert(time);
        *removed_at = time.max(*removed_at);
        let prefix = format!("at://{did}/");
        self.records
            .retain(|uri, row| !uri.starts_with(&prefix) || row.time > time);
    }

    /// Keeps a gap that is open already once. Its end may become known later.
    fn open(&mut self, gap: &Gap) {
        // A gap that ends where it began is none, and closes the open one.
        if gap.to_seq == Some(gap.from_seq) {
            let is_void = |known: &Gap| {
                (known.cause, known.from_seq, known.from_time)
                    == (gap.cause, gap.from_seq, gap.from_time)
                    && known.to_seq.is_none()
            };
            self.gaps.retain(|known| !is_void(known));
            return;
        }
        // A connection after a lost answer may see another first event of the new sequence. Gaps that
        // overlap are one.
        let is_ahead = |gap: &Gap| gap.to_seq.map(|to| to > gap.from_seq);
        let known = self.gaps.iter_mut().find(|known| {
            let sides = is_ahead(known).zip(is_ahead(gap));
            (known.cause, known.from_seq, known.from_time)
                == (gap.cause, gap.from_seq, gap.from_time)
                && sides.is_none_or(|(known, new)| known == new)
        });
        match known {
            Some(known) if gap.to_seq > known.to_seq => *known = gap.clone(),
            Some(_) => {}
            None => self.gaps.push(gap.clone()),
        }
    }
}

fn take_newer<T>(rows: &mut BTreeMap<String, (AsOf, T)>, key: String, as_of: AsOf, value: T) {
    if rows.get(&key).is_none_or(|(before, _)| as_of > *before) {
        rows.insert(key, (as_of, value));
    }
}
