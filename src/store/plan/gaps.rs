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
}

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
    /// nothing.
    pub(super) fn open(&mut self, gap: &Gap) {
        let new = GapRow::of(gap);
        let mut has_ended = false;
        if new.to_seq.is_some() {
            for (index, row) in self.rows.iter_mut().enumerate() {
                if row.has_origin_of(&new) && row.is_open && row.to_seq.is_none() {
                    row.to_seq = new.to_seq;
                    row.to_time.clone_from(&new.to_time);
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
        if !has_ended && !self.rows.iter().any(is_known) {
            self.changed.push(self.rows.len());
            self.rows.push(new);
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
        }
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
