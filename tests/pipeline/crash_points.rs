//! Ends the process at named points of its work, repeatedly with one database file. Holds
//! invariants 3.3 and 3.4.

use fastrand::Rng;
use huddle_firehose::testing::fault::Point;
use test_support::mock_relay::{relay_with, unhurried};
use test_support::recorded_frames::{frames, last_seq};
use test_support::running_worker::undisturbed;
use test_support::tables::{Database, assert_same_tables, migrations};
use test_support::waiting::soon;

use crate::child::{Orders, ended_itself};
use crate::crash::{crashes, seeded};
use crate::history::History;

/// The default; `HUDDLE_CRASHES` sets another number.
const CRASHES: u32 = 60;

const POINTS: [Point; 11] = [
    Point::ConnectionRead,
    Point::CursorCheckpointed,
    Point::DrainSettled,
    Point::DrainCheckpointed,
    Point::FilterPassedOn,
    Point::IndexerCommitted,
    Point::IndexerSettled,
    Point::StoreBegun,
    Point::StoreWriting,
    Point::StoreCommitting,
    Point::StoreCommitted,
];

/// The lengths of SQLite's log at which a commit checkpoints it: in nearly every commit, or in
/// none.
const CHECKPOINT_PAGES: [u32; 2] = [4, 10_000];

/// One database file and its cursor.
struct Victim {
    database: Database,
    cursor: u64,
}

impl Victim {
    fn new() -> Self {
        Self {
            database: Database::new(),
            cursor: 0,
        }
    }

    /// Starts a process that dies at `point`, and checks the file. Returns whether it died there;
    /// otherwise it has reached the end before.
    async fn dies(
        &mut self,
        mut orders: Orders,
        point: Point,
        pass: u32,
        history: &History,
    ) -> bool {
        orders.dies_at = Some((format!("{point:?}"), pass));
        println!("at {}: {orders:?}", self.cursor);
        let ended = soon(orders.start().wait()).await.unwrap();
        let cursor = history.assert_whole(&self.database).await;
        assert!(cursor >= self.cursor, "the cursor went back");
        self.cursor = cursor;
        assert!(ended_itself(ended) || ended.success(), "{ended}");
        ended_itself(ended)
    }
}

fn pass(rng: &mut Rng, point: Point) -> u32 {
    match point {
        Point::DrainSettled | Point::DrainCheckpointed => 1,
        Point::StoreWriting => rng.u32(1..=20),
        // The worker begins three transactions before it reads the first event.
        Point::StoreBegun | Point::StoreCommitting | Point::StoreCommitted => rng.u32(1..=8),
        _ => rng.u32(1..=5),
    }
}

#[tokio::test]
async fn a_process_that_dies_at_any_point_leaves_whole_events_and_loses_nothing() {
    let mut rng = seeded();
    let frames = frames();
    let end = last_seq(&frames);
    let relay = relay_with(frames, unhurried()).await;
    let history = History::recorded().await;

    let mut victim = Victim::new();
    let (mut crashed, crashes) = (0, crashes(CRASHES));
    while crashed < crashes {
        let mut points = POINTS;
        rng.shuffle(&mut points);
        for point in points {
            let is_draining = matches!(point, Point::DrainSettled | Point::DrainCheckpointed);
            // The drain begins early, in the middle of the work.
            let until = if is_draining { victim.cursor + 1 } else { end };
            let mut orders = Orders::new(&relay, &victim.database, until.min(end));
            orders.checkpoint_pages = CHECKPOINT_PAGES[rng.usize(..2)];
            let pass = pass(&mut rng, point);
            if victim.dies(orders, point, pass, &history).await {
                crashed += 1;
            } else {
                assert_same_tables(&victim.database.tables().await, undisturbed().await);
                victim = Victim::new();
            }
        }
    }
    let orders = Orders::new(&relay, &victim.database, end);
    assert!(soon(orders.start().wait()).await.unwrap().success());
    assert_same_tables(&victim.database.tables().await, undisturbed().await);
}

#[tokio::test]
async fn a_process_that_dies_between_two_migrations_leaves_whole_ones_and_the_next_goes_on() {
    let relay = relay_with(Vec::new(), unhurried()).await;
    let history = History::recorded().await;
    let mut victim = Victim::new();
    for pass in 1..=migrations() {
        let orders = Orders::new(&relay, &victim.database, 0);
        let dies = victim.dies(orders, Point::StoreMigrating, pass, &history);
        assert!(dies.await, "at the start of migration {pass}");
        if pass > 1 {
            let applied = "SELECT CAST(count(*) AS TEXT) FROM _sqlx_migrations";
            let applied = victim.database.copy().rows(applied).await;
            assert_eq!(applied, [(pass - 1).to_string()]);
        }
    }
    let orders = Orders::new(&relay, &victim.database, 0);
    assert!(soon(orders.start().wait()).await.unwrap().success());
}
