//! The first look at a frame, where it leaves the socket: is it of interest to anybody?
//!
//! Most frames are not. They are passed by while their bytes are still in the processor's cache, and
//! what is left of them is their place in the stream; so they cost no memory, no allocation and no
//! way through the mailboxes. The rest is copied out of the socket's buffer, which can then be used
//! again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;

use crate::delivery::segment::Place;
use crate::delivery::segment::{Passage, Portion};
use crate::source::firehose::decode::{Glance, glance};
use crate::source::frame_sink::{BatchLimits, Intake};
use crate::source::interest::Interest;

/// So many frames behind a joint keep places of their own: the one that is to come, and the one before,
/// with which a server may begin.
pub const AT_JOINT: u8 = 2;

/// So many unwanted frames fill a batch too, since the cursor must move on.
const PASSED_LIMIT: u64 = 4096;

/// Gathers one batch.
#[derive(Debug)]
pub struct Sieve {
    interest: Arc<Interest>,
    limits: BatchLimits,
    portions: Vec<Portion>,
    passed: u64,
    frames: usize,
    frame_bytes: usize,
    last_seq: Option<u64>,
    /// So many more frames keep places of their own.
    at_joint: u8,
}

// === impl Sieve ===

impl Sieve {
    pub fn new(interest: Arc<Interest>, limits: BatchLimits) -> Self {
        Self {
            interest,
            limits,
            portions: Vec::new(),
            passed: 0,
            frames: 0,
            frame_bytes: 0,
            last_seq: None,
            at_joint: 0,
        }
    }

    /// One for the first batch of a connection that has something to show.
    #[must_use]
    pub fn behind_joint(mut self) -> Self {
        self.portions.push(Portion::Joint);
        self.at_joint = AT_JOINT;
        self
    }

    /// The last frame, if it was kept.
    pub fn last_frame(&self) -> Option<&Bytes> {
        match self.portions.last()? {
            Portion::Frame(frame) => Some(frame),
            Portion::Passed(_) | Portion::Joint => None,
        }
    }

    /// The seq of the last frame that has one.
    pub fn last_seq(&self) -> Option<u64> {
        self.last_seq
    }

    pub fn into_portions(self) -> Vec<Portion> {
        self.portions
    }

    fn keep(&mut self, frame: &[u8], seq: Option<u64>) {
        self.at_joint = self.at_joint.saturating_sub(1);
        self.frames += 1;
        self.frame_bytes += frame.len();
        self.last_seq = seq.or(self.last_seq);
        self.portions
            .push(Portion::Frame(Bytes::copy_from_slice(frame)));
    }

    fn pass(&mut self, place: Place<'_>, bytes: usize) {
        self.passed += 1;
        self.last_seq = Some(place.seq);
        let keeps_its_place = self.at_joint > 0;
        self.at_joint = self.at_joint.saturating_sub(1);
        match self.portions.last_mut() {
            Some(Portion::Passed(passage))
                if passage.last().seq < place.seq && !keeps_its_place =>
            {
                passage.add(place, bytes);
            }
            _ => {
                let passage = Passage::of(place, bytes);
                self.portions.push(Portion::Passed(passage));
            }
        }
    }
}

impl Intake for Sieve {
    fn take(&mut self, frame: Bytes) {
        // A frame that breaks the skimmer goes to the decoders, where it is found and set aside.
        let glance = catch_unwind(AssertUnwindSafe(|| glance(&frame, &self.interest)));
        match glance {
            Ok(Glance::Unwanted(place)) => self.pass(place, frame.len()),
            Ok(Glance::Kept { seq, repo }) => {
                // From here on its chain is followed: this commit will only be in the tables when
                // the next ones have passed here.
                if let (Some(tracked), Some(repo)) = (self.interest.tracked(), repo) {
                    tracked.insert(repo);
                }
                self.keep(&frame, seq);
            }
            Err(_) => self.keep(&frame, None),
        }
    }

    fn is_empty(&self) -> bool {
        self.frames == 0 && self.passed == 0
    }

    fn is_full(&self) -> bool {
        self.frames >= self.limits.frames
            || self.frame_bytes >= self.limits.bytes
            || self.passed >= PASSED_LIMIT
    }
}

#[cfg(test)]
mod tests {
    use ipld_core::ipld;
    use ipld_core::ipld::Ipld;

    use super::*;
    use crate::atproto::skim::splice_seq;
    use crate::delivery::segment::Portion;
    use crate::source::firehose::decode::sample::{CommitFrame, DID, frame};

    const LIMITS: BatchLimits = BatchLimits {
        frames: 3,
        bytes: 1 << 20,
    };

    fn sieve() -> Sieve {
        let pattern = "com.huddle.*".parse().unwrap();
        Sieve::new(Arc::new(Interest::new([pattern])), LIMITS)
    }

