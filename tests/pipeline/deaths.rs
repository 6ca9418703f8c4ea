//! Actors that die in the middle of the recording: nobody else does, and the tables are the same.

use std::time::Duration;

use bytes::Bytes;
use huddle_firehose::config::Config;
use huddle_firehose::delivery::segment::Segment;
use huddle_firehose::telemetry::status::ActorState;
use huddle_firehose::worker::Role;
use sqlx::Executor;
use test_support::mock_relay::{relay_with, unhurried};
use test_support::recorded_frames::{frames, last_seq};
use test_support::running_worker::{Worker, config, undisturbed};
use test_support::tables::{Database, assert_same_tables};
use test_support::waiting::eventually;

/// Kills each of `roles` once, waiting for one to be back before the next.
async fn assert_survived(roles: &[Role]) {
    let (mut frames, database) = (frames(), Database::new());
    let end = last_seq(&frames);
    // Sent only once all are back, so that they are seen at work.
    let last = frames.pop().unwrap();
    let relay = relay_with(frames, unhurried()).await;
    let worker = Worker::start(&relay, &database).await;
    worker.is_amid(60).await;

    for &role in roles {
        worker.kill(role).await;
    }
    relay.push(last);
    worker.reaches(end).await;

    worker.assert_restarted(roles);
    worker.drain().await;
    assert_same_tables(&database.tables().await, undisturbed().await);
}

macro_rules! survived {
    ($($name:ident: $role:expr;)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            assert_survived(&[$role]).await;
        })*
    };
}

survived! {
    a_dead_connection_is_restarted_and_nothing_is_lost: Role::Connection;
    a_dead_cursor_is_restarted_and_nothing_is_lost: Role::Cursor;
    a_dead_filter_is_restarted_and_nothing_is_lost: Role::Filter;
    a_dead_housekeeping_is_restarted_and_nothing_is_lost: Role::Housekeeping;
    a_dead_indexer_is_restarted_and_nothing_is_lost: Role::Indexer;
    one_dead_decoder_is_restarted_and_nothing_is_lost: Role::Decoder(0);
    the_other_dead_decoder_is_restarted_and_nothing_is_lost: Role::Decoder(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_them_die_one_after_another_and_nothing_is_lost() {
    assert_survived(&[
        Role::Connection,
        Role::Housekeeping,
        Role::Decoder(0),
        Role::Decoder(1),
        Role::Filter,
        Role::Indexer,
        Role::Cursor,
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_indexer_that_dies_while_the_database_is_locked_loses_nothing() {
    let (frames, database) = (frames(), Database::new());
    let end = last_seq(&frames);
    let relay = relay_with(frames, unhurried()).await;
    let worker = Worker::start_with(config(), &relay, database.impatient_store().await).await;
    worker.is_amid(60).await;

    let mut lock = database.lock().await;
    eventually("the lock is noticed", || {
        worker.status().queue.blocked.is_some()
    })
    .await;
    worker.kill(Role::Indexer).await;
    lock.execute("ROLLBACK").await.unwrap();

    worker.reaches(end).await;
    worker.assert_restarted(&[Role::Indexer]);
    assert!(worker.status().queue.blocked.is_none());
    worker.drain().await;
    assert_same_tables(&database.tables().await, undisturbed().await);
}

/// A worker that has applied a few frames, and whose `role` has just ended and stays down.
async fn without(role: Role) -> Worker {
    let (mut frames, database) = (frames(), Database::new());
    frames.truncate(20);
    let end = last_seq(&frames);
    let relay = relay_with(frames, unhurried()).await;
    let restart = Duration::from_secs(600);
    let config = Config {
        restart_min: restart,
        restart_max: restart,
        ..config()
    };
    let worker = Worker::start_with(config, &relay, database.store().await).await;
    worker.reaches(end).await;
    worker.tree.kill(role);
    eventually("it is down", || {
        worker.status().actors[&role.to_string()].state == ActorState::BackingOff
    })
    .await;
    worker
}

#[tokio::test]
async fn an_actor_that_has_ended_is_found_by_nobody() {
    for role in [Role::Cursor, Role::Filter, Role::Indexer] {
        let worker = without(role).await;
        let context = worker.tree.context();
        let is_gone = match role {
            Role::Cursor => context.cursor.current().is_none(),
            Role::Filter => context.filter.current().is_none(),
            _ => context.indexer.current().is_none(),
        };
        assert!(is_gone, "{role}");
    }
}

/// No decoder runs between the two calls, since the runtime has one thread.
#[tokio::test]
async fn nothing_is_decoded_while_a_stage_that_keeps_the_order_is_down() {
    for role in [Role::Filter, Role::Indexer] {
        let worker = without(role).await;
        let context = worker.tree.context();
        let frame = Segment::Frame(Bytes::from_static(b"a frame"));
        let charge = context.budget.charge(0);
        context.ledger.enter(vec![frame], None, charge);
        assert!(context.ledger.lease_next().is_none(), "{role}");
    }
}
