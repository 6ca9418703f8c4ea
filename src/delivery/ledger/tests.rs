use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::delivery::budget::Budget;
use crate::delivery::sequence::{Observation, Seen, SequenceGuard};

struct Bench {
    ledger: Arc<Ledger>,
    budget: Arc<Budget>,
    seq: u64,
}

impl Bench {
    fn new() -> Self {
        let ledger = Ledger::new(SourceId::new("ws://source.test/"));
        ledger.restart_at(Position::default(), None);
        Self {
            ledger,
            budget: Budget::new(1_000_000),
            seq: 0,
        }
    }

    /// Enters a batch of `count` frames of 10 bytes each.
    fn enter(&mut self, count: u64) {
        let frames = vec![frame(); count as usize];
        let charge = self.budget.charge(10 * count as usize);
        self.seq += count;
        self.ledger.enter(frames, Some(self.seq), charge);
    }

    fn lease(&self) -> FrameBatch {
        self.ledger.lease_next().expect("something is unacked")
    }
}

const WINDOW: Duration = Duration::from_secs(3600);

fn frame() -> Segment {
    Segment::Frame(Bytes::from_static(b"0123456789"))
}

fn at(seq: u64) -> Position {
    Position { seq, time: None }
}

#[test]
fn batches_are_handed_out_once_and_in_order() {
    let mut bench = Bench::new();
    bench.enter(2);
    bench.enter(3);
    let (first, second) = (bench.lease(), bench.lease());
    assert_eq!(first.frames.numbers(), 0..2);
    assert_eq!(second.frames.numbers(), 2..5);
    assert!(bench.ledger.lease_next().is_none());
}

#[test]
fn a_closed_ledger_is_emptied_and_takes_nothing_more() {
    let mut bench = Bench::new();
    bench.enter(2);
    bench.ledger.close();
    bench.lease().lease.ack(at(2));
    bench.enter(2);
    assert!(bench.ledger.is_idle());
    assert_eq!(
        (bench.ledger.received(), bench.budget.in_flight_bytes()),
        (2, 0)
    );
}

#[test]
fn the_watermark_waits_for_the_oldest_unacked_batch() {
    let mut bench = Bench::new();
    bench.enter(2);
    bench.enter(2);
    let (first, second) = (bench.lease(), bench.lease());
    second.lease.ack(at(4));
    assert_eq!(bench.ledger.acked_through(), at(0));
    assert_eq!(bench.budget.in_flight_bytes(), 40);
    first.lease.ack(at(2));
    assert_eq!(bench.ledger.acked_through(), at(4));
    assert_eq!(bench.budget.in_flight_bytes(), 0);
    assert!(bench.ledger.is_idle());
}

#[test]
fn a_dropped_lease_is_redelivered_before_anything_newer() {
    let mut bench = Bench::new();
    bench.enter(1);
    bench.enter(1);
    bench.enter(1);
    let _first = bench.lease();
    let second = bench.lease();
    drop(second);
    assert_eq!(bench.lease().frames.numbers(), 1..2);
}

#[test]
fn a_panicking_holder_leaves_its_batch_unacked() {
    let mut bench = Bench::new();
    bench.enter(1);
    let mut batch = bench.lease();
    let holder = std::thread::spawn(move || {
        batch.lease.start();
        panic!("injected");
    })
    .join();
    assert!(holder.is_err());
    let again = bench.lease();
    assert!(again.lease.is_suspect());
    assert_eq!(bench.ledger.delivery_failures_total(), 1);
}

#[test]
fn a_batch_that_waited_in_a_lost_mailbox_is_not_suspect() {
    let mut bench = Bench::new();
    bench.enter(4);
    for _ in 0..10 {
        let mut batch = bench.lease();
        batch.lease.start();
        batch.lease.finish();
        drop(batch);
    }
    let again = bench.lease();
    assert!(!again.lease.is_suspect());
    assert_eq!(again.frames.numbers(), 0..4);
}

#[test]
fn an_epoch_hands_out_all_unacked_batches_and_voids_the_old_leases() {
    let mut bench = Bench::new();
    bench.enter(1);
    bench.enter(1);
    bench.enter(1);
    let first = bench.lease();
    let second = bench.lease();
    first.lease.ack(at(1));
    bench.ledger.begin_epoch();
    assert!(second.lease.is_stale());
    let start = bench.ledger.epoch();
    assert_eq!((start.first_frame, start.position), (1, at(1)));
    // A late ack in the old epoch changes nothing.
    second.lease.ack(at(2));
    assert_eq!(bench.ledger.acked_through(), at(1));
    assert_eq!(bench.lease().frames.numbers(), 1..2);
}

