//! Restores the order of batches that were processed in parallel.

use std::collections::BTreeMap;
use std::ops::Range;

/// Holds back spans of consecutive numbers until all earlier ones have arrived.
#[derive(Debug)]
pub struct Reorder<T> {
    next: u64,
    waiting: BTreeMap<u64, (u64, T)>,
}

impl<T> Reorder<T> {
    /// Releases spans from number `first` on.
    pub fn starting_at(first: u64) -> Self {
        Self {
            next: first,
            waiting: BTreeMap::new(),
        }
    }

    /// Adds the item that covers `span`.
    ///
    /// # Errors
    /// Returns the item if its numbers were released already.
    pub fn insert(&mut self, span: Range<u64>, item: T) -> Result<(), T> {
        if span.start < self.next {
            return Err(item);
        }
        self.waiting.insert(span.start, (span.end, item));
        Ok(())
    }

    /// The next item in order, if it has arrived.
    pub fn release(&mut self) -> Option<T> {
        let (end, item) = self.waiting.remove(&self.next)?;
        self.next = end;
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_released_number_is_not_released_again() {
        let mut reorder = Reorder::starting_at(5);
        assert_eq!(reorder.insert(5..7, "first"), Ok(()));
        assert_eq!(reorder.release(), Some("first"));
        assert_eq!(reorder.insert(5..7, "again"), Err("again"));
        assert_eq!(reorder.release(), None);
    }

    proptest! {
        #[test]
        fn any_order_of_arrival_gives_the_order_of_the_source(
            lengths in prop::collection::vec(1..50_u64, 1..40),
            seed in any::<u64>(),
        ) {
            let mut spans = Vec::new();
            let mut start = 0;
            for length in lengths {
                spans.push(start..start + length);
                start += length;
            }
            let mut arrivals = spans.clone();
            fastrand::Rng::with_seed(seed).shuffle(&mut arrivals);
            let (mut reorder, mut released) = (Reorder::starting_at(0), Vec::new());
            for span in arrivals {
                prop_assert!(reorder.insert(span.clone(), span).is_ok());
                released.extend(std::iter::from_fn(|| reorder.release()));
            }
            prop_assert_eq!(released, spans);
        }
    }
}
