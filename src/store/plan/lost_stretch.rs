//! Judges whether a source has lost a stretch of its events without saying so.
//!
//! A server that is killed may lose events that it had not written yet, and continue with seqs that
//! join up. Then the chains of those accounts break that were in the lost stretch and write again.
//! The others stay as they were, and nothing would ever tell. So breaks of several accounts within a
//! short time are evidence of a gap, after which every repository is compared with its host.
//!
//! The rule:
//! - A break is a commit of the stream whose predecessor is not the known head of its account. A
//!   `#sync` is none, because the account's host sends it. A break is explained, and no evidence, if
//!   an earlier commit of the account was refused, or if a gap is open between head and commit.
//! - An account counts once, however often its chain breaks. Anybody can break the chain of an account
//!   of their own.
//! - [`ACCOUNTS`] accounts within [`WINDOW`] are several.
//! - One gap is opened, from the last place where their chains held to the newest break. All breaks
//!   up to then are done with. Those that come while it is open, of heads behind it, wait.
//! - An account that has had its say is not heard for [`SPACING`].
//! - A stranger may have any number of accounts. So where fewer than one in [`SHARE_ONE_IN`] of the
//!   commits since the first of these breaks were breaks, the source as a whole gets one gap in
//!   [`SPACING`]. The breaks wait until then.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::gaps::GapRow;
use crate::model::{Gap, GapCause};

/// The number of accounts whose chains must break.
const ACCOUNTS: usize = 3;
/// The longest time from the first of their breaks to the last.
const WINDOW: SignedDuration = SignedDuration::from_mins(10);
/// The shortest time between two gaps on the word of the same accounts.
const SPACING: SignedDuration = SignedDuration::from_hours(1);
/// Breaks that are at least one in so many of the commits are a share of all that is seen.
const SHARE_ONE_IN: u64 = 20;
/// Breaks older than this are forgotten.
const RETENTION: SignedDuration = SignedDuration::from_hours(2);
/// The most breaks that are kept of a source. Older ones are forgotten.
const MAX_KEPT: usize = 64;

/// A row of `chain_breaks`: the newest break of an account's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainBreak {
    pub did: String,
    /// The account's last event before it; `None` after its repository was fetched.
    pub held: Option<(u64, Option<Timestamp>)>,
    pub seq: u64,
    pub time: Timestamp,
    pub noted_at: Timestamp,
    /// Commits of the source that have followed from their predecessors since.
    pub held_since: u64,
    /// When a gap was last opened on the word of this account.
    pub used_at: Option<Timestamp>,
}

/// A gap that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenGap {
    pub cause: String,
    pub from_seq: u64,
    pub to_seq: Option<u64>,
}

/// A stretch that was found to be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostStretch {
    pub accounts: usize,
    pub from_seq: u64,
    pub to_seq: u64,
}

/// The breaks of a source's chains, known ones and those of a batch.
#[derive(Debug)]
pub(super) struct Breaks<'a> {
    known: &'a [ChainBreak],
    rows: BTreeMap<String, ChainBreak>,
    open_gaps: Vec<OpenGap>,
    now: Timestamp,
}

/// What has to be written.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct BreakChanges {
    pub changed: Vec<ChainBreak>,
    /// The accounts whose breaks are forgotten.
    pub forgotten: Vec<String>,
}

impl<'a> Breaks<'a> {
    pub(super) fn new(known: &'a [ChainBreak], open_gaps: Vec<OpenGap>, now: Timestamp) -> Self {
        let rows = known.iter().map(|row| {
            // A time of the future was written before the clock was set back.
            let row = ChainBreak {
                noted_at: row.noted_at.min(now),
                used_at: row.used_at.map(|used_at| used_at.min(now)),
                ..row.clone()
            };
            (row.did.clone(), row)
        });
        Self {
            known,
            rows: rows.collect(),
            open_gaps,
            now,
        }
    }

    /// Notes that a commit has followed from its predecessor.
    pub(super) fn hold(&mut self) {
        let oldest = before(self.now, WINDOW);
        for row in self.rows.values_mut() {
            if row.noted_at >= oldest {
                row.held_since = row.held_since.saturating_add(1);
            }
        }
    }

    /// Notes a commit that did not follow, unless an open gap explains it. `held` is the position of
    /// the account's head.
    pub(super) fn note(
        &mut self,
        did: &str,
        held: Option<(u64, Option<Timestamp>)>,
        seq: u64,
        time: Timestamp,
    ) {
        let held_seq = held.map(|(seq, _)| seq);
        if self.open_gaps.iter().any(|gap| gap.explains(held_seq)) {
            return;
        }
        let used_at = self.rows.get(did).and_then(|row| row.used_at);
        let row = ChainBreak {
            did: did.to_owned(),
            held,
            seq,
            time,
            noted_at: self.now,
            held_since: 0,
            used_at,
        };
        self.rows.insert(row.did.clone(), row);
    }

