//! Tests the CursorActor between the ledger, the store and its callers.

use std::sync::Arc;
use std::time::Duration;
use test_support::neighbours::arguments_for;

use huddle_firehose::config::{Config, Start};
use huddle_firehose::model::{GapCause, Position};
use huddle_firehose::pipeline::Context;
use huddle_firehose::pipeline::cursor::{CRASH_LOOP, CursorActor, CursorMessage};
use huddle_firehose::source::Resume;
use jiff::Timestamp;
use ractor::rpc::CallResult;
use ractor::{Actor, ActorRef, RpcReplyPort};
use test_support::neighbours;
use test_support::running_worker::config;
use test_support::scripted_source::ScriptedSource;
use test_support::scripted_store::ScriptedStore;
use test_support::waiting::eventually;
use tokio::time::sleep;

use crate::pipeline_parts::{at, lease};

const LONG: Duration = Duration::from_secs(600);

struct Cursor {
    context: Arc<Context>,
    store: Arc<ScriptedStore>,
    actor: ActorRef<CursorMessage>,
}

impl Cursor {
    async fn start(store: Arc<ScriptedStore>) -> Self {
        Self::start_with(config(), store).await
    }

    async fn start_with(config: Config, store: Arc<ScriptedStore>) -> Self {
        let context = neighbours::context(config, ScriptedSource::new([]), store.clone());
        let arguments = arguments_for(&context);
        let (actor, _) = Actor::spawn(None, CursorActor, arguments).await.unwrap();
        Self {
            context,
            store,
            actor,
        }
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(RpcReplyPort<T>) -> CursorMessage,
    ) -> T {
        match self.actor.call(question, Some(LONG)).await.unwrap() {
            CallResult::Success(answer) => answer,
            other => panic!("{}", matches!(other, CallResult::Timeout)),
        }
    }

    async fn resume(&self) -> Option<Resume> {
        self.ask(CursorMessage::Resume).await
    }

    /// Waits for a few checkpoints.
    async fn later(&self) {
        sleep(Duration::from_secs(1)).await;
    }
}

/// Holds invariant 6.1: the operator decides where a new source begins.
#[tokio::test(start_paused = true)]
async fn a_new_source_begins_where_the_settings_say() {
    for (start, resume) in [(Start::Live, Resume::Live), (Start::Oldest, Resume::Oldest)] {
        let config = Config { start, ..config() };
        let cursor = Cursor::start_with(config, ScriptedStore::empty()).await;
        assert_eq!(cursor.resume().await, Some(resume));
    }
}

/// Holds invariant 6.1: a start at the live end is a gap. The first event records it.
#[tokio::test(start_paused = true)]
async fn a_start_at_the_live_end_begins_an_epoch_with_a_gap() {
    let config = Config {
        start: Start::Live,
        ..config()
    };
    let cursor = Cursor::start_with(config, ScriptedStore::empty()).await;
    cursor.resume().await;
    let epoch = cursor.context.ledger.epoch();
    assert_eq!(epoch.gap, Some(GapCause::StartedLive));
}

/// Holds invariant 6.3: the last event is requested again, to check that it is still the same.
#[tokio::test(start_paused = true)]
async fn a_known_source_resumes_once_with_the_last_event_and_then_after_it() {
    let cursor = Cursor::start(ScriptedStore::at(at(7))).await;
    assert_eq!(cursor.resume().await, Some(Resume::With(7)));
    assert_eq!(cursor.resume().await, Some(Resume::After(7)));
    let lease = lease(&cursor.context, 8);
    assert_eq!(cursor.resume().await, Some(Resume::With(8)));
    lease.ack(at(8));
}

/// Holds invariant 8: a caller always gets an answer.
#[tokio::test(start_paused = true)]
async fn there_is_no_resume_point_while_the_database_cannot_be_read() {
    let cursor = Cursor::start(ScriptedStore::at(at(7))).await;
    cursor.store.set_down(true);
    assert_eq!(cursor.resume().await, None);
    assert!(cursor.context.status.snapshot().queue.blocked.is_some());
    cursor.store.set_down(false);
    assert_eq!(cursor.resume().await, Some(Resume::With(7)));
    assert!(cursor.context.status.snapshot().queue.blocked.is_none());
}

/// Holds invariant 1.3.
#[tokio::test(start_paused = true)]
async fn a_checkpoint_is_the_low_watermark_and_not_what_was_received() {
    let cursor = Cursor::start(ScriptedStore::empty()).await;
    cursor.resume().await;
    let [first, second, third] = [1, 2, 3].map(|seq| lease(&cursor.context, seq));
    first.ack(at(1));
    third.ack(at(3));
    cursor.later().await;
    assert_eq!(cursor.store.cursor(), at(1));
    second.ack(at(2));
    cursor.later().await;
    assert_eq!(cursor.store.cursor(), at(3));
}

