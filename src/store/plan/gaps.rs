//! Decides which gaps are new, and which have reached their end.

use crate::model::{Gap, GapCause};
use crate::store::datetime::sortable;

/// A row of `gaps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GapRow {
    /// `None` if it is not stored yet.
    pub id: Option<i64>,
    pub cause: String,
    pub from_seq: u64,
    pub from_time: Option<String>,
    pub to_seq: Option<u64>,
    pub to_time: Option<String>,
    pub is_open: bool,
    /// Repositories are compared because of it. So it cannot take in another gap any more.
    pub is_rechecked: bool,
    /// Why it is closed by this transaction.
    pub resolution: Option<&'static str>,
}

/// The resolution of a gap that turned out to be none.
const JOINED: &str = "nothing was missed: the source's replay reached the event at the cursor";

/// The known gaps, and those that a batch has changed.
#[derive(Debug)]
pub(super) struct Gaps {
    rows: Vec<GapRow>,
    changed: Vec<usize>,
}

impl Gaps {
    pub(super) fn new(rows: Vec<GapRow>) -> Self {
        Self {
            rows,
            changed: Vec::new(),
        }
    }

    /// Records `gap`, unless it is known.
    ///
    /// A gap can be opened before its end is known. A later gap of the same origin (cause and start)
    /// gives the open one its end. If the later gap has no end either, it is a repetition and adds
    /// nothing. A gap that ends where it began is none, and closes the open one.
    ///
    /// A gap that overlaps an open one of the same cause extends it.
    pub(super) fn open(&mut self, gap: &Gap) {
        let new = GapRow::of(gap);
        let is_void = new.to_seq == Some(new.from_seq);
        let mut has_ended = is_void;
        if new.to_seq.is_some() {
            for (index, row) in self.rows.iter_mut().enumerate() {
                if row.has_origin_of(&new) && row.is_open && row.to_seq.is_none() {
                    row.to_seq = new.to_seq;
                    row.to_time.clone_from(&new.to_time);
                    if is_void {
                        row.is_open = false;
                        row.resolution = Some(JOINED);
                    }
                    self.changed.push(index);
                    has_ended = true;
                }
            }
        }
        let has_same_end = |row: &GapRow| match new.to_seq {
            None => row.is_open,
            end => row.to_seq == end,
        };
        let is_known = |row: &GapRow| row.has_origin_of(&new) && has_same_end(row);
        if has_ended || self.rows.iter().any(is_known) {
            return;
        }
        let mut rows = self.rows.iter_mut().enumerate();
        match rows.find(|(_, row)| row.overlaps(&new)) {
            Some((index, row)) => {
                if row.extend(new) {
                    self.changed.push(index);
                }
            }
            None => {
                self.changed.push(self.rows.len());
                self.rows.push(new);
            }
        }
    }

    /// The rows that are new, or have reached their end.
    pub(super) fn into_changed(self) -> Vec<GapRow> {
        let Self { rows, mut changed } = self;
        changed.sort_unstable();
        changed.dedup();
        let is_changed = |index: &usize| changed.binary_search(index).is_ok();
        let rows = rows.into_iter().enumerate();
        rows.filter_map(|(index, row)| is_changed(&index).then_some(row))
            .collect()
    }
}

impl GapRow {
    pub(super) fn of(gap: &Gap) -> Self {
        Self {
            id: None,
            cause: gap.cause.as_str().to_owned(),
            from_seq: gap.from_seq,
            from_time: gap.from_time.map(sortable),
            to_seq: gap.to_seq,
            to_time: gap.to_time.map(sortable),
            is_open: true,
            is_rechecked: false,
            resolution: None,
        }
    }

    /// The seqs that it covers. Those of a new sequence may be lower than those before.
    fn span(&self) -> Option<(u64, u64)> {
        let to_seq = self.to_seq?;
        Some((self.from_seq.min(to_seq), self.from_seq.max(to_seq)))
    }

    /// Whether one row can stand for this open gap and `new`.
    fn overlaps(&self, new: &Self) -> bool {
        let (Some((begin, end)), Some((new_begin, new_end))) = (self.span(), new.span()) else {
            return false;
        };
        self.is_open
            && !self.is_rechecked
            && self.cause == new.cause
            && begin < new_end
            && new_begin < end
    }

    /// Takes in a gap that overlaps it. Returns whether that changes it.
    fn extend(&mut self, new: Self) -> bool {
        let begins_before = new.from_seq < self.from_seq;
        let ends_after = new.to_seq > self.to_seq;
        if begins_before {
            (self.from_seq, self.from_time) = (new.from_seq, new.from_time);
        }
        if ends_after {
            (self.to_seq, self.to_time) = (new.to_seq, new.to_time);
        }
        begins_before || ends_after
    }

    fn has_origin_of(&self, other: &Self) -> bool {
        (&self.cause, self.from_seq, &self.from_time)
            == (&other.cause, other.from_seq, &other.from_time)
    }
}

/// Whether `gap` lies within the followed stream. A start at the live end does not: the operator
/// chose where to begin.
pub(super) fn is_within_the_stream(gap: &Gap) -> bool {
    gap.cause != GapCause::StartedLive
}
