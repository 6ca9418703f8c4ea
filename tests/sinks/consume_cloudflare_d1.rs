//! The whole chain at Cloudflare: a worker, a queue, a consumer, and D1. Holds invariants 10.9 and 10.11.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use test_support::cloudflare_queue::Queue;
use test_support::d1::assert_follows;
use test_support::http_proxy::Fate;
use test_support::tables::Database;
use test_support::worker_process::Program;

use crate::consume_cloudflare::{unruly, until_settled, url, with_letters};
use crate::consume_d1::{records, until_removed};
use crate::consuming::*;
use crate::d1::database;
use crate::truth::assert_is_true;

/// The queue hands out messages in any order and twice, requests to both are lost or answered in vain, and a
/// consumer is killed.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_queue_and_d1_of_cloudflare_do_the_tables_are_those_of_the_worker() {
    let Some(d1) = database().await else {
        return;
    };
    let queue = Queue::start(unruly()).await;
    let requests = Arc::new(AtomicU32::new(0));
    d1.proxy.script(
        move |_| match requests.fetch_add(1, Ordering::Relaxed) % 11 {
            3 => Fate::Lost,
            6 => Fate::AnswerLost,
            _ => Fate::Answered,
        },
    );
    let (relay, database) = (slow_relay(300).await, Database::new());
    let from = with_letters(&url(&queue.origin, database.folder()));
    let mut command = produce(&relay, &database, &url(&queue.origin, database.folder()));
    command.args(["--stop-after-idle", "1"]);
    let mut worker = Program::start(command).await;
    let mut killed = Program::start(consume(&from, &d1.url())).await;
    until("some records are there", async || {
        queue.pass(Duration::from_secs(20));
        records(&d1).await >= 20
    })
    .await;
    killed.child.kill().await.unwrap();
    let _steady = Program::start(consume(&from, &d1.url())).await;
    worker.logs("stopped").await;
    assert!(worker.child.wait().await.unwrap().success());
    until_settled(&queue).await;
    until_removed(&d1).await;
    assert_is_true(&database, &relay).await;
    assert_follows(&d1, &database.path()).await;
    assert!(queue.letters().is_empty() && queue.dead_letters().is_empty());
}
