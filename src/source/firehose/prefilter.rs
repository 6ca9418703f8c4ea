//! The prefilter: decides at the socket whether a frame may be wanted.
//!
//! Most frames are not wanted. The prefilter skips them while their bytes are still in the
//! processor's cache, and keeps only their positions in the stream. So unwanted frames cost no
//! memory, no allocation and no mailbox message. The other frames are copied out of the socket's
//! buffer, so the buffer can be reused.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;

use crate::atproto::syntax::Did;
use crate::delivery::segment::{RawPosition, Requested, Segment, SkippedRun};
use crate::delivery::sequence::{LONG_STEP, ResumePoint};
use crate::source::firehose::decode::{About, Peek, peek};
use crate::source::frame_sink::{BatchLimits, FrameSink};
use crate::source::interest::Interest;
use crate::source::process::EFFECT_BYTES;

/// The number of frames after a reconnect that keep individual positions: the requested event, and
/// the one before it, with which a server may begin.
pub const NEAR_RECONNECT: u8 = 2;

/// The number of frames after a jump of the seqs, in either direction, that keep individual
/// positions, because they show whether the source goes on from there.
pub const OBSERVED_AFTER_JUMP: u8 = 2;

/// A batch is also full when what it expands to has so many bytes, which are charged to the budget
/// together.
const EXPANDED_LIMIT: usize = 2 << 20;

/// This many unwanted frames also fill a batch, so that the cursor advances.
const SKIPPED_LIMIT: u64 = 4096;

/// Collects one batch.
#[derive(Debug)]
pub struct Prefilter {
    interest: Arc<Interest>,
    limits: BatchLimits,
    segments: Vec<Segment>,
    skipped: u64,
    frames: usize,
    frame_bytes: usize,
    /// The bytes that the frames take when they are decoded, besides their own.
    expansion: usize,
    /// Where a lost connection resumes.
    resume: ResumePoint,
    has_seq: bool,
    has_unplaced: bool,
    /// How many kept commits each repository has. Their keys will be needed.
    commits: BTreeMap<Did, u64>,
    /// The number of further frames that keep individual positions.
    observed: u8,
}

// === impl Prefilter ===

impl Prefilter {
    pub fn new(interest: Arc<Interest>, limits: BatchLimits) -> Self {
        Self {
            interest,
            limits,
            segments: Vec::new(),
            skipped: 0,
            frames: 0,
            frame_bytes: 0,
            expansion: 0,
            resume: ResumePoint::default(),
            has_seq: false,
            observed: 0,
            has_unplaced: false,
            commits: BTreeMap::new(),
        }
    }

    /// Continues from what was read before.
    #[must_use]
    pub fn resuming_at(mut self, resume: ResumePoint) -> Self {
        self.resume = resume;
        self
    }

    /// For the first batch of a new connection, which must show whether the sequence continues.
    #[must_use]
    pub fn after_reconnect(mut self, requested: Requested) -> Self {
        self.segments.push(Segment::ReconnectMarker(requested));
        self.observed = NEAR_RECONNECT;
        self
    }

    /// The last frame, if it was kept.
    pub fn last_frame(&self) -> Option<&Bytes> {
        match self.segments.last()? {
            Segment::Frame(frame) => Some(frame),
            Segment::Skipped(_) | Segment::ReconnectMarker(_) => None,
        }
    }

    /// Where a lost connection resumes; `None` if no frame has a seq.
    pub fn resume_point(&self) -> Option<ResumePoint> {
        self.has_seq.then_some(self.resume)
    }

    /// Whether a frame without a place in the stream came, such as one that cannot be read.
    pub fn has_unplaced(&self) -> bool {
        self.has_unplaced
    }

    /// The repositories of the kept commits and `#sync`s, and how many each of them has.
    pub fn commits(&mut self) -> BTreeMap<Did, u64> {
        std::mem::take(&mut self.commits)
    }

    /// The bytes of the kept frames.
    pub fn frame_bytes(&self) -> usize {
        self.frame_bytes
    }

    /// The bytes that the segments take until they are applied, with what they expand to.
    pub fn weight(&self) -> usize {
        let segments: usize = self.segments.iter().map(Segment::weight).sum();
        segments + self.expansion
    }

