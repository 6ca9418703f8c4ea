//! The CursorActor between the ledger, the store and whoever asks it.

use std::sync::Arc;
use std::time::Duration;
use test_support::neighbours::arguments_for;

use huddle_firehose::config::{Config, Start};
use huddle_firehose::model::{GapCause, Position};
use huddle_firehose::pipeline::Context;
use huddle_firehose::pipeline::cursor::{CRASH_LOOP, CursorActor, CursorMessage};
use huddle_firehose::source::Resume;
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

    /// A few checkpoints later.
    async fn later(&self) {
        sleep(Duration::from_secs(1)).await;
    }
}

/// Rule 6: no silent gap. A new source is joined where the operator says.
#[tokio::test(start_paused = true)]
async fn a_source_that_is_new_is_joined_where_the_settings_say() {
    for (start, resume) in [(Start::Live, Resume::Live), (Start::Oldest, Resume::Oldest)] {
        let config = Config { start, ..config() };
        let cursor = Cursor::start_with(config, ScriptedStore::empty()).await;
        assert_eq!(cursor.resume().await, Some(resume));
    }
}

/// Rule 6: no silent gap. Joining live leaves one, which the first event brings into the tables.
#[tokio::test(start_paused = true)]
async fn joining_live_begins_an_epoch_with_a_gap() {
    let config = Config {
        start: Start::Live,
        ..config()
    };
    let cursor = Cursor::start_with(config, ScriptedStore::empty()).await;
    cursor.resume().await;
    let epoch = cursor.context.ledger.epoch();
    assert_eq!(epoch.gap, Some(GapCause::StartedLive));
}

/// Rule 6: no silent gap. The last event is asked for once more, to see that it is still the same.
#[tokio::test(start_paused = true)]
async fn a_known_source_goes_on_with_the_last_event_and_then_behind_it() {
    let cursor = Cursor::start(ScriptedStore::at(at(7))).await;
    assert_eq!(cursor.resume().await, Some(Resume::With(7)));
    assert_eq!(cursor.resume().await, Some(Resume::After(7)));
    let lease = lease(&cursor.context, 8);
    assert_eq!(cursor.resume().await, Some(Resume::With(8)));
    lease.ack(at(8));
}

/// Rule 8: nothing waits forever. Whoever asks is told that there is no answer.
#[tokio::test(start_paused = true)]
async fn there_is_no_answer_while_the_database_cannot_say() {
    let cursor = Cursor::start(ScriptedStore::at(at(7))).await;
    cursor.store.set_down(true);
    assert_eq!(cursor.resume().await, None);
    assert!(cursor.context.status.snapshot().queue.blocked.is_some());
    cursor.store.set_down(false);
    assert_eq!(cursor.resume().await, Some(Resume::With(7)));
    assert!(cursor.context.status.snapshot().queue.blocked.is_none());
}

/// Rule 1: the cursor never leads.
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

/// Rule 1: a transaction of the indexer has moved the cursor already, so none is written for it.
#[tokio::test(start_paused = true)]
async fn what_a_transaction_made_durable_needs_no_checkpoint() {
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

/// Rule 1: the last checkpoint of a drain says whether it is durable.
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

/// Rule 6: no silent gap.
#[tokio::test(start_paused = true)]
async fn a_cursor_ahead_of_the_source_starts_over_with_a_gap_on_record() {
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

/// Rule 1: the cursor never leads, nor does it move below what is still on its way.
#[tokio::test(start_paused = true)]
async fn a_cursor_ahead_of_the_source_stays_while_anything_is_not_settled() {
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

/// Rule 3: any actor may die anywhere, and so may the process.
#[tokio::test(start_paused = true)]
async fn after_crash_upon_crash_frames_are_handed_out_one_by_one() {
    let store = ScriptedStore::at(at(7));
    store.set_crashes(CRASH_LOOP);
    let cursor = Cursor::start(store).await;
    cursor.resume().await;
    assert!(crate::pipeline_parts::leased(&cursor.context, 8).is_alone);
    assert_eq!(cursor.context.status.snapshot().crashes, CRASH_LOOP);
}

/// Rule 3: a successor takes the ledger as it is.
#[tokio::test(start_paused = true)]
async fn a_new_cursor_actor_does_not_move_a_ledger_that_is_at_work() {
    let cursor = Cursor::start(ScriptedStore::at(at(7))).await;
    cursor.resume().await;
    let lease = lease(&cursor.context, 8);
    cursor.actor.kill();
    eventually("the end of the actor", || {
        cursor.actor.get_status() == ractor::ActorStatus::Stopped
    })
    .await;
    let arguments = arguments_for(&cursor.context);
    let (successor, _) = Actor::spawn(None, CursorActor, arguments).await.unwrap();
    let cursor = Cursor {
        actor: successor,
        ..cursor
    };
    assert_eq!(cursor.resume().await, Some(Resume::With(8)));
    assert!(!lease.is_stale());
}
