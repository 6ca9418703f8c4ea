//! The lease of a partition: which consumer has it, and what it is about to apply. The value of a key, so
//! that it outlives the consumer. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A lease that its consumer has not renewed for so long is free. It is the ack wait too, and the deadline of
/// what is asked of the server while messages are in hand.
///
/// After 60 s at one step (`stuck_after_ms`) a consumer is killed, and what it had in hand is suspected. The
/// longest step that has messages in hand is 57 s: the epochs of a feed (3), the lease (3), a transaction
/// (45), its acks (3), and large bodies that are deleted (3). What takes longer, such as to acquire a
/// partition, to pull or to read a large body, is a step of its own.
pub(super) const LEASE: Duration = Duration::from_secs(3);
/// How often a task ends its consumer alone, before it is a dead letter.
const ALONE: u32 = 3;

/// What is kept of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lease {
    /// `None`: the last one gave it back.
    pub(super) holder: Option<String>,
    /// What the holder is about to apply.
    pub(super) hand: Option<Hand>,
    pub(super) suspicion: Suspicion,
}

/// Messages that are applied at once, by their numbers in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hand {
    pub(super) last: u64,
    pub(super) count: usize,
}

/// The search for a task that ends its consumer. Each end with more than one in hand halves how many the
/// next consumer applies at once, up to where they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Suspicion {
    /// The last message that is suspected. 0: none is.
    until: u64,
    /// How many are applied at once up to there.
    most: usize,
    /// How often the message `until` ended its consumer alone.
    alone: u32,
}

impl Suspicion {
    /// After a consumer has ended with `hand`.
    pub(super) fn after_end(self, hand: Hand) -> Self {
        let Hand { last, count } = hand;
        let is_same = self.until == last && self.most == 1;
        Self {
            until: last,
            most: (count / 2).max(1),
            alone: match count {
                0 | 1 if is_same => self.alone + 1,
                0 | 1 => 1,
                _ => 0,
            },
        }
    }

    /// With how many others message `number` is applied at most, itself included.
    pub(super) fn most(&self, number: u64) -> usize {
        match number <= self.until {
            true => self.most.max(1),
            false => usize::MAX,
        }
    }

    /// Why message `number` is applied no more.
    pub(super) fn verdict(&self, number: u64) -> Option<String> {
        let is_guilty = number == self.until && self.most == 1 && self.alone >= ALONE;
        is_guilty.then(|| {
            format!(
                "its consumer ended {} times with it alone in hand",
                self.alone
            )
        })
    }

    /// After messages up to `last` are applied or set aside.
    pub(super) fn passed(&mut self, last: u64) {
        if last >= self.until {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Applies messages 1 to `count`, where `poison` ends each consumer. Returns the ends, and what was
    /// applied and set aside.
    fn consume(count: u64, poison: u64, batch: usize) -> (u32, Vec<u64>, Vec<u64>) {
        let (mut applied, mut letters) = (Vec::new(), Vec::new());
        let mut suspicion = Suspicion::default();
        let (mut next, mut ends) = (1, 0);
        while next <= count {
            if suspicion.verdict(next).is_some() {
                letters.push(next);
                suspicion.passed(next);
                next += 1;
                continue;
            }
            let left = usize::try_from(count - next + 1).unwrap();
            let size = suspicion.most(next).min(batch).min(left);
            let last = next + size as u64 - 1;
            if (next..=last).contains(&poison) {
                ends += 1;
                assert!(ends < 100);
                suspicion = suspicion.after_end(Hand { last, count: size });
                continue;
            }
            applied.extend(next..=last);
            suspicion.passed(last);
            next = last + 1;
        }
        (ends, applied, letters)
    }

    proptest! {
        #[test]
        fn a_task_that_ends_its_consumer_is_found_by_halves_and_alone_set_aside(
            count in 1_u64..300, at in 0_u64..300, batch in 1_usize..=100,
        ) {
            let poison = at % count + 1;
            let (ends, applied, letters) = consume(count, poison, batch);
            prop_assert_eq!(letters, vec![poison]);
            let expected: Vec<u64> = (1..=count).filter(|number| *number != poison).collect();
            prop_assert_eq!(applied, expected);
            // A hundred are halved seven times.
            prop_assert!(ends <= 7 + ALONE, "{} ends", ends);
        }
    }

    #[test]
    fn an_end_in_which_no_task_had_a_part_sets_none_aside() {
        let mut suspicion = Suspicion::default();
        for _ in 0..2 {
            suspicion = suspicion.after_end(Hand { last: 7, count: 1 });
        }
        assert_eq!(suspicion.verdict(7), None);
        suspicion.passed(7);
        assert_eq!(suspicion, Suspicion::default());
        assert_eq!(suspicion.most(8), usize::MAX);
    }
}
