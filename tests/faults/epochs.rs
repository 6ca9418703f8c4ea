//! What a stage accepts after its start. Holds invariant 1.5.

use std::sync::Arc;
use std::time::Duration;

use huddle_firehose::actor::Arguments;
use huddle_firehose::actor::progress::Progress;
use huddle_firehose::delivery::segment::Segment;
use huddle_firehose::model::Position;
use huddle_firehose::pipeline::Context;
use huddle_firehose::pipeline::accumulator::IndexWork;
use huddle_firehose::pipeline::indexer::{IndexerActor, IndexerMessage};
use huddle_firehose::pipeline::messages::DecodedBatch;
use huddle_firehose::testing::fault::Faults;
use ractor::Actor;

use crate::run::Run;

/// Leases the first batch of a ledger, as work without effects.
fn work_of_the_epoch(context: &Arc<Context>) -> IndexWork<DecodedBatch> {
    let batch = context.ledger.lease_next().unwrap();
    let position = Position { seq: 7, time: None };
    IndexWork {
        batch: DecodedBatch {
            numbers: batch.frames.numbers(),
            events: batch.frames.events(),
            received_at: batch.received_at,
            lease: batch.lease,
            items: Vec::new(),
            last: Some(position),
        },
        effects: Vec::new(),
        commit_points: Vec::new(),
        position,
        sequence_restarted: false,
        is_suspect: false,
    }
}

/// The epoch in which the predecessor died lacks what the predecessor held.
#[tokio::test(start_paused = true)]
async fn a_new_indexer_takes_nothing_of_the_epoch_in_which_the_old_one_died() {
    let run = Run::without_faults();
    let context = run.assembly().context;
    context.ledger.restart_at(Position::default(), None);
    let frame = Segment::Frame(run.history.eras[0][0].frame.clone());
    let charge = context.budget.charge(frame.weight());
    context.ledger.enter(vec![frame], Some(7), charge);

    let late = work_of_the_epoch(&context);
    let arguments = Arguments {
        shared: context.clone(),
        progress: Progress::new(),
        faults: Faults::default(),
    };
    let (indexer, _) = Actor::spawn(None, IndexerActor, arguments).await.unwrap();
    indexer.cast(IndexerMessage::Index(Box::new(late))).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(run.store.position(), 0, "work of the old epoch was applied");
    assert!(!context.ledger.has_unacked(), "it would only come again");

    context.ledger.begin_epoch();
    let again = work_of_the_epoch(&context);
    indexer
        .cast(IndexerMessage::Index(Box::new(again)))
        .unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(run.store.position(), 7);
    assert!(context.ledger.is_idle());
    indexer.stop(None);
}
