//! Tests a DecoderActor between the ledger and the FilterActor.

use std::sync::Arc;

use bytes::Bytes;
use huddle_firehose::delivery::ledger::DELIVERY_FAILURE_LIMIT;
use huddle_firehose::delivery::segment::Segment;
use huddle_firehose::model::{Position, Stage};
use huddle_firehose::pipeline::Context;
use huddle_firehose::pipeline::decoder::DecoderActor;
use huddle_firehose::pipeline::messages::{DecodedBatch, DecodedItem};
use huddle_firehose::testing::fault::{Fault, FaultPlan, Faults, Point};
use ractor::Actor;
use test_support::neighbours::{Neighbour, arguments_for, context_with};
use test_support::recorded_frames::{frames, last_seq};
use test_support::running_worker::config;
use test_support::scripted_source::ScriptedSource;
use test_support::scripted_store::ScriptedStore;

use crate::pipeline_parts::enter;

struct Decoder {
    context: Arc<Context>,
    filter: Neighbour<DecodedBatch>,
}

impl Decoder {
    /// Prepares the context. No decoder runs yet.
    async fn prepare(faults: Faults) -> Self {
        let source = ScriptedSource::new([]);
        let context = context_with(config(), source, ScriptedStore::empty(), faults);
        context.ledger.restart_at(Position::default(), None);
        let bells = context.decoders.clone();
        context.ledger.on_unacked(move || bells[0].wake());
        let filter = Neighbour::at(&context.filter).await;
        Self { context, filter }
    }

    /// Runs a decoder until it ends, or has nothing more to do.
    async fn run(&self) {
        let arguments = (arguments_for(&self.context), 0);
        let (_, ended) = Actor::spawn(None, DecoderActor, arguments).await.unwrap();
        let _idle = tokio::time::timeout(std::time::Duration::from_secs(1), ended).await;
    }

    fn enter_all(&self, frames: &[Bytes]) {
        let segments = frames.iter().cloned().map(Segment::Frame).collect();
        let charge = self.context.budget.charge(0);
        self.context
            .ledger
            .enter(segments, Some(last_seq(frames)), charge);
    }
}

/// Panics each time one frame is read, like a bug that the frame triggers.
struct Poisoned(Bytes);

impl FaultPlan for Poisoned {
    fn strike(&self, _point: Point) -> Option<Fault> {
        None
    }

    fn touch(&self, frame: &[u8]) {
        assert!(self.0 != frame, "poisoned");
    }
}

/// Kills the actor once, with its first batch in hand.
struct KilledOnce(std::sync::atomic::AtomicBool);

impl FaultPlan for KilledOnce {
    fn strike(&self, point: Point) -> Option<Fault> {
        let first = || !self.0.swap(true, std::sync::atomic::Ordering::SeqCst);
        (point == Point::DecoderLeased && first()).then_some(Fault::Kill)
    }
}

fn dead_letters(batches: &[DecodedBatch]) -> Vec<(Stage, Bytes)> {
    let items = batches.iter().flat_map(|batch| &batch.items);
    let letters = items.filter_map(|item| match item {
        DecodedItem::DeadLetter(letter) => Some((letter.stage, letter.raw.clone())),
        _ => None,
    });
    letters.collect()
}

/// Holds invariant 7.1: a batch keeps the numbers by which the filter orders it.
#[tokio::test(start_paused = true)]
async fn each_batch_goes_to_the_filter_with_its_numbers_and_its_last_position() {
    let mut decoder = Decoder::prepare(Faults::default()).await;
    let frames = frames();
    let (first, second) = frames.split_at(10);
    decoder.enter_all(first);
    decoder.enter_all(second);
    decoder.run().await;
    let batches = decoder.filter.rest().await;
    let count = frames.len() as u64;
    let numbers: Vec<_> = batches.iter().map(|batch| batch.numbers.clone()).collect();
    assert_eq!(numbers, [0..10, 10..count]);
    let last: Vec<_> = batches.iter().map(|it| it.last.unwrap().seq).collect();
    assert_eq!(last, [last_seq(first), last_seq(second)]);
    assert_eq!(batches.iter().map(|it| it.events).sum::<u64>(), count);
}

/// Holds invariant 3.1: the batch is handed out again, whole.
#[tokio::test(start_paused = true)]
async fn the_batch_of_a_killed_decoder_is_handed_out_again() {
    let plan = KilledOnce(std::sync::atomic::AtomicBool::new(false));
    let mut decoder = Decoder::prepare(Faults::planned(Arc::new(plan))).await;
    let frames = frames();
    decoder.enter_all(&frames[..10]);
    decoder.run().await;
    decoder.filter.receives_nothing().await;
    assert!(decoder.context.ledger.has_unacked());
    decoder.run().await;
    let batches = decoder.filter.rest().await;
    assert_eq!(batches.len(), 1);
    assert_eq!(batches[0].numbers, 0..10);
}

/// Holds invariant 5.3.
#[tokio::test(start_paused = true)]
async fn a_frame_that_kills_every_decoder_becomes_a_dead_letter_and_its_neighbours_do_not() {
    let frames = frames();
    let poison = frames[4].clone();
    let faults = Faults::planned(Arc::new(Poisoned(poison.clone())));
    let mut decoder = Decoder::prepare(faults).await;
    decoder.enter_all(&frames[..10]);
    let mut deaths = 0;
    let mut batches = Vec::new();
    while batches
        .iter()
        .map(|it: &DecodedBatch| it.events)
        .sum::<u64>()
        < 10
    {
        assert!(deaths <= DELIVERY_FAILURE_LIMIT, "{batches:?}");
        decoder.run().await;
        batches.extend(decoder.filter.rest().await);
        deaths += 1;
    }
    assert_eq!(dead_letters(&batches), [(Stage::Poison, poison)]);
    let mut numbers: Vec<_> = batches.into_iter().flat_map(|it| it.numbers).collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..10));
}

/// Holds invariant 5.1.
#[tokio::test(start_paused = true)]
async fn a_frame_that_cannot_be_read_is_kept_unchanged() {
    let mut decoder = Decoder::prepare(Faults::default()).await;
    let broken = Bytes::from_static(b"\xa1no frame");
    enter(&decoder.context, broken.clone(), 1);
    decoder.run().await;
    let batches = decoder.filter.rest().await;
    assert_eq!(dead_letters(&batches), [(Stage::Decode, broken)]);
}

/// Holds invariant 3.2: without a filter nothing is lost, and nothing is handed out in a loop.
#[tokio::test(start_paused = true)]
async fn a_batch_without_a_filter_is_kept_until_the_next_epoch() {
    let mut decoder = Decoder::prepare(Faults::default()).await;
    decoder.context.filter.clear();
    decoder.enter_all(&frames()[..10]);
    decoder.run().await;
    decoder.filter.receives_nothing().await;
    let ledger = decoder.context.ledger.clone();
    assert!(ledger.lease_next().is_none());
    ledger.begin_epoch();
    assert_eq!(ledger.lease_next().unwrap().frames.numbers(), 0..10);
}