/// Holds invariant 1.1: a transaction of the indexer moves the cursor too, so no checkpoint is due.
#[tokio::test(start_paused = true)]
async fn a_cursor_that_a_transaction_wrote_needs_no_checkpoint() {
    let cursor = Cursor::start(ScriptedStore::empty()).await;
    cursor.resume().await;
    let lease = lease(&cursor.context, 1);
    cursor.actor.cast(CursorMessage::Applied(at(1))).unwrap();
    lease.ack(at(1));
    cursor.later().await;
    assert_eq!(cursor.store.tries(), []);
    let sources = cursor.context.status.snapshot().sources;
    assert_eq!(sources.values().next().unwrap().applied.seq, 1);
}

/// Holds invariant 3.6: the last checkpoint of a drain answers whether it is durable.
#[tokio::test(start_paused = true)]
async fn finishing_is_confirmed_once_the_watermark_is_durable() {
    let cursor = Cursor::start(ScriptedStore::empty()).await;
    cursor.resume().await;
    lease(&cursor.context, 1).ack(at(1));
    cursor.store.set_down(true);
    assert!(!cursor.ask(CursorMessage::Finish).await);
    cursor.store.set_down(false);
    assert!(cursor.ask(CursorMessage::Finish).await);
    assert_eq!(cursor.store.cursor(), at(1));
}

/// Holds invariant 6.1.
#[tokio::test(start_paused = true)]
async fn a_future_cursor_starts_over_and_records_a_gap() {
    let cursor = Cursor::start(ScriptedStore::at(at(7))).await;
    cursor.resume().await;
    cursor.actor.cast(CursorMessage::FutureCursor).unwrap();
    assert_eq!(cursor.resume().await, Some(Resume::Oldest));
    assert_eq!(cursor.store.cursor(), Position::default());
    let [gap] = &cursor.store.gaps()[..] else {
        panic!("one gap is on record");
    };
    assert_eq!((gap.cause, gap.from_seq), (GapCause::FutureCursor, 7));
}

/// Holds invariant 1.4: the cursor does not move below events that are not acked.
#[tokio::test(start_paused = true)]
async fn a_future_cursor_stays_while_anything_is_unacked() {
    let cursor = Cursor::start(ScriptedStore::at(at(7))).await;
    cursor.resume().await;
    let lease = lease(&cursor.context, 8);
    cursor.actor.cast(CursorMessage::FutureCursor).unwrap();
    cursor.resume().await;
    assert_eq!(
        (cursor.store.cursor(), cursor.store.gaps()),
        (at(7), vec![])
    );
    lease.ack(at(8));
    cursor.actor.cast(CursorMessage::FutureCursor).unwrap();
    cursor.resume().await;
    assert_eq!(cursor.store.gaps().len(), 1);
}

/// Holds invariants 3.3 and 5.3.
#[tokio::test(start_paused = true)]
async fn after_repeated_crashes_frames_are_handed_out_one_by_one() {
    let store = ScriptedStore::at(at(7));
    store.set_crashes(CRASH_LOOP);
    let cursor = Cursor::start(store).await;
    cursor.resume().await;
    assert!(crate::pipeline_parts::leased(&cursor.context, 8).is_alone);
    assert_eq!(cursor.context.status.snapshot().unfinished_runs, CRASH_LOOP);
}

impl Cursor {
    /// Kills the actor, and starts another one.
    async fn restart(self) -> Self {
        self.actor.kill();
        eventually("the end of the actor", || {
            self.actor.get_status() == ractor::ActorStatus::Stopped
        })
        .await;
        let arguments = arguments_for(&self.context);
        let (actor, _) = Actor::spawn(None, CursorActor, arguments).await.unwrap();
        Self { actor, ..self }
    }
}

/// A full disk can be read. Only a write tells that writes succeed again.
#[tokio::test(start_paused = true)]
async fn a_new_cursor_actor_that_reads_the_cursor_does_not_say_that_writes_succeed() {
    let cursor = Cursor::start(ScriptedStore::at(at(7))).await;
    cursor.resume().await;
    let status = cursor.context.status.clone();
    let reason = "database or disk is full";
    status.update(|status| {
        status.queue.set_blocked(reason, Timestamp::now());
    });
    let cursor = cursor.restart().await;
    assert_eq!(cursor.resume().await, Some(Resume::With(7)));
    let blocked = || {
        status
            .snapshot()
            .queue
            .blocked
            .map(|blocked| blocked.reason)
    };
    assert_eq!(blocked().as_deref(), Some(reason));
    lease(&cursor.context, 8).ack(at(8));
    cursor.later().await;
    assert_eq!(blocked(), None, "a checkpoint was written");
}

/// Holds invariant 3.2: a new CursorActor keeps the state of the ledger.
#[tokio::test(start_paused = true)]
async fn a_new_cursor_actor_does_not_reposition_the_ledger() {
    let cursor = Cursor::start(ScriptedStore::at(at(7))).await;
    cursor.resume().await;
    let lease = lease(&cursor.context, 8);
    let cursor = cursor.restart().await;
    assert_eq!(cursor.resume().await, Some(Resume::With(8)));
    assert!(!lease.is_stale());
}
