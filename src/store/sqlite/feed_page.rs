//! A page of the change feed while it is read, piece by piece.

use crate::model::ChangedRow;
use crate::store::PieceLimit;

/// A row of a page.
#[derive(Debug)]
pub(super) struct Listed {
    /// That of its change.
    pub(super) number: u64,
    /// `None`: it is being deleted with its account. It counts as the others do, so that a page ends however many
    /// there are.
    pub(super) row: Option<ChangedRow>,
    /// What the whole row takes in memory, about.
    pub(super) bytes: u64,
    /// Its JSON was too large for a piece, and is read by itself.
    pub(super) lacks_json: bool,
}

/// The rows behind a number, up to a limit.
#[derive(Debug)]
pub(super) struct FeedPage {
    limit: PieceLimit,
    rows: Vec<Listed>,
    bytes: u64,
    through: u64,
    is_full: bool,
}

impl FeedPage {
    /// An empty page behind `after`. It takes one row at least.
    pub(super) fn new(after: u64, limit: PieceLimit) -> Self {
        Self {
            limit,
            rows: Vec::new(),
            bytes: 0,
            through: after,
            is_full: false,
        }
    }

    /// The number up to which it has everything.
    pub(super) fn through(&self) -> u64 {
        self.through
    }

    /// How many more rows it may take; 0: it takes none.
    pub(super) fn room(&self) -> u64 {
        let taken = self.rows.len() as u64;
        match self.is_full {
            true => 0,
            false => self.limit.rows.max(1).saturating_sub(taken),
        }
    }

    /// Takes the rows between [`Self::through`] and `through`, which may be in any order, or one more than there is
    /// [`Self::room`] for. Those beyond the limit are left to the next page.
    pub(super) fn take(&mut self, mut piece: Vec<Listed>, through: u64) {
        piece.sort_unstable_by_key(|listed| listed.number);
        for listed in piece {
            let bytes = self.bytes.saturating_add(listed.bytes);
            let is_beyond = bytes > self.limit.bytes && !self.rows.is_empty();
            if is_beyond || self.room() == 0 {
                self.is_full = true;
                return;
            }
            self.bytes = bytes;
            self.through = listed.number;
            self.rows.push(listed);
        }
        self.through = through;
    }

    /// The rows in the order of their numbers.
    pub(super) fn into_rows(self) -> Vec<Listed> {
        self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(numbers: &[u64]) -> Vec<Listed> {
        let listed = |number: &u64| Listed {
            number: *number,
            row: None,
            bytes: 10,
            lacks_json: false,
        };
        numbers.iter().map(listed).collect()
    }

    /// What a page has after it took `pieces`: its numbers, up to where it goes, and its room.
    fn page(rows: u64, bytes: u64, pieces: &[(&[u64], u64)]) -> (Vec<u64>, u64, u64) {
        let mut page = FeedPage::new(1, PieceLimit { rows, bytes });
        for (numbers, through) in pieces {
            page.take(piece(numbers), *through);
        }
        let (through, room) = (page.through(), page.room());
        let numbers = page.into_rows().into_iter().map(|listed| listed.number);
        (numbers.collect(), through, room)
    }

    #[test]
    fn a_page_goes_up_to_the_end_of_its_pieces_while_it_has_room() {
        assert_eq!(page(5, 100, &[(&[], 7)]), (vec![], 7, 5));
        assert_eq!(
            page(5, 100, &[(&[4, 2], 6), (&[7], 9)]),
            (vec![2, 4, 7], 9, 2)
        );
        assert_eq!(page(2, 100, &[(&[2, 4], 6)]), (vec![2, 4], 6, 0));
    }

    #[test]
    fn a_page_that_is_full_ends_with_its_last_row_whichever_piece_that_is_in() {
        assert_eq!(page(2, 100, &[(&[4, 2, 5], 6)]), (vec![2, 4], 4, 0));
        assert_eq!(
            page(3, 100, &[(&[2], 3), (&[5, 4, 6], 6)]),
            (vec![2, 4, 5], 5, 0)
        );
        assert_eq!(page(9, 25, &[(&[2, 3, 4], 6)]), (vec![2, 3], 3, 0));
    }

    #[test]
    fn a_page_has_one_row_whatever_its_limit() {
        assert_eq!(page(9, 1, &[(&[2, 3], 6)]), (vec![2], 2, 0));
        assert_eq!(page(0, 1, &[(&[2, 3], 6)]), (vec![2], 2, 0));
    }
}