    fn commit(path: &str, seq: u64) -> Bytes {
        let commit = CommitFrame::default().create(path, &ipld!({})).bytes();
        splice_seq(&commit, seq).unwrap().into()
    }

    fn unwanted_at(seq: u64) -> Bytes {
        commit("app.bsky.feed.like/a", seq)
    }

    fn sift(frames: impl IntoIterator<Item = Bytes>) -> Vec<Portion> {
        let mut sieve = sieve();
        frames.into_iter().for_each(|frame| sieve.take(frame));
        sieve.into_portions()
    }

    /// The events, the first seq and the last one.
    fn span(portion: &Portion) -> (u64, u64, u64) {
        match portion {
            Portion::Passed(passage) => (passage.events, passage.first().seq, passage.last().seq),
            Portion::Frame(_) | Portion::Joint => panic!("not passed: {portion:?}"),
        }
    }

    #[test]
    fn unwanted_frames_leave_only_their_places() {
        let portions = sift([unwanted_at(7), unwanted_at(8), unwanted_at(30)]);
        assert_eq!(portions.iter().map(span).collect::<Vec<_>>(), [(3, 7, 30)]);
    }

    #[test]
    fn a_wanted_frame_is_kept_where_it_stood() {
        let wanted = commit("com.huddle.booking/a", 8);
        let portions = sift([unwanted_at(7), wanted.clone(), unwanted_at(9)]);
        assert_eq!(span(&portions[0]), (1, 7, 7));
        assert_eq!(portions[1], Portion::Frame(wanted));
        assert_eq!(span(&portions[2]), (1, 9, 9));
    }

    #[test]
    fn a_seq_that_does_not_rise_begins_another_run() {
        let portions = sift([7, 8, 8, 3, 4].map(unwanted_at));
        let spans: Vec<_> = portions.iter().map(span).collect();
        assert_eq!(spans, [(2, 7, 8), (1, 8, 8), (2, 3, 4)]);
    }

    #[test]
    fn whatever_is_not_plainly_an_unwanted_commit_is_kept() {
        let unknown = frame("#weather", &ipld!({ "seq": 9 }));
        let account = frame("#account", &ipld!({ "seq": 9, "did": DID, "active": true }));
        let without_seq = frame(
            "#commit",
            &ipld!({ "repo": DID, "ops": Ipld::List(vec![]) }),
        );
        let frames = [unknown, account, without_seq, b"no frame".to_vec()].map(Bytes::from);
        assert_eq!(sift(frames.clone()), frames.map(Portion::Frame));
    }

    #[test]
    fn it_knows_the_last_seq_and_the_last_frame_if_that_was_kept() {
        let mut sieve = sieve();
        sieve.take(unwanted_at(7));
        assert_eq!((sieve.last_seq(), sieve.last_frame()), (Some(7), None));
        let wanted = commit("com.huddle.booking/a", 8);
        sieve.take(wanted.clone());
        assert_eq!(
            (sieve.last_seq(), sieve.last_frame()),
            (Some(8), Some(&wanted))
        );
        sieve.take(Bytes::from_static(b"no frame"));
        assert_eq!(sieve.last_seq(), Some(8));
    }

    #[test]
    fn a_joint_stands_before_the_frames_and_is_nothing_by_itself() {
        let mut sieve = sieve().behind_joint();
        assert!(sieve.is_empty());
        for seq in 7..=10 {
            sieve.take(unwanted_at(seq));
        }
        assert!(!sieve.is_empty());
        let portions = sieve.into_portions();
        assert_eq!(portions[0], Portion::Joint);
        // The first two can be told apart.
        let spans: Vec<_> = portions[1..].iter().map(span).collect();
        assert_eq!(spans, [(1, 7, 7), (3, 8, 10)]);
    }

    #[test]
    fn it_is_full_of_frames_of_bytes_or_of_what_passed() {
        let mut frames = sieve();
        for seq in 1..=3 {
            assert!(!frames.is_full());
            frames.take(commit("com.huddle.booking/a", seq));
        }
        assert!(frames.is_full());

        let mut bytes = sieve();
        bytes.take(vec![0; LIMITS.bytes].into());
        assert!(bytes.is_full());

        let mut passed = sieve();
        for seq in 1..=PASSED_LIMIT {
            assert!(!passed.is_full());
            passed.take(unwanted_at(seq));
        }
        assert!(passed.is_full());
    }

    #[test]
    fn a_kept_frame_does_not_hold_on_to_the_buffer_of_the_socket() {
        let buffer = Bytes::from(vec![0; 1 << 20]);
        let mut sieve = sieve();
        sieve.take(buffer.slice(..100));
        assert!(buffer.is_unique());
    }
}
