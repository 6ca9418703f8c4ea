//! Judges the stored records again, after a change of lexicons, policies or code, and makes the tables
//! say what follows. No host is asked.
//!
//! It is done in steps, each of which takes little time and memory. What comes from the stream
//! meanwhile is newer, and stays: see `store/plan/rejudge.rs`. A step that is done again changes
//! nothing, so it may be broken off anywhere.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{Judgement, SourceId, Validity};
use crate::source::process::records::Rules;
use crate::store::plan::effect::RecordChange;
use crate::store::rejudge_store::{
    RejudgeStore, Rejudged, RejudgedRecord, Selection, StoredRecord, Verdict,
};
use crate::store::repo_store::RepoChange;
use crate::store::{PieceLimit, StoreError};

/// The rows of a step.
const STEP: PieceLimit = PieceLimit {
    rows: 500,
    bytes: 4 << 20,
};

/// What is judged again, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reprocessing {
    pub selection: Selection,
    /// Also write what was judged by the rules in force, so that its rows are made again.
    pub is_forced: bool,
    /// Only count.
    pub is_dry_run: bool,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub at: Place,
    pub counts: Counts,
}

/// Where the next step begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Among the records, behind this URI.
    Records(String),
    /// Among the dead letters, behind this id.
    DeadLetters(i64),
    Over,
}

/// What became of the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Rows that were looked at.
    pub looked_at: u64,
    /// Selected records, which the next fields add up to.
    pub selected: u64,
    /// Judged by the rules in force already.
    pub current: u64,
    /// As before, by the rules in force; their rows were made again.
    pub as_before: u64,
    /// Valid now, and not before.
    pub valid: u64,
    /// Kept as invalid now, and not before.
    pub invalid: u64,
    /// Not validated now, and validated or refused before.
    pub unvalidated: u64,
    /// Refused now, and kept before.
    pub refused: u64,
    /// Of those that are kept now: refused before, and in a dead letter.
    pub restored: u64,
    /// Changed while they were judged, so they were left as they are.
    pub overtaken: u64,
    /// Rows that this version cannot read.
    pub unreadable: u64,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            at: Place::Records(String::new()),
            counts: Counts::default(),
        }
    }
}

impl Reprocessing {
    /// Does the next step, and moves `progress` behind it.
    ///
    /// # Errors
    /// If the database fails. The step may be done again.
    pub async fn step(
        &self,
        store: &dyn RejudgeStore,
        rules: &Rules,
        progress: &mut Progress,
    ) -> Result<(), StoreError> {
        let (records, at) = match &progress.at {
            Place::Over => return Ok(()),
            Place::Records(after) => {
                let page = store.stored(&self.selection, after, STEP).await?;
                progress.counts.looked_at += page.looked_at;
                progress.counts.unreadable += page.unreadable;
                let next = page.through.map_or(Place::DeadLetters(0), Place::Records);
                (page.records, next)
            }
            Place::DeadLetters(after) => {
                let page = store.refused(&self.selection, *after, STEP).await?;
                progress.counts.looked_at += page.looked_at;
                progress.counts.unreadable += page.unreadable;
                let next = page.through.map_or(Place::Over, Place::DeadLetters);
                (page.records, next)
            }
        };
        let mut counts = progress.counts;
        self.judge(store, rules, records, &mut counts).await?;
        if at == Place::Over && !self.is_dry_run {
            self.note_rules(store, rules).await?;
        }
        *progress = Progress { at, counts };
        Ok(())
    }

