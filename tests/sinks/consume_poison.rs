//! A task that ends the process of each consumer that applies it. Holds invariant 10.10.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use huddle_firehose::config::{Config, Layers};
use huddle_firehose::consume::{self, ConsumeOptions, QueueOptions, TargetOptions};
use huddle_firehose::sink::cloudflare_queue::Outside;
use huddle_firehose::testing::fault::{Fault, FaultPlan, Faults, Point};
use huddle_firehose::worker::Options;
use test_support::nats::Queue;
use test_support::postgres::Schema;
use test_support::tables::Database;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::consuming::*;
use crate::effects::*;
use crate::postgres::tables;

/// How many processes end before the task is set aside: halves of ten, and three alone.
const MOST_ENDS: u32 = 8;

struct Poisoned;

impl FaultPlan for Poisoned {
    fn strike(&self, _point: Point) -> Option<Fault> {
        None
    }

    fn touch(&self, task: &[u8]) {
        if task.windows(8).any(|word| word == b"/poison\"") {
            std::process::abort();
        }
    }
}

/// The process that the next test starts repeatedly. It is not a test by itself.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by the test below"]
async fn a_consumer_that_one_task_aborts() {
    let variable = |name| std::env::var(name).unwrap();
    let config: Config = Layers::new().resolve().unwrap().config;
    let options = Options::from(&config);
    let options = ConsumeOptions {
        from: QueueOptions::parse(&variable("TEST_FROM")).unwrap(),
        into: TargetOptions::parse(&variable("TEST_INTO")).unwrap(),
        outside: Outside {
            plc_url: options.network.plc_url.clone(),
            allow_private_addresses: false,
        },
        retries: 3,
        tables: tables(),
        policy: options.policy,
        thresholds: options.thresholds,
        allowed_hosts: Vec::new(),
        drain_timeout: options.drain_timeout,
    };
    let faults = Faults::planned(Arc::new(Poisoned));
    let _running = consume::start(options, None, faults).await.unwrap();
    std::future::pending::<()>().await;
}

/// Runs a consumer until it ends, or the queue is empty.
async fn run(queue: &Queue, schema: &Schema) -> Option<ExitStatus> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "consume_poison::a_consumer_that_one_task_aborts"])
        .args(["--ignored", "--quiet"])
        .env("TEST_FROM", queue.url())
        .env("TEST_INTO", schema.url())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    loop {
        if let Ok(ended) = timeout(Duration::from_millis(50), child.wait()).await {
            return Some(ended.unwrap());
        }
        if queue.count().await == 0 {
            child.kill().await.unwrap();
            return None;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_ends_its_consumer_is_found_by_halves_and_set_aside_alone() {
    let (Some(queue), Some(schema)) = (Queue::new().await, Schema::new().await) else {
        return;
    };
    let database = Database::new();
    let store = Arc::new(database.store().await);
    let rkey = |n| match n {
        7 => "poison".to_owned(),
        n => format!("r{n}"),
    };
    let effects = (1..=10).map(|n| put(ALICE, &rkey(n), n));
    apply(&store, effects.collect(), 10).await;
    deliver(&store, &queue).await;
    let mut ends = 0;
    while let Some(ended) = run(&queue, &schema).await {
        assert_eq!(ended.signal(), Some(6), "{ended}");
        ends += 1;
        assert!(ends <= MOST_ENDS);
    }
    let letters = queue.dead_letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].body["rkey"], "poison");
    assert!(letters[0].headers["Huddle-Error"].contains("alone in hand"));
    assert_eq!(records(&schema).await, 9);
}
