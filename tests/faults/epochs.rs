//! What a stage takes that has only just started.

use std::sync::Arc;
use std::time::Duration;

use huddle_firehose::actors::batch::DecodedBatch;
use huddle_firehose::actors::indexer::{IndexerActor, IndexerMessage};
use huddle_firehose::actors::{Context, Parts};
use huddle_firehose::fault::Faults;
use huddle_firehose::queue::accumulator::IndexWork;
use huddle_firehose::source::Position;
use huddle_firehose::supervision::progress::Progress;
use huddle_firehose::worker;
use ractor::Actor;

use crate::config;
use crate::model::Model;
use crate::schedule::Schedule;
use crate::script::ScriptedSource;
use crate::store::ModelStore;

/// The first batch of a ledger that holds one, as work without effects.
fn work_of_the_epoch(context: &Arc<Context>) -> IndexWork<DecodedBatch> {
    let batch = context.ledger.lease_next().unwrap();
    let position = Position { seq: 7, time: None };
    IndexWork {
        duty: DecodedBatch {
            numbers: batch.frames.numbers(),
            received_at: batch.received_at,
            lease: batch.lease,
            items: Vec::new(),
            last: Some(position),
            charge: context.budget.charge(0),
        },
        effects: Vec::new(),
        marks: Vec::new(),
        position,
        sequence_restarted: false,
        is_suspect: false,
    }
}

/// What its predecessor held is lacking in the epoch in which the predecessor died.
#[tokio::test(start_paused = true)]
async fn a_new_indexer_takes_nothing_of_the_epoch_in_which_the_old_one_died() {
    let model = Arc::new(Model::of_recording());
    let schedule = Arc::new(Schedule::default());
    let store = Arc::new(ModelStore::new(model.clone(), schedule));
    let source = Arc::new(ScriptedSource::new(model.frames.clone(), 0));
    let config = config(0);
    let context = Context::new(Parts {
        rules: worker::rules(&config, source.as_ref()).unwrap(),
        config,
        source,
        store: store.clone(),
        listener: None,
        faults: Faults::default(),
    });
    context.ledger.restart_at(Position::default(), None);
    let frames = vec![model.frames[0].clone()];
    let charge = context.budget.charge(frames[0].len());
    context.ledger.enter(frames, Some(7), charge);

    let late = work_of_the_epoch(&context);
    let arguments = (context.clone(), Progress::new());
    let (indexer, _) = Actor::spawn(None, IndexerActor, arguments).await.unwrap();
    indexer.cast(IndexerMessage::Index(Box::new(late))).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(store.position(), 0, "work of the old epoch was applied");
    assert!(!context.ledger.has_owed(), "it would only come again");

    context.ledger.begin_epoch();
    let again = work_of_the_epoch(&context);
    indexer
        .cast(IndexerMessage::Index(Box::new(again)))
        .unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(store.position(), 7);
    assert!(context.ledger.is_idle());
    indexer.stop(None);
}