    /// Returns the gap that the breaks show, if they show one that is not open.
    pub(super) fn judge(&mut self) -> Option<(Gap, LostStretch)> {
        let is_open = |gap: &OpenGap| gap.cause == GapCause::SourceLost.as_str();
        if self.open_gaps.iter().any(is_open) {
            return None;
        }
        let several = self.several()?;
        let (gap, stretch) = stretch(&several)?;
        let dids: Vec<String> = several.iter().map(|row| row.did.clone()).collect();
        for did in dids {
            if let Some(row) = self.rows.get_mut(&did) {
                row.used_at = Some(self.now);
            }
        }
        self.forget_unused();
        Some((gap, stretch))
    }

    /// Forgets the other breaks: all accounts are compared now.
    fn forget_unused(&mut self) {
        self.rows.retain(|_, row| row.used_at.is_some());
        for row in self.rows.values_mut() {
            row.noted_at = row.noted_at.min(row.used_at.unwrap_or(self.now));
        }
    }

    /// The newest breaks that are enough for a gap.
    fn several(&self) -> Option<Vec<&ChainBreak>> {
        let mut heard: Vec<&ChainBreak> = self
            .rows
            .values()
            .filter(|row| self.is_heard(row))
            .collect();
        heard.sort_by_key(|row| (row.noted_at, row.seq));
        let last_used = self.rows.values().filter_map(|row| row.used_at).max();
        let is_due = last_used.is_none_or(|used_at| self.is_past(used_at));
        (0..heard.len()).rev().find_map(|end| {
            let oldest = before(heard.get(end)?.noted_at, WINDOW);
            let start = heard.partition_point(|row| row.noted_at < oldest);
            let several = heard.get(start..=end)?;
            let count = several.len() as u64;
            let seen = count.saturating_add(several.first()?.held_since);
            let is_share = count.saturating_mul(SHARE_ONE_IN) >= seen;
            (several.len() >= ACCOUNTS && (is_share || is_due)).then(|| several.to_vec())
        })
    }

    fn is_heard(&self, row: &ChainBreak) -> bool {
        row.used_at
            .is_none_or(|used_at| row.noted_at > used_at && self.is_past(used_at))
    }

    fn is_past(&self, used_at: Timestamp) -> bool {
        used_at <= before(self.now, SPACING)
    }

    /// The rows that differ from the known ones, without those that are forgotten.
    pub(super) fn into_changes(self) -> BreakChanges {
        let oldest = before(self.now, RETENTION);
        let mut rows: Vec<ChainBreak> = self.rows.into_values().collect();
        rows.sort_by_key(|row| {
            std::cmp::Reverse(row.noted_at.max(row.used_at.unwrap_or_default()))
        });
        let kept = rows
            .iter()
            .take(MAX_KEPT)
            .take_while(|row| row.noted_at >= oldest || row.used_at >= Some(oldest))
            .count();
        rows.truncate(kept);
        let is_kept = |did: &str| rows.iter().any(|row| row.did == did);
        let known = self.known.iter().map(|row| &row.did);
        BreakChanges {
            forgotten: known.filter(|did| !is_kept(did)).cloned().collect(),
            changed: rows
                .into_iter()
                .filter(|row| !self.known.contains(row))
                .collect(),
        }
    }
}

impl OpenGap {
    pub(super) fn of(gap: &GapRow) -> Self {
        Self {
            cause: gap.cause.clone(),
            from_seq: gap.from_seq,
            to_seq: gap.to_seq,
        }
    }

    /// Whether the gap may lie between an account's head and a commit that does not follow from it.
    fn explains(&self, held: Option<u64>) -> bool {
        let is_of_new_sequence = self.to_seq.is_some_and(|to_seq| to_seq <= self.from_seq);
        let is_behind = |held: u64| self.to_seq.is_some_and(|to_seq| held >= to_seq);
        is_of_new_sequence || !held.is_some_and(is_behind)
    }
}

/// From the last place where the chains held to the newest break.
fn stretch(several: &[&ChainBreak]) -> Option<(Gap, LostStretch)> {
    let first = several.iter().map(|row| row.seq).min()?;
    let newest = several.iter().max_by_key(|row| row.seq)?;
    let held = several.iter().filter_map(|row| row.held);
    let held = held
        .filter(|(seq, _)| *seq < first)
        .max_by_key(|(seq, _)| *seq);
    let (from_seq, from_time) = held.unwrap_or((first.saturating_sub(1), None));
    let gap = Gap {
        cause: GapCause::SourceLost,
        from_seq,
        from_time,
        to_seq: Some(newest.seq),
        to_time: Some(newest.time),
    };
    let stretch = LostStretch {
        accounts: several.len(),
        from_seq,
        to_seq: newest.seq,
    };
    Some((gap, stretch))
}

fn before(time: Timestamp, span: SignedDuration) -> Timestamp {
    time.saturating_sub(span).unwrap_or(Timestamp::MIN)
}
