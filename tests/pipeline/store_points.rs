//! Faults inside a transaction of the real store: it is rolled back or was durable, and nothing is
//! lost in both cases. Holds invariants 1.1 and 3.4.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use huddle_firehose::store::sqlite::{Options, SqliteStore};
use huddle_firehose::telemetry::status::ActorState;
use huddle_firehose::testing::fault::{Fault, FaultPlan, Faults, Point};
use huddle_firehose::worker::Role;
use test_support::mock_relay::{relay_with, unhurried};
use test_support::observed_source::Observed;
use test_support::recorded_frames::{frames, last_seq};
use test_support::running_worker::{Worker, config, undisturbed};
use test_support::tables::{Database, assert_same_tables, migrations};
use test_support::waiting::eventually;

/// Strikes once, at one pass of a point.
pub(crate) struct Once {
    pub(crate) point: Point,
    pub(crate) pass: u32,
    pub(crate) fault: Fault,
    passed: AtomicU32,
}

impl Once {
    pub(crate) fn new(point: Point, pass: u32, fault: Fault) -> Arc<Self> {
        Arc::new(Self {
            point,
            pass,
            fault,
            passed: AtomicU32::new(0),
        })
    }

    pub(crate) fn has_struck(&self) -> bool {
        self.passed.load(Ordering::SeqCst) >= self.pass
    }
}

impl FaultPlan for Once {
    fn strike(&self, point: Point) -> Option<Fault> {
        let strikes =
            point == self.point && self.passed.fetch_add(1, Ordering::SeqCst) + 1 == self.pass;
        strikes.then_some(self.fault)
    }
}

async fn assert_survived(point: Point, fault: Fault) {
    let (frames, database) = (frames(), Database::new());
    let end = last_seq(&frames);
    let relay = relay_with(frames, unhurried()).await;
    let plan = Once::new(point, 9, fault);
    let options = Options {
        faults: Faults::planned(plan.clone()),
        ..Options::default()
    };
    let store = SqliteStore::open_with(&database.url(), options).await;
    let worker = Worker::start_at(
        config(),
        Observed::at(&relay),
        store.unwrap(),
        Faults::default(),
    )
    .await;
    eventually("the fault", || plan.has_struck()).await;
    if fault == Fault::Stall {
        // The supervisor kills an actor that hangs. A short limit keeps the test fast.
        for role in [Role::Indexer, Role::Cursor] {
            worker.kill(role).await;
        }
    }
    worker.reaches(end).await;
    for (name, actor) in worker.status().actors {
        assert_eq!(actor.state, ActorState::Running, "{name}");
    }
    assert!(worker.status().queue.blocked.is_none());
    worker.drain().await;
    assert_same_tables(&database.tables().await, undisturbed().await);
}

macro_rules! survived {
    ($($name:ident: $point:ident;)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            for fault in [Fault::Error, Fault::Panic, Fault::Stall] {
                assert_survived(Point::$point, fault).await;
            }
        })*
    };
}

survived! {
    a_transaction_that_fails_once_begun_is_done_again: StoreBegun;
    a_transaction_that_fails_between_two_statements_is_done_again: StoreWriting;
    a_transaction_that_fails_before_its_commit_is_done_again: StoreCommitting;
    a_transaction_that_fails_after_its_commit_changes_nothing_the_second_time: StoreCommitted;
}

#[tokio::test]
async fn a_migration_that_fails_is_an_error_at_the_start_and_the_next_start_goes_on() {
    let database = Database::new();
    let options = Options {
        faults: Faults::planned(Once::new(Point::StoreMigrating, 5, Fault::Error)),
        ..Options::default()
    };
    let refused = SqliteStore::open_with(&database.url(), options).await;
    let error = refused.unwrap_err().to_string();
    assert!(
        error.contains("injected error at StoreMigrating"),
        "{error}"
    );
    let applied = "SELECT CAST(count(*) AS TEXT) FROM _sqlx_migrations";
    assert_eq!(database.rows(applied).await, ["4"]);
    drop(database.store().await);
    assert_eq!(database.rows(applied).await, [migrations().to_string()]);
}
