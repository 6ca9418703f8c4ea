//! How far an act on dead letters is, and what became of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::store::letters::{LetterCount, RetryNeeds};
use crate::telemetry::excerpt::excerpt;

/// The most letters that a progress names one by one. It is written with each of them.
const MOST_NAMED: usize = 100;

/// The most characters of a reason, which may be a long text of others.
const WHY_CHARS: usize = 200;

/// How far an act on dead letters is. It is written in the transaction of each letter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct LetterProgress {
    /// Letters that were meant at the beginning.
    pub(super) total: u64,
    pub(super) done: u64,
    /// The last letter that was done.
    pub(super) at: i64,
    /// Letters with a higher id came later, and are not meant.
    pub(super) through: i64,
    /// What the letters that are tried now need. All that need the database alone come first.
    pub(super) needs: Option<RetryNeeds>,
    /// Letters by what became of them.
    pub(super) became: BTreeMap<Became, u64>,
    /// The first letters, one by one.
    pub(super) letters: Vec<Named>,
    /// The ids that were named, and that no letter had at the beginning.
    #[serde(default)]
    pub(super) missing: Vec<i64>,
    /// What the rest waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) waits_for: Option<String>,
}

/// What became of a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Became {
    /// The tables say what it says.
    Applied,
    Discarded,
    /// Its repository is fetched instead.
    FetchRequested,
    /// It was resolved or deleted meanwhile.
    Gone,
    /// It cannot be tried again, and stays.
    Impossible,
    /// It is refused again, and stays.
    Refused,
    /// The tables have something newer, or the same.
    Superseded,
    /// The sinks get its row again.
    ToldAgain,
    /// Whether it is right cannot be told now, and it stays.
    Undecided,
    /// The rules in force want nothing of it, and it stays.
    Unwanted,
}

/// A letter, and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Named {
    pub(super) id: i64,
    pub(super) became: Became,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
}

impl LetterProgress {
    pub(super) fn begin(count: LetterCount, missing: Vec<i64>, needs: Option<RetryNeeds>) -> Self {
        Self {
            total: count.letters.unsigned_abs(),
            done: 0,
            at: 0,
            through: count.through,
            needs,
            became: BTreeMap::new(),
            letters: Vec::new(),
            missing,
            waits_for: None,
        }
    }

    /// The progress after one more letter.
    pub(super) fn with(&self, id: i64, became: Became, why: Option<String>) -> Self {
        let mut next = self.clone();
        next.at = id;
        next.done += 1;
        next.waits_for = None;
        *next.became.entry(became).or_default() += 1;
        if next.letters.len() < MOST_NAMED {
            let why = why.map(|why| excerpt(&why, WHY_CHARS).to_owned());
            next.letters.push(Named { id, became, why });
        }
        next
    }

    /// The progress after several letters of which the same became.
    pub(super) fn with_all(&self, ids: &[i64], became: Became) -> Self {
        let named = ids.iter().take(MOST_NAMED);
        let mut next = named.fold(self.clone(), |next, id| next.with(*id, became, None));
        let others = ids.get(MOST_NAMED..).unwrap_or_default();
        if let Some(last) = others.last() {
            next.at = *last;
            next.done += others.len() as u64;
            *next.became.entry(became).or_default() += others.len() as u64;
        }
        next
    }

    pub(super) fn json(&self) -> Value {
        json!(self)
    }

    /// What the command tells at its end.
    pub(super) fn result(&self, is_dry_run: bool) -> Value {
        json!({
            "total": self.total,
            "done": self.done,
            "became": self.became,
            "letters": self.letters,
            "missing": self.missing,
            "dry_run": is_dry_run,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress() -> LetterProgress {
        let count = LetterCount {
            letters: 300,
            bytes: 0,
            through: 900,
        };
        LetterProgress::begin(count, vec![901], Some(RetryNeeds::Database))
    }

    #[test]
    fn every_letter_counts_and_the_first_ones_are_named() {
        let ids: Vec<i64> = (1..=250).collect();
        let all = progress().with_all(&ids, Became::Discarded);
        let one = all.with(251, Became::Gone, Some("why".to_owned()));
        assert_eq!((one.done, one.at), (251, 251));
        assert_eq!(one.became[&Became::Discarded], 250);
        assert_eq!(one.became[&Became::Gone], 1);
        assert_eq!(one.letters.len(), MOST_NAMED);
    }

    #[test]
    fn a_progress_is_read_as_it_is_written() {
        let mut progress = progress().with(3, Became::Refused, Some("why".to_owned()));
        progress.waits_for = Some("worker".to_owned());
        let read: LetterProgress = serde_json::from_value(progress.json()).unwrap();
        assert_eq!(read, progress);
        assert_eq!(progress.json()["became"]["refused"], 1);
        assert_eq!(progress.result(false)["missing"], json!([901]));
    }
}