/// Otherwise a stage that starts behind the first witness of a leap would wait for one more than there
/// are.
#[test]
fn an_epoch_begins_with_what_was_known_of_leaps_at_its_position() {
    let mut bench = Bench::new();
    bench.enter(1);
    bench.enter(1);
    let mut guard = SequenceGuard::new(Position::default(), None, WINDOW);
    let see = |guard: &mut SequenceGuard, seq| {
        let seen = Seen {
            position: at(seq),
            account: None,
            is_next: true,
            at: Instant::now(),
        };
        guard.observe(seen, Timestamp::MAX)
    };
    let mut first = bench.lease();
    assert_eq!(see(&mut guard, 1 << 40), Observation::Leap);
    first.lease.note_leaps(guard.leaps());
    first.lease.ack(guard.position());
    bench.ledger.begin_epoch();

    let start = bench.ledger.epoch();
    assert_eq!((start.first_frame, start.position.seq), (1, 0));
    let guard = SequenceGuard::new(start.position, None, WINDOW);
    let mut guard = guard.with_leaps(start.leaps);
    assert_eq!(see(&mut guard, (1 << 40) + 1), Observation::Leap);
    assert_ne!(see(&mut guard, (1 << 40) + 2), Observation::Leap);
    assert_eq!(guard.position().seq, (1 << 40) + 2);
}

#[test]
fn a_paused_ledger_hands_out_nothing_until_the_next_epoch() {
    let mut bench = Bench::new();
    bench.enter(1);
    let batch = bench.lease();
    batch.lease.pause_ledger();
    drop(batch);
    assert!(bench.ledger.lease_next().is_none());
    bench.ledger.begin_epoch();
    assert!(bench.ledger.lease_next().is_some());
}

#[test]
fn a_pause_of_an_old_epoch_is_ignored() {
    let mut bench = Bench::new();
    bench.enter(1);
    let batch = bench.lease();
    bench.ledger.begin_epoch();
    batch.lease.pause_ledger();
    assert!(bench.ledger.has_unacked());
}

#[test]
fn an_unacked_gap_is_reported_again_in_the_next_epoch() {
    let mut bench = Bench::new();
    bench.ledger.restart_at(at(0), Some(GapCause::StartedLive));
    bench.enter(1);
    let _lost = bench.lease();
    bench.ledger.begin_epoch();
    assert_eq!(bench.ledger.epoch().gap, Some(GapCause::StartedLive));
    bench.lease().lease.ack(at(1));
    bench.ledger.begin_epoch();
    assert_eq!(bench.ledger.epoch().gap, None);
}

/// Processes everything that is unacked; the handler of a batch with frame `poison` fails. Returns
/// the number of failures, and the frames that the ledger marked as poison.
fn run_with_poison(bench: &Bench, poison: u64) -> (u32, Vec<u64>) {
    let (mut failures, mut given_up) = (0, Vec::new());
    while let Some(mut batch) = bench.ledger.lease_next() {
        let numbers = batch.frames.numbers();
        if batch.is_poison {
            given_up.push(numbers.start);
        } else if numbers.contains(&poison) {
            batch.lease.start();
            failures += 1;
            continue;
        }
        batch.lease.ack(at(numbers.end));
    }
    (failures, given_up)
}

#[test]
fn poison_is_found_by_halves() {
    for poison in 0..256 {
        let mut bench = Bench::new();
        bench.enter(256);
        let (failures, given_up) = run_with_poison(&bench, poison);
        assert_eq!(given_up, [poison]);
        assert!(
            failures <= 3 + 8,
            "{failures} failures to find frame {poison}"
        );
        assert_eq!(bench.ledger.acked_through(), at(256));
        assert_eq!(bench.budget.in_flight_bytes(), 0);
    }
}

