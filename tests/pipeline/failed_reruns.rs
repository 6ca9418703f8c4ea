//! A stretch is read again while transactions fail, and with frames that harm their reader.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use huddle_firehose::command::Command;
use huddle_firehose::model::{CommandState, Position};
use huddle_firehose::store::sqlite::{Options, SqliteStore};
use huddle_firehose::testing::fault::{Fault, FaultPlan, Faults, Point};
use huddle_firehose::testing::mock_relay::{MockRelay, Options as RelayOptions};
use test_support::commands::{new_command, new_row};
use test_support::mock_relay::relay_with;
use test_support::observed_source::{self, Observed};
use test_support::recorded_frames::{frames, last_seq};
use test_support::running_worker::{Worker, config};
use test_support::tables::Database;
use test_support::waiting::SLOT_TIMEOUT;

use crate::command_deaths::records;
use crate::poison::POISON as PANICS;
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

/// Harms the readers of the frames that have these keys.
struct Harmful {
    hangs: String,
}

impl FaultPlan for Harmful {
    fn strike(&self, _point: Point) -> Option<Fault> {
        None
    }

    #[expect(clippy::disallowed_methods, reason = "on a blocking thread")]
    fn touch(&self, frame: &[u8]) {
        let has = |key: &str| frame.windows(key.len()).any(|part| part == key.as_bytes());
        assert!(!has(PANICS), "injected panic");
        if has(&self.hangs) {
            std::thread::sleep(Duration::from_secs(7));
        }
    }
}

/// Reads the stream again by a worker whose store fails by `plan`.
async fn reread(relay: &MockRelay, end: u64, plan: Arc<Once>, faults: Faults) -> Database {
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
    let worker = Worker::start_with_commands(config(), source, store.clone(), faults).await;
    let rerun = Command::Rerun {
        source: observed_source::id(),
        from: 0,
        to: Some(end),
    };
    let commands = worker.tree.commands().unwrap();
    let row = new_row(commands.submit(&new_command(rerun)).await.unwrap());
    plan.is_given.store(true, Ordering::SeqCst);
    let row = commands.ended(row.id, SLOT_TIMEOUT).await.unwrap().unwrap();
    assert_eq!(row.state, CommandState::Done, "{row:?}");
    worker.drain().await;
    database
}

fn never() -> Arc<Once> {
    Once::new(Point::StoreWriting, u32::MAX, Fault::Error)
}

/// A frame that harms its reader becomes a dead letter, and the others are applied. Holds invariant 5.3.
#[tokio::test(flavor = "multi_thread")]
async fn a_rerun_keeps_a_frame_that_makes_its_reader_panic_or_hang_and_goes_on() {
    let frames = frames();
    let end = last_seq(&frames);
    let relay = relay_with(frames, RelayOptions::default()).await;
    let expected = reread(&relay, end, never(), Faults::default()).await;
    let expected = records(&expected).await;
    let mut keys = expected.iter().rev().filter_map(|row| {
        let (_, key) = row.split_once("com.huddle.booking/")?;
        key.split(' ').next()
    });
    let hangs = keys.next().unwrap().to_owned();
    let faults = Harmful {
        hangs: hangs.clone(),
    };
    let found = reread(&relay, end, never(), Faults::planned(Arc::new(faults))).await;
    let mut stranger = found.stranger().await;
    let letters: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT raw FROM dead_letters WHERE stage = 'poison' ORDER BY id")
            .fetch_all(&mut stranger)
            .await
            .unwrap();
    let has =
        |letter: &[u8], key: &str| letter.windows(key.len()).any(|part| part == key.as_bytes());
    for key in [PANICS, &hangs] {
        assert!(letters.iter().any(|letter| has(letter, key)), "{key}");
    }
    let found = records(&found).await;
    let lost: Vec<&String> = expected.iter().filter(|row| !found.contains(row)).collect();
    assert!(!lost.is_empty());
    // A frame has several records.
    for row in lost {
        let key = row.split(' ').next().and_then(|uri| uri.rsplit('/').next());
        let is_kept = |letter: &Vec<u8>| has(letter, key.unwrap());
        assert!(letters.iter().any(is_kept), "{row}");
    }
}

/// The frames of a piece that was not written come again. Holds invariant 13.10.
#[tokio::test(flavor = "multi_thread")]
async fn a_rerun_of_which_a_transaction_fails_leaves_no_frame_out() {
    let frames = frames();
    let end = last_seq(&frames);
    let relay = relay_with(frames, RelayOptions::default()).await;
    let expected = reread(&relay, end, never(), Faults::default()).await;
    let expected = records(&expected).await;
    assert!(expected.len() > 10);
    // The command, its beginning and its pieces are transactions.
    let plans: Vec<_> = (1..=9)
        .map(|pass| Once::new(Point::StoreCommitting, pass, Fault::Error))
        .collect();
    let reads = plans.iter().map(async |plan| {
        let database = reread(&relay, end, plan.clone(), Faults::default()).await;
        records(&database).await
    });
    let all_found = join_all(reads).await;
    for (plan, found) in plans.iter().zip(all_found) {
        assert!(plan.has_struck(), "at pass {}", plan.pass);
        assert_eq!(found, expected, "at pass {}", plan.pass);
    }
}
