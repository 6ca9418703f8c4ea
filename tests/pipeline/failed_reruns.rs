//! A stretch is read again while transactions fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use huddle_firehose::command::Command;
use huddle_firehose::model::{CommandState, NewCommand, Position, Submitted};
use huddle_firehose::store::sqlite::{Options, SqliteStore};
use huddle_firehose::testing::fault::{Fault, FaultPlan, Faults, Point};
use huddle_firehose::testing::mock_relay::{MockRelay, Options as RelayOptions};
use test_support::mock_relay::relay_with;
use test_support::observed_source::{self, Observed};
use test_support::recorded_frames::{frames, last_seq};
use test_support::running_worker::{Worker, config};
use test_support::tables::Database;
use test_support::waiting::SLOT_TIMEOUT;

use crate::command_deaths::records;
use crate::store_points::Once;

/// Strikes as another plan does, from the time on at which the command was given.
struct SinceGiven {
    is_given: AtomicBool,
    plan: Arc<Once>,
}

impl FaultPlan for SinceGiven {
    fn strike(&self, point: Point) -> Option<Fault> {
        let is_given = self.is_given.load(Ordering::SeqCst);
        is_given.then(|| self.plan.strike(point)).flatten()
    }
}

/// The records that a worker whose store fails by `plan` has after it has read the stream again.
async fn reread(relay: &MockRelay, end: u64, plan: Arc<Once>) -> Vec<String> {
    let database = Database::new();
    let position = Position {
        seq: end,
        time: None,
    };
    database.move_cursor(position).await;
    let plan = Arc::new(SinceGiven {
        is_given: AtomicBool::new(false),
        plan,
    });
    let options = Options {
        faults: Faults::planned(plan.clone()),
        ..Options::default()
    };
    let store = SqliteStore::open_with(&database.url(), options).await;
    let store = Arc::new(store.unwrap());
    let source = Observed::at(relay);
    let worker =
        Worker::start_with_commands(config(), source, store.clone(), Faults::default()).await;
    let rerun = Command::Rerun {
        source: observed_source::id(),
        from: 0,
        to: Some(end),
    };
    let (kind, arguments) = rerun.into_parts().unwrap();
    let new = NewCommand {
        kind,
        arguments,
        actor: "test".to_owned(),
        reason: None,
        idempotency_key: None,
    };
    let commands = worker.tree.commands().unwrap();
    let Submitted::New(row) = commands.submit(&new).await.unwrap() else {
        panic!("it was not submitted");
    };
    plan.is_given.store(true, Ordering::SeqCst);
    let row = commands.ended(row.id, SLOT_TIMEOUT).await.unwrap().unwrap();
    assert_eq!(row.state, CommandState::Done, "{row:?}");
    worker.drain().await;
    records(&database).await
}

/// The frames of a piece that was not written come again. Holds invariant 13.10.
#[tokio::test(flavor = "multi_thread")]
async fn a_rerun_of_which_a_transaction_fails_leaves_no_frame_out() {
    let frames = frames();
    let end = last_seq(&frames);
    let relay = relay_with(frames, RelayOptions::default()).await;
    let never = || Once::new(Point::StoreWriting, u32::MAX, Fault::Error);
    let expected = reread(&relay, end, never()).await;
    assert!(expected.len() > 10);
    // The command, its beginning and its pieces are transactions.
    let plans: Vec<_> = (1..=9)
        .map(|pass| Once::new(Point::StoreCommitting, pass, Fault::Error))
        .collect();
    let reads = plans.iter().map(|plan| reread(&relay, end, plan.clone()));
    let all_found = join_all(reads).await;
    for (plan, found) in plans.iter().zip(all_found) {
        assert!(plan.has_struck(), "at pass {}", plan.pass);
        assert_eq!(found, expected, "at pass {}", plan.pass);
    }
}