    pub fn into_segments(self) -> Vec<Segment> {
        self.segments
    }

    /// Keeps a frame that has at most so many effects. The effects hold its bytes once more, as blocks
    /// that are copied out of it.
    fn keep(&mut self, frame: &[u8], seq: Option<u64>, effects: usize) {
        self.expansion += frame.len() + effects * EFFECT_BYTES;
        self.observed = self.observed.saturating_sub(1);
        self.frames += 1;
        self.frame_bytes += frame.len();
        if let Some(seq) = seq {
            self.note_seq(seq);
        }
        self.segments
            .push(Segment::Frame(Bytes::copy_from_slice(frame)));
    }

    fn note_commit(&mut self, repo: &str) {
        // The decoders say what is wrong with a repository that has no DID.
        if let Ok(did) = Did::parse(repo) {
            *self.commits.entry(did).or_default() += 1;
        }
    }

    fn note_seq(&mut self, seq: u64) {
        self.has_seq = true;
        if self.resume.is_leap(seq) || seq <= self.resume.seq() {
            self.observed = OBSERVED_AFTER_JUMP;
        }
        self.resume.note(seq);
    }

    fn skip(&mut self, position: RawPosition<'_>, bytes: usize) {
        self.skipped += 1;
        let keeps_its_position = self.observed > 0;
        self.observed = self.observed.saturating_sub(1);
        self.note_seq(position.seq);
        let is_next = |last: u64| last < position.seq && position.seq - last <= LONG_STEP;
        match self.segments.last_mut() {
            Some(Segment::Skipped(run)) if is_next(run.last().seq) && !keeps_its_position => {
                run.add(position, bytes);
            }
            _ => {
                let run = SkippedRun::of(position, bytes);
                self.segments.push(Segment::Skipped(run));
            }
        }
    }
}

