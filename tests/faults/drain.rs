//! A drain. Holds invariant 3.6.

use std::time::Duration;

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::worker::RunningWorker;

use crate::run::Run;

/// No checkpoint is due in the test, so only the drain can write it.
#[tokio::test(start_paused = true)]
async fn a_drain_writes_the_cursor_behind_events_that_needed_nothing() {
    let mut run = Run::without_faults();
    run.config.collections = vec!["com.nobody.*".parse().unwrap()];
    run.config.dids_allow = vec![Did::parse("did:plc:nobody").unwrap()];
    run.config.checkpoint_interval = Duration::from_secs(100_000);
    run.config.checkpoint_events = u64::MAX;
    run.upstream.say(&run.history.eras[0]);
    let assembly = run.assembly();
    let context = assembly.context.clone();
    let tree = RunningWorker::start(assembly).await.unwrap();
    tree.silence(Duration::from_secs(60)).await;
    assert_eq!(run.store.position(), 0, "written before it had to be");
    let acked = context.ledger.acked_through().seq;
    tree.drain().await.unwrap();
    assert_eq!(acked, run.history.last_seq(0));
    assert_eq!(run.store.position(), acked);
}
