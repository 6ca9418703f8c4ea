//! An actor that fails too often ends the tree, with a reason. Holds invariant 3.5.

use huddle_firehose::config::Config;
use huddle_firehose::supervisor::TreeError;
use huddle_firehose::worker::Role;
use huddle_firehose::worker::WorkerError;
use test_support::mock_relay::{relay_with, unhurried};
use test_support::recorded_frames::{frames, last_seq};
use test_support::running_worker::{Worker, config, undisturbed};
use test_support::tables::{Database, assert_same_tables};
use test_support::waiting::soon;

#[tokio::test]
async fn more_failures_than_the_limit_end_the_tree_and_the_next_one_goes_on() {
    let (frames, database) = (frames(), Database::new());
    let end = last_seq(&frames);
    let relay = relay_with(frames, unhurried()).await;
    let config = Config {
        restart_limit: 2,
        ..config()
    };
    let mut worker = Worker::start_with(config, &relay, database.store().await).await;
    worker.is_amid(60).await;

    worker.kill(Role::Cursor).await;
    worker.kill(Role::Filter).await;
    worker.tree.kill(Role::Filter);
    let error = soon(worker.tree.failed()).await;
    let WorkerError::Tree(TreeError::Meltdown(reason)) = error else {
        panic!("not a meltdown: {error}");
    };
    assert!(
        reason.starts_with("giving up: 3 failures within 60 s, the last one of filter: "),
        "{reason}"
    );

    let worker = Worker::start(&relay, &database).await;
    worker.reaches(end).await;
    worker.drain().await;
    assert_same_tables(&database.tables().await, undisturbed().await);
}