impl FrameSink for Prefilter {
    fn take(&mut self, frame: Bytes) {
        // If a frame makes the skimmer panic, it is kept: the decoders find it and make it a dead
        // letter.
        let peek = catch_unwind(AssertUnwindSafe(|| peek(&frame, &self.interest)));
        match peek {
            Ok(Peek::Unwanted(position)) => self.skip(position, frame.len()),
            Ok(Peek::Kept {
                seq,
                about,
                effects,
            }) => {
                // Track the repository from here on. The tables will contain this commit only after
                // the next frames have skipped the prefilter.
                match (self.interest.tracked(), about) {
                    (Some(tracked), About::Commit(repo)) => tracked.insert(repo),
                    (Some(tracked), About::Status(did)) => tracked.announce(did),
                    _ => {}
                }
                // Where nothing is tracked, nothing is verified, and no key is needed.
                if let About::Commit(repo) | About::Repository(repo) = about
                    && self.interest.tracked().is_some()
                {
                    self.note_commit(repo);
                }
                self.keep(&frame, seq, effects);
            }
            Ok(Peek::Unplaced) | Err(_) => {
                self.has_unplaced = true;
                self.keep(&frame, None, 1);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.frames == 0 && self.skipped == 0
    }

    fn is_full(&self) -> bool {
        self.frames >= self.limits.frames
            || self.frame_bytes >= self.limits.bytes
            || self.expansion >= EXPANDED_LIMIT
            || self.skipped >= SKIPPED_LIMIT
    }
}

#[cfg(test)]
mod tests {
    use ipld_core::ipld;
    use ipld_core::ipld::Ipld;

    use super::*;
    use crate::atproto::skim::splice_seq;
    use crate::delivery::segment::Segment;
    use crate::source::firehose::decode::sample::{CommitFrame, DID, frame};
    use crate::source::tracked::{ANNOUNCED, Tracked};

    const LIMITS: BatchLimits = BatchLimits {
        frames: 3,
        bytes: 1 << 20,
    };

    fn prefilter() -> Prefilter {
        let pattern = "com.huddle.*".parse().unwrap();
        Prefilter::new(Arc::new(Interest::new([pattern])), LIMITS)
    }

    fn commit(path: &str, seq: u64) -> Bytes {
        let commit = CommitFrame::default().create(path, &ipld!({})).bytes();
        splice_seq(&commit, seq).unwrap().into()
    }

    fn unwanted_at(seq: u64) -> Bytes {
        commit("app.bsky.feed.like/a", seq)
    }

    fn filtered(frames: impl IntoIterator<Item = Bytes>) -> Vec<Segment> {
        let mut prefilter = prefilter();
        frames.into_iter().for_each(|frame| prefilter.take(frame));
        prefilter.into_segments()
    }

    /// The events, the first seq and the last one.
    fn span(segment: &Segment) -> (u64, u64, u64) {
        match segment {
            Segment::Skipped(run) => (run.events, run.first().seq, run.last().seq),
            Segment::Frame(_) | Segment::ReconnectMarker(_) => panic!("not skipped: {segment:?}"),
        }
    }

    #[test]
    fn unwanted_frames_leave_only_their_positions() {
        let segments = filtered([unwanted_at(7), unwanted_at(8), unwanted_at(20)]);
        assert_eq!(segments.iter().map(span).collect::<Vec<_>>(), [(3, 7, 20)]);
    }

    #[test]
    fn a_wanted_frame_is_kept_at_its_position() {
        let wanted = commit("com.huddle.booking/a", 8);
        let segments = filtered([unwanted_at(7), wanted.clone(), unwanted_at(9)]);
        assert_eq!(span(&segments[0]), (1, 7, 7));
        assert_eq!(segments[1], Segment::Frame(wanted));
        assert_eq!(span(&segments[2]), (1, 9, 9));
    }

    #[test]
    fn a_seq_that_does_not_rise_begins_another_run() {
        let segments = filtered([7, 8, 8, 3, 4].map(unwanted_at));
        let spans: Vec<_> = segments.iter().map(span).collect();
        // The frames after it keep individual positions.
        assert_eq!(spans, [(2, 7, 8), (1, 8, 8), (1, 3, 3), (1, 4, 4)]);
    }

    #[test]
    fn everything_but_an_unwanted_commit_is_kept() {
        let unknown = frame("#weather", &ipld!({ "seq": 9 }));
        let account = frame("#account", &ipld!({ "seq": 9, "did": DID, "active": true }));
        let without_seq = frame(
            "#commit",
            &ipld!({ "repo": DID, "ops": Ipld::List(vec![]) }),
        );
        let frames = [unknown, account, without_seq, b"no frame".to_vec()].map(Bytes::from);
        assert_eq!(filtered(frames.clone()), frames.map(Segment::Frame));
    }

    #[test]
    fn it_gives_the_last_seq_and_the_last_frame_if_kept() {
        let mut prefilter = prefilter();
        let last_seq = |prefilter: &Prefilter| prefilter.resume_point().map(|point| point.seq());
        assert_eq!(last_seq(&prefilter), None);
        prefilter.take(unwanted_at(7));
        assert_eq!(
            (last_seq(&prefilter), prefilter.last_frame()),
            (Some(7), None)
        );
        let wanted = commit("com.huddle.booking/a", 8);
        prefilter.take(wanted.clone());
        assert_eq!(
            (last_seq(&prefilter), prefilter.last_frame()),
            (Some(8), Some(&wanted))
        );
        prefilter.take(Bytes::from_static(b"no frame"));
        assert_eq!(last_seq(&prefilter), Some(8));
    }

    #[test]
    fn a_leap_is_kept_apart_and_is_no_place_to_resume_until_others_follow() {
        let leap = 1 << 40;
        let mut prefilter = prefilter().resuming_at(ResumePoint::new(6));
        let seqs = [7, leap, 8, 9, leap + 1, leap + 2, leap + 3];
        let resumes = seqs.map(|seq| {
            prefilter.take(unwanted_at(seq));
            prefilter.resume_point().unwrap().seq()
        });
        assert_eq!(resumes, [7, 7, 8, 9, 9, 9, leap + 3]);
        let segments = prefilter.into_segments();
        let spans: Vec<_> = segments.iter().map(span).collect();
        let alone = |seq| (1, seq, seq);
        assert_eq!(
            spans[..4],
            [alone(7), alone(leap), (1, 8, 8), (1, 9, 9)],
            "{spans:?}"
        );
    }

    #[test]
    fn a_reconnect_marker_comes_before_the_frames_and_is_no_batch_by_itself() {
        let requested = Requested {
            seq: 8,
            is_inclusive: true,
        };
        let mut prefilter = prefilter().after_reconnect(requested);
        assert!(prefilter.is_empty());
        for seq in 7..=10 {
            prefilter.take(unwanted_at(seq));
        }
        assert!(!prefilter.is_empty());
        let segments = prefilter.into_segments();
        assert_eq!(segments[0], Segment::ReconnectMarker(requested));
        // The first two frames keep individual positions.
        let spans: Vec<_> = segments[1..].iter().map(span).collect();
        assert_eq!(spans, [(1, 7, 7), (3, 8, 10)]);
    }

    #[test]
    fn it_is_full_by_frames_by_bytes_or_by_skipped_frames() {
        let mut frames = prefilter();
        for seq in 1..=3 {
            assert!(!frames.is_full());
            frames.take(commit("com.huddle.booking/a", seq));
        }
        assert!(frames.is_full());

        let mut bytes = prefilter();
        bytes.take(vec![0; LIMITS.bytes].into());
        assert!(bytes.is_full());

        let mut skipped = prefilter();
        for seq in 1..=SKIPPED_LIMIT {
            assert!(!skipped.is_full());
            skipped.take(unwanted_at(seq));
        }
        assert!(skipped.is_full());
    }

    #[test]
    fn a_commit_without_wanted_records_does_not_keep_an_announced_account() {
        let tracked = Arc::new(Tracked::with_announced());
        let interest = Interest::new(["com.huddle.*".parse().unwrap()]).tracking(tracked.clone());
        let mut prefilter = Prefilter::new(Arc::new(interest), LIMITS);
        let announce_others = |from: usize| {
            for number in from..from + ANNOUNCED {
                tracked.announce(&format!("did:plc:{number}"));
            }
        };
        tracked.announce(DID);
        prefilter.take(unwanted_at(7));
        assert!(prefilter.last_frame().is_some());
        announce_others(0);
        assert!(!tracked.contains(DID));

        prefilter.take(commit("com.huddle.booking/a", 8));
        announce_others(ANNOUNCED);
        assert!(tracked.contains(DID));
    }

    #[test]
    fn the_commits_of_each_repository_are_counted_where_their_keys_are_needed() {
        let pattern = "com.huddle.*".parse().unwrap();
        let tracked = Arc::new(Tracked::with_announced());
        let verified = Interest::new([pattern]).tracking(tracked);
        let verified = Prefilter::new(Arc::new(verified), LIMITS);
        for (mut prefilter, expected) in [(verified, vec![2]), (prefilter(), Vec::new())] {
            prefilter.take(unwanted_at(7));
            prefilter.take(commit("com.huddle.booking/a", 8));
            // Of a repository that is tracked now.
            prefilter.take(unwanted_at(9));
            let counts: Vec<u64> = prefilter.commits().into_values().collect();
            assert_eq!(counts, expected);
        }
    }

    #[test]
    fn a_kept_frame_does_not_hold_on_to_the_buffer_of_the_socket() {
        let buffer = Bytes::from(vec![0; 1 << 20]);
        let mut prefilter = prefilter();
        prefilter.take(buffer.slice(..100));
        assert!(buffer.is_unique());
    }

    /// Holds invariant 4.8.
    #[test]
    fn a_kept_frame_weighs_what_it_may_become() {
        let mut garbage = prefilter();
        garbage.take(Bytes::from_static(b"12345678"));
        assert!(garbage.weight() > EFFECT_BYTES);
        let mut paths = CommitFrame::default();
        for index in 0..100 {
            paths = paths.delete(&format!("com.huddle.slotOffer/{index}"));
        }
        let mut many = prefilter();
        many.take(paths.bytes().into());
        assert!(many.weight() > 200 * EFFECT_BYTES);
        while !garbage.is_full() {
            garbage.take(Bytes::from_static(b"12345678"));
        }
        assert!(
            garbage.weight() <= 2 * EXPANDED_LIMIT,
            "a batch is charged at once"
        );
    }
}