#[test]
fn a_frame_named_by_the_marker_is_isolated_at_once() {
    for poison in 0..16 {
        let mut bench = Bench::new();
        bench.enter(16);
        let (mut failures, mut given_up) = (0, Vec::new());
        while let Some(mut batch) = bench.ledger.lease_next() {
            let numbers = batch.frames.numbers();
            if batch.is_poison {
                given_up.push(numbers.start);
            } else if numbers.contains(&poison) {
                batch.lease.start();
                batch.lease.marker().is_at(poison);
                failures += 1;
                continue;
            } else {
                assert!(!batch.lease.is_suspect(), "{numbers:?} is not suspect");
            }
            batch.lease.ack(at(numbers.end));
        }
        assert_eq!((failures, given_up), (DELIVERY_FAILURE_LIMIT, vec![poison]));
        assert_eq!(bench.ledger.acked_through(), at(16));
        assert_eq!(bench.budget.in_flight_bytes(), 0);
    }
}

#[test]
fn frames_are_handed_out_singly_until_enough_bytes_are_acked() {
    let mut bench = Bench::new();
    let two_frames = 2 * frame().weight();
    bench.ledger.hand_out_singly(two_frames);
    bench.enter(4);
    for frame in 0..2 {
        let batch = bench.lease();
        assert!(batch.is_alone && !batch.is_redelivery);
        assert_eq!(batch.frames.numbers(), frame..frame + 1);
        batch.lease.ack(at(frame + 1));
    }
    let rest = bench.lease();
    assert!(!rest.is_alone);
    assert_eq!(rest.frames.numbers(), 2..4);
    assert_eq!(bench.ledger.acked_bytes(), two_frames);
}

#[test]
fn handlers_are_woken_when_frames_are_unacked() {
    let mut bench = Bench::new();
    let woken = Arc::new(AtomicUsize::new(0));
    let count = woken.clone();
    bench.ledger.on_unacked(move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    bench.enter(1);
    drop(bench.lease());
    assert_eq!(woken.load(Ordering::Relaxed), 2);
}

#[derive(Clone, Debug)]
enum Step {
    Enter(u64),
    Lease,
    Ack(usize),
    /// The handler fails; the marker may name a frame.
    Drop {
        index: usize,
        in_progress: bool,
        seen_at: Option<u64>,
    },
    BeginEpoch,
    HandOutSingly(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..6_u64).prop_map(Step::Enter),
        Just(Step::Lease),
        (0..8_usize).prop_map(Step::Ack),
        (0..8_usize, any::<bool>(), prop::option::of(0..6_u64)).prop_map(
            |(index, in_progress, seen_at)| Step::Drop {
                index,
                in_progress,
                seen_at
            }
        ),
        Just(Step::BeginEpoch),
        (0..60_usize).prop_map(Step::HandOutSingly),
    ]
}

proptest! {
    /// Rules 1, 3 and 4: for any sequence of lease outcomes, every frame is acked in the end, the
    /// watermark never passes an unacked frame, and every byte is returned.
    #[test]
    fn every_frame_is_acked_in_the_end(steps in prop::collection::vec(step(), 0..120)) {
        let mut bench = Bench::new();
        let mut held: Vec<FrameBatch> = Vec::new();
        let mut done = BTreeSet::new();
        for step in steps {
            match step {
                Step::Enter(count) => bench.enter(count),
                Step::Lease => held.extend(bench.ledger.lease_next()),
                Step::Ack(index) if index < held.len() => {
                    let batch = held.swap_remove(index);
                    let numbers = batch.frames.numbers();
                    if !batch.lease.is_stale() {
                        done.extend(numbers.clone());
                    }
                    batch.lease.ack(at(numbers.end));
                }
                Step::Drop { index, in_progress, seen_at } if index < held.len() => {
                    let mut batch = held.swap_remove(index);
                    if in_progress {
                        batch.lease.start();
                    }
                    if let Some(offset) = seen_at {
                        let numbers = batch.frames.numbers();
                        batch.lease.marker().is_at((numbers.start + offset).min(numbers.end - 1));
                    }
                }
                Step::HandOutSingly(bytes) => bench.ledger.hand_out_singly(bytes),
                Step::BeginEpoch => bench.ledger.begin_epoch(),
                Step::Ack(_) | Step::Drop { .. } => {}
            }
            let watermark = bench.ledger.acked_through().seq;
            prop_assert!((0..watermark).all(|frame| done.contains(&frame)));
        }
        held.clear();
        while let Some(batch) = bench.ledger.lease_next() {
            let end = batch.frames.numbers().end;
            batch.lease.ack(at(end));
        }
        prop_assert!(bench.ledger.is_idle());
        prop_assert_eq!(bench.ledger.acked_through().seq, bench.seq);
        prop_assert_eq!(bench.budget.in_flight_bytes(), 0);
    }
}
