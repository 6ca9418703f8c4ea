//! Builds positions, effects and batches from the few numbers that matter to a test.

use std::sync::Arc;

use bytes::Bytes;
use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::config::Config;
use huddle_firehose::delivery::ledger::{FrameBatch, Lease};
use huddle_firehose::delivery::segment::Segment;
use huddle_firehose::model::Position;
use huddle_firehose::pipeline::Context;
use huddle_firehose::pipeline::messages::{DecodedBatch, DecodedItem, Work};
use huddle_firehose::store::plan::effect::{Effect, IdentityChange};
use jiff::Timestamp;
use test_support::neighbours;
use test_support::scripted_source::ScriptedSource;
use test_support::scripted_store::ScriptedStore;

/// A context whose ledger is before the first event, with an empty store.
pub(crate) fn context(config: Config) -> (Arc<Context>, Arc<ScriptedStore>) {
    let store = ScriptedStore::empty();
    let context = neighbours::context(config, ScriptedSource::new([]), store.clone());
    (context, store)
}

pub(crate) fn at(seq: u64) -> Position {
    let time = Timestamp::from_second(1_800_000_000 + i64::try_from(seq).unwrap());
    Position {
        seq,
        time: Some(time.unwrap()),
    }
}

pub(crate) fn effect(seq: u64) -> Effect {
    Effect::Identity(IdentityChange {
        did: Did::parse("did:plc:ann").unwrap(),
        handle: None,
        seq,
        time: at(seq).time.unwrap(),
    })
}

pub(crate) fn effects(seqs: impl IntoIterator<Item = u64>) -> Vec<Effect> {
    seqs.into_iter().map(effect).collect()
}

/// An event with one effect.
pub(crate) fn event(seq: u64) -> DecodedItem {
    DecodedItem::Work(Work {
        position: Some(at(seq)),
        effects: vec![effect(seq)],
    })
}

/// Enters a batch of one frame, which is the event with this seq, and leases it.
pub(crate) fn leased(context: &Context, seq: u64) -> FrameBatch {
    enter(context, Bytes::from_static(b"a frame"), seq);
    context.ledger.lease_next().unwrap()
}

pub(crate) fn lease(context: &Context, seq: u64) -> Lease {
    leased(context, seq).lease
}

pub(crate) fn enter(context: &Context, frame: Bytes, seq: u64) {
    let charge = context.budget.charge(frame.len());
    let segments = vec![Segment::Frame(frame)];
    context.ledger.enter(segments, Some(seq), charge);
}

/// What a decoder would make from a leased batch.
pub(crate) fn decoded(batch: FrameBatch, items: Vec<DecodedItem>, last: Position) -> DecodedBatch {
    DecodedBatch {
        lease: batch.lease,
        numbers: batch.frames.numbers(),
        events: batch.frames.events(),
        received_at: batch.received_at,
        items,
        last: Some(last),
    }
}
