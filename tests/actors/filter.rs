//! Tests the FilterActor between a decoder, the IndexerActor and the CursorActor.

use std::sync::Arc;

use huddle_firehose::config::Config;
use huddle_firehose::model::{GapCause, Position};
use huddle_firehose::pipeline::Context;
use huddle_firehose::pipeline::accumulator::IndexWork;
use huddle_firehose::pipeline::cursor::CursorMessage;
use huddle_firehose::pipeline::filter::FilterActor;
use huddle_firehose::pipeline::indexer::IndexerMessage;
use huddle_firehose::pipeline::messages::DecodedBatch;
use huddle_firehose::store::plan::effect::Effect;
use ractor::{Actor, ActorRef};
use test_support::neighbours::{Neighbour, arguments_for};
use test_support::running_worker::config;

use crate::pipeline_parts::{at, context, decoded, event, leased};

const CHECKPOINT_EVENTS: u64 = 3;

struct Filter {
    context: Arc<Context>,
    actor: ActorRef<DecodedBatch>,
    indexer: Neighbour<IndexerMessage>,
    cursor: Neighbour<CursorMessage>,
}

impl Filter {
    async fn start() -> Self {
        Self::start_before(None).await
    }

    /// With a possible gap before the first event, for this reason.
    async fn start_before(gap: Option<GapCause>) -> Self {
        let (context, _) = context(Config {
            checkpoint_events: CHECKPOINT_EVENTS,
            ..config()
        });
        let indexer = Neighbour::at(&context.indexer).await;
        let cursor = Neighbour::at(&context.cursor).await;
        let arguments = arguments_for(&context);
        let (actor, _) = Actor::spawn(None, FilterActor, arguments).await.unwrap();
        // The CursorActor does this when it has read the cursor: the first epoch begins.
        context.ledger.restart_at(Position::default(), gap);
        Self {
            context,
            actor,
            indexer,
            cursor,
        }
    }

    fn wanted(&self, seq: u64) -> DecodedBatch {
        let batch = leased(&self.context, seq);
        decoded(batch, vec![event(seq)], at(seq))
    }

    fn unwanted(&self, seq: u64) -> DecodedBatch {
        let batch = leased(&self.context, seq);
        decoded(batch, vec![], at(seq))
    }

    fn send(&self, batch: DecodedBatch) {
        self.actor.cast(batch).unwrap();
    }

    async fn next_work(&mut self) -> Box<IndexWork<DecodedBatch>> {
        match self.indexer.next().await {
            IndexerMessage::Index(work) => work,
            other => panic!("{other:?}"),
        }
    }

    fn acked_seq(&self) -> u64 {
        self.context.ledger.acked_through().seq
    }
}

/// Holds invariant 7.1.
#[tokio::test(start_paused = true)]
async fn batches_that_come_out_of_order_reach_the_indexer_in_the_order_of_the_source() {
    let mut filter = Filter::start().await;
    let [first, second, third] = [1, 2, 3].map(|seq| filter.wanted(seq));
    filter.send(third);
    filter.send(second);
    filter.indexer.receives_nothing().await;
    filter.send(first);
    for seq in 1..=3 {
        let work = filter.next_work().await;
        assert_eq!(work.position, at(seq));
        assert_eq!(work.effects, [crate::pipeline_parts::effect(seq)]);
    }
    filter.indexer.receives_nothing().await;
}

/// Holds invariant 1.3: the cursor also moves when nothing has to be written.
#[tokio::test(start_paused = true)]
async fn batches_that_need_nothing_go_to_the_cursor_and_not_to_the_indexer() {
    let mut filter = Filter::start().await;
    for seq in 1..CHECKPOINT_EVENTS {
        filter.send(filter.unwanted(seq));
    }
    filter.cursor.receives_nothing().await;
    filter.send(filter.unwanted(CHECKPOINT_EVENTS));
    assert!(matches!(filter.cursor.next().await, CursorMessage::Acked));
    assert_eq!(filter.acked_seq(), CHECKPOINT_EVENTS);
    filter.indexer.receives_nothing().await;
}

/// Holds invariant 1.3.
#[tokio::test(start_paused = true)]
async fn a_batch_that_needs_nothing_does_not_carry_the_watermark_past_one_that_is_not_durable() {
    let mut filter = Filter::start().await;
    let (wanted, unwanted) = (filter.wanted(1), filter.unwanted(2));
    filter.send(wanted);
    filter.send(unwanted);
    let work = filter.next_work().await;
    filter.indexer.receives_nothing().await;
    assert_eq!(filter.acked_seq(), 0);
    work.batch.lease.ack(work.position);
    assert_eq!(filter.acked_seq(), 2);
}

/// Holds invariant 3.1: the work of an indexer that dies is handed out again.
#[tokio::test(start_paused = true)]
async fn dropped_work_becomes_unacked() {
    let mut filter = Filter::start().await;
    filter.send(filter.wanted(1));
    let work = filter.next_work().await;
    assert!(!filter.context.ledger.has_unacked());
    drop(work);
    assert!(filter.context.ledger.has_unacked());
    assert_eq!(filter.acked_seq(), 0);
}

/// Holds invariant 3.2: without an indexer nothing is lost, and nothing is handed out in a loop.
#[tokio::test(start_paused = true)]
async fn work_without_an_indexer_is_kept_until_the_next_epoch() {
    let mut filter = Filter::start().await;
    filter.context.indexer.clear();
    filter.send(filter.wanted(1));
    filter.indexer.receives_nothing().await;
    let ledger = filter.context.ledger.clone();
    assert!(ledger.lease_next().is_none());
    ledger.begin_epoch();
    assert!(ledger.lease_next().is_some());
}

/// Holds invariant 1.5: a batch of an earlier epoch in the mailbox is handed out again in order.
#[tokio::test(start_paused = true)]
async fn a_batch_of_an_earlier_epoch_is_discarded() {
    let mut filter = Filter::start().await;
    let old = filter.wanted(1);
    filter.context.ledger.begin_epoch();
    let again = filter.context.ledger.lease_next().unwrap();
    let new = decoded(again, vec![event(1)], at(1));
    filter.send(new);
    filter.send(old);
    assert_eq!(filter.next_work().await.position, at(1));
    filter.indexer.receives_nothing().await;
}

/// Holds invariant 6.1.
#[tokio::test(start_paused = true)]
async fn the_first_event_after_a_start_at_the_live_end_records_a_gap() {
    let mut filter = Filter::start_before(Some(GapCause::StartedLive)).await;
    filter.send(filter.unwanted(7));
    let work = filter.next_work().await;
    let [Effect::Gap(gap)] = &work.effects[..] else {
        panic!("{:?}", work.effects);
    };
    assert_eq!(gap.cause, GapCause::StartedLive);
    assert_eq!((gap.from_seq, gap.to_seq), (0, Some(7)));
}
