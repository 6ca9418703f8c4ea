//! Several consumers of one queue, which are killed, stopped, started and cut off at random while a worker
//! fills it. `TEST_SEED` replays the actions of a run. Holds invariants 10.8 and 10.10.

use std::time::Duration;

use test_support::nats::Queue;
use test_support::postgres::{Schema, assert_consumed};
use test_support::proxy::Proxy;
use test_support::tables::Database;
use test_support::worker_process::Program;
use tokio::process::Command;
use tokio::time::sleep;

use crate::consuming::*;
use crate::effects::*;
use crate::truth::assert_is_true;

const ACTIONS: u32 = 40;

struct Consumers {
    from: String,
    into: String,
    running: Vec<Program>,
}

impl Consumers {
    async fn start(&mut self) {
        if self.running.len() < 3 {
            let program = Program::start(consume(&self.from, &self.into)).await;
            self.running.push(program);
        }
    }

    async fn kill(&mut self, index: usize) {
        if index < self.running.len() {
            self.running.remove(index).child.kill().await.unwrap();
        }
    }

    async fn terminate(&mut self, index: usize) {
        if index < self.running.len() {
            assert!(self.running.remove(index).terminate().await.success());
        }
    }

    /// Stops a process for a time, amid whatever it does.
    async fn stop(&mut self, index: usize, time: Duration) {
        let Some(program) = self.running.get(index) else {
            return;
        };
        let id = program.child.id().unwrap().to_string();
        for (signal, time) in [("-STOP", time), ("-CONT", Duration::ZERO)] {
            let sent = Command::new("kill").args([signal, &id]).status();
            assert!(sent.await.unwrap().success());
            sleep(time).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_its_consumers_each_change_of_the_queue_is_applied() {
    let (Some(queue), Some(schema)) = (Queue::new().await, Schema::new().await) else {
        return;
    };
    let seed = std::env::var("TEST_SEED").ok();
    let seed = seed.map_or_else(|| fastrand::u64(..1_000_000), |seed| seed.parse().unwrap());
    println!("TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let proxy = Proxy::before(queue.server.trim_start_matches("nats://")).await;
    let (relay, database) = (slow_relay(60).await, Database::new());
    let worker = Program::start(produce(&relay, &database, &queue.url())).await;
    let mut consumers = Consumers {
        from: queue.url_at(&format!("nats://{}", proxy.address())),
        into: schema.url(),
        running: Vec::new(),
    };
    consumers.start().await;
    for _ in 0..ACTIONS {
        let index = random.usize(..3);
        match random.u32(..10) {
            0 | 1 => consumers.kill(index).await,
            2 => consumers.terminate(index).await,
            3 => {
                let time = Duration::from_millis(random.u64(..4000));
                consumers.stop(index, time).await;
            }
            4 => proxy.cut(),
            5 => _ = schema.end_sinks().await,
            _ => consumers.start().await,
        }
        sleep(Duration::from_millis(random.u64(..300))).await;
    }
    drop(worker);
    let mut command = produce(&relay, &database, &queue.url());
    command.args(["--stop-after-idle", "1"]);
    let mut worker = Program::start(command).await;
    consumers.start().await;
    worker.logs("stopped").await;
    assert!(worker.child.wait().await.unwrap().success());
    until_empty(&queue).await;
    assert_is_true(&database, &relay).await;
    assert_consumed(&schema, &database.path()).await;
    assert!(queue.dead_letters().await.is_empty(), "seed {seed}");
}

/// The others have its partitions, and what it had in hand.
#[tokio::test(flavor = "multi_thread")]
async fn consumers_share_the_partitions_and_take_over_those_of_one_that_is_killed() {
    let (Some(queue), Some(schema)) = (Queue::new().await, Schema::new().await) else {
        return;
    };
    let database = Database::new();
    let store = std::sync::Arc::new(database.store().await);
    apply(&store, vec![put(ALICE, "a", 1)], 1).await;
    deliver(&store, &queue).await;
    let mut first = Program::start(consume(&queue.url(), &schema.url())).await;
    until("the first one has all", async || held(&first).await == 4).await;
    let second = Program::start(consume(&queue.url(), &schema.url())).await;
    until("both have two", async || {
        held(&first).await == 2 && held(&second).await == 2
    })
    .await;
    assert_eq!(number(&second, "members").await, 2);
    first.child.kill().await.unwrap();
    until("the second one has all", async || held(&second).await == 4).await;
    let effects = (2..=40).map(|n| put(&format!("did:plc:{n}"), "r", n));
    apply(&store, effects.collect(), 40).await;
    deliver(&store, &queue).await;
    until_empty(&queue).await;
    assert_consumed(&schema, &database.path()).await;
}

async fn held(program: &Program) -> usize {
    let status = program.status().await;
    status["consumption"]["held"].as_array().map_or(0, Vec::len)
}