    async fn judge(
        &self,
        store: &dyn RejudgeStore,
        rules: &Rules,
        records: Vec<StoredRecord>,
        counts: &mut Counts,
    ) -> Result<(), StoreError> {
        let mut by_source: BTreeMap<SourceId, Vec<RejudgedRecord>> = BTreeMap::new();
        for record in records {
            let collection = record.version.collection.as_str();
            let is_current = record.judgement == Some(rules.judgement_of(collection));
            // It may have been refused a step ago, and is counted already.
            if is_current && record.verdict == Verdict::Refused {
                continue;
            }
            counts.selected += 1;
            if is_current && !self.is_forced {
                counts.current += 1;
                continue;
            }
            let StoredRecord {
                version,
                source,
                cid,
                cbor,
                verdict,
                indexed_at,
                letter: taken_from,
                ..
            } = record;
            let (change, letter) = rules.judge_again(version, cid, &cbor, &source);
            counts.add(verdict, &change);
            by_source.entry(source).or_default().push(RejudgedRecord {
                change,
                letter,
                indexed_at,
                taken_from,
            });
        }
        if self.is_dry_run {
            return Ok(());
        }
        for (source, records) in &by_source {
            let part = Rejudged { source, records };
            let written = store.change(RepoChange::Rejudged(&part)).await?;
            counts.overtaken += written.stale;
        }
        Ok(())
    }

    /// Where whole collections were processed, their records are judged by the rules in force, or by
    /// equal ones as far as that was asked for.
    async fn note_rules(&self, store: &dyn RejudgeStore, rules: &Rules) -> Result<(), StoreError> {
        let Selection {
            collection,
            did,
            since,
            is_invalid_only: _,
        } = &self.selection;
        if did.is_some() || since.is_some() {
            return Ok(());
        }
        let mut collections = store.kept_collections().await?;
        if let Some(pattern) = collection {
            collections.retain(|collection| pattern.matches(collection));
        }
        store.note_rules(&judgements(rules, collections)).await
    }
}

/// The rules by which records of these collections are judged.
pub fn judgements(rules: &Rules, collections: Vec<String>) -> Vec<(String, Judgement)> {
    let judged = collections.into_iter().map(|collection| {
        let judgement = rules.judgement_of(&collection);
        (collection, judgement)
    });
    judged.collect()
}

impl Counts {
    fn add(&mut self, before: Verdict, change: &RecordChange) {
        let now = match change {
            RecordChange::Upsert(upsert) => match upsert.validity {
                Validity::Invalid { .. } => Verdict::Invalid,
                Validity::Unvalidated => Verdict::Unvalidated,
                Validity::Valid => Verdict::Valid,
            },
            RecordChange::DeadLetter(_) | RecordChange::Delete(_) | RecordChange::Refuse(_) => {
                Verdict::Refused
            }
        };
        if before == Verdict::Refused && now != Verdict::Refused {
            self.restored += 1;
        }
        let count = match now {
            _ if now == before => &mut self.as_before,
            Verdict::Invalid => &mut self.invalid,
            Verdict::Refused => &mut self.refused,
            Verdict::Unvalidated => &mut self.unvalidated,
            Verdict::Valid => &mut self.valid,
        };
        *count += 1;
    }

    /// The kinds that occurred, each with its number, for an operator.
    pub fn told(&self) -> String {
        let kinds = [
            (self.current, "judged by these rules already"),
            (self.as_before, "as before, rows made again"),
            (self.valid, "valid now"),
            (self.invalid, "invalid now"),
            (self.unvalidated, "not validated now"),
            (self.refused, "refused now"),
            (self.restored, "restored from dead letters"),
            (self.overtaken, "changed meanwhile"),
            (self.unreadable, "unreadable"),
        ];
        let told = kinds.into_iter().filter(|(count, _)| *count > 0);
        let told: Vec<String> = told
            .map(|(count, kind)| format!("{count} {kind}"))
            .collect();
        match told.is_empty() {
            true => "no records".to_owned(),
            false => format!("{} records: {}", self.selected, told.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kinds_that_occurred_are_told() {
        let counts = Counts {
            selected: 3,
            valid: 2,
            restored: 1,
            as_before: 1,
            ..Counts::default()
        };
        assert_eq!(
            counts.told(),
            "3 records: 1 as before, rows made again, 2 valid now, 1 restored from dead letters"
        );
        assert_eq!(Counts::default().told(), "no records");
    }
}
