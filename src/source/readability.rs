//! Notices a source of which nothing can be read: another protocol, another encoding, a fault of the
//! server.
//!
//! A single frame that cannot be read is a dead letter and says nothing about its source. A stretch
//! in which hardly any frame can be read does.

use std::time::Duration;

use tokio::time::Instant;

/// The shortest stretch that is judged.
const STRETCH: Duration = Duration::from_secs(5);
/// The fewest frames that are judged. On a slow source they make a longer stretch.
const MIN_FRAMES: u64 = 10;
/// A stretch in which fewer frames than one in so many can be read is unreadable.
const READABLE_ONE_IN: u64 = 10;

/// Judges the frames of one source, stretch by stretch. The caller provides the time.
#[derive(Clone, Debug, Default)]
pub struct Readability {
    stretch: Option<Stretch>,
    is_unreadable: bool,
}

#[derive(Clone, Copy, Debug)]
struct Stretch {
    since: Instant,
    readable: u64,
    unreadable: u64,
}

/// A change of what the source can be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Of `frames` frames, `unreadable` could not be read.
    Unreadable {
        unreadable: u64,
        frames: u64,
    },
    ReadableAgain,
}

impl Readability {
    /// Notes frames that were handled at `now`. Returns the verdict if it is another than before.
    pub fn note(&mut self, now: Instant, readable: u64, unreadable: u64) -> Option<Verdict> {
        let stretch = self.stretch.get_or_insert(Stretch {
            since: now,
            readable: 0,
            unreadable: 0,
        });
        stretch.readable = stretch.readable.saturating_add(readable);
        stretch.unreadable = stretch.unreadable.saturating_add(unreadable);
        let Stretch {
            since,
            readable,
            unreadable,
        } = *stretch;
        let frames = readable.saturating_add(unreadable);
        if frames < MIN_FRAMES || now.saturating_duration_since(since) < STRETCH {
            return None;
        }
        self.stretch = None;
        let was_unreadable = self.is_unreadable;
        self.is_unreadable = readable.saturating_mul(READABLE_ONE_IN) < frames;
        match (was_unreadable, self.is_unreadable) {
            (false, true) => Some(Verdict::Unreadable { unreadable, frames }),
            (true, false) => Some(Verdict::ReadableAgain),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The verdicts on frames of which `(readable, unreadable)` come each second.
    fn verdicts(seconds: impl IntoIterator<Item = (u64, u64)>) -> Vec<Verdict> {
        let (mut readability, mut now) = (Readability::default(), Instant::now());
        let mut verdicts = Vec::new();
        for (readable, unreadable) in seconds {
            verdicts.extend(readability.note(now, readable, unreadable));
            now += SECOND;
        }
        verdicts
    }

    #[test]
    fn a_source_of_which_nothing_can_be_read_is_noticed_once() {
        assert_eq!(
            verdicts([(0, 5); 60]),
            [Verdict::Unreadable {
                unreadable: 30,
                frames: 30
            }]
        );
    }

    #[test]
    fn a_slow_source_is_judged_when_enough_frames_came() {
        let one_in_a_while = |frames| verdicts([(0, 1)].into_iter().cycle().take(frames));
        assert_eq!(one_in_a_while(9), []);
        assert_eq!(one_in_a_while(10).len(), 1);
    }

    #[test]
    fn bad_frames_among_others_say_nothing_about_the_source() {
        assert_eq!(verdicts([(1, 9); 60]), []);
        assert_eq!(verdicts([(0, 50)]), [], "a burst is no stretch");
        assert_eq!(
            verdicts([(0, 50), (500, 0), (500, 0), (500, 0), (500, 0), (500, 0)]),
            []
        );
    }

    #[test]
    fn a_source_that_can_be_read_again_is_noticed_too() {
        let both = [[(0, 5); 30], [(5, 0); 30]].concat();
        let verdicts = verdicts(both);
        assert!(
            matches!(
                verdicts[..],
                [Verdict::Unreadable { .. }, Verdict::ReadableAgain]
            ),
            "{verdicts:?}"
        );
    }

    #[test]
    fn silence_changes_nothing() {
        assert_eq!(verdicts([(0, 0); 600]), []);
    }

    proptest! {
        #[test]
        fn verdicts_alternate(
            seconds in prop::collection::vec((0_u64..3, 0_u64..30), 0..300),
        ) {
            let verdicts = verdicts(seconds);
            for pair in verdicts.windows(2) {
                prop_assert_ne!(
                    matches!(pair[0], Verdict::ReadableAgain),
                    matches!(pair[1], Verdict::ReadableAgain)
                );
            }
            prop_assert!(!matches!(verdicts.first(), Some(Verdict::ReadableAgain)));
        }
    }
}
