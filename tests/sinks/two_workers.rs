//! Two real processes with a database each, behind a relay each, write into one schema. They are killed,
//! stopped, and put back to older copies, at random. Holds invariant 10.6.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use huddle_firehose::testing::mock_relay::{MockRelay, Options};
use test_support::mock_relay::relay_with;
use test_support::postgres::Schema;
use test_support::recorded_frames::frames;
use test_support::tables::{Database, assert_same};
use test_support::worker_process::{self, Program};
use tokio::process::Command;
use tokio::time::sleep;

use crate::truth::assert_is_true;

const PATH: &str = env!("CARGO_BIN_EXE_huddle-firehose");
const ACTIONS: u32 = 24;

struct Worker {
    name: &'static str,
    relay: MockRelay,
    database: Database,
    copy: Option<Database>,
    program: Option<Program>,
}

impl Worker {
    async fn new(name: &'static str) -> Self {
        let options = Options {
            rate: NonZeroU32::new(150),
            ..Options::default()
        };
        Self {
            name,
            relay: relay_with(frames(), options).await,
            database: Database::new(),
            copy: None,
            program: None,
        }
    }

    fn command(&self, schema: &Schema) -> Command {
        let mut command = Command::from(worker_process::command(PATH));
        command
            .args(["run", "--listen", "127.0.0.1:0", "--verify", "none"])
            .args(["--batch-frames", "8", "--index-batch", "10"])
            .args(["--source-url", &self.relay.url()])
            .args(["--database-url", &self.database.url()])
            .args(["--sink", &format!("{}={}", self.name, schema.url())]);
        command
    }

    async fn start(&mut self, schema: &Schema) {
        if self.program.is_none() {
            self.program = Some(Program::start(self.command(schema)).await);
        }
    }

    async fn kill(&mut self) {
        if let Some(mut program) = self.program.take() {
            program.child.kill().await.unwrap();
        }
    }

    /// Stops the process for a moment, amid whatever it does.
    async fn stop_for(&mut self, time: Duration) {
        let Some(program) = &self.program else {
            return;
        };
        let id = program.child.id().unwrap().to_string();
        for (signal, time) in [("-STOP", time), ("-CONT", Duration::ZERO)] {
            let sent = Command::new("kill").args([signal, &id]).status();
            assert!(sent.await.unwrap().success());
            sleep(time).await;
        }
    }

    async fn put_back(&mut self) {
        if let Some(copy) = self.copy.take() {
            self.kill().await;
            self.database.replace_by(&copy);
        }
    }

    async fn act(&mut self, random: &mut fastrand::Rng, schema: &Schema) {
        match random.u32(..6) {
            0 => self.kill().await,
            1 => {
                self.stop_for(Duration::from_millis(random.u64(..400)))
                    .await
            }
            2 if self.program.is_some() => self.copy = Some(self.database.backup().await),
            3 => self.put_back().await,
            _ => self.start(schema).await,
        }
    }

    async fn run_to_the_end(&mut self, schema: &Schema) {
        self.kill().await;
        let mut command = self.command(schema);
        command.args(["--stop-after-idle", "1"]);
        let mut program = Program::start(command).await;
        program.logs("stopped").await;
        assert!(program.child.wait().await.unwrap().success());
    }
}

/// The rev of each record in the sink.
async fn revs(schema: &Schema) -> BTreeMap<String, String> {
    let exists = schema.column("SELECT coalesce(to_regclass('records')::text, '-')");
    if exists.await[0] == "-" {
        return BTreeMap::new();
    }
    let rows = schema.column("SELECT uri || ' ' || rev FROM records").await;
    let rows = rows.iter().filter_map(|row| row.split_once(' '));
    rows.map(|(uri, rev)| (uri.to_owned(), rev.to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_that_fail_at_random_make_one_truth_and_no_row_goes_back() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let mut random = fastrand::Rng::with_seed(7);
    let mut workers = [Worker::new("one").await, Worker::new("two").await];
    let mut known = BTreeMap::new();
    for worker in &mut workers {
        worker.start(&schema).await;
    }
    for _ in 0..ACTIONS {
        let worker = random.usize(..2);
        workers[worker].act(&mut random, &schema).await;
        sleep(Duration::from_millis(random.u64(..200))).await;
        let now = revs(&schema).await;
        for (uri, rev) in &now {
            assert!(known.get(uri) <= Some(rev), "{uri} went back");
        }
        known = now;
    }
    for worker in &mut workers {
        worker.run_to_the_end(&schema).await;
        assert_is_true(&worker.database, &worker.relay).await;
    }
    for (what, sqlite, postgres) in [
        (
            "records",
            "SELECT concat_ws(' ', uri, rev, coalesce(cid, '-'), deleted, seq) FROM records",
            "SELECT concat_ws(' ', uri, rev, coalesce(cid, '-'), deleted, seq) FROM records",
        ),
        (
            "accounts",
            "SELECT concat_ws(' ', did, coalesce(handle, '-'), active, coalesce(status, '-')) \
             FROM accounts WHERE change IS NOT NULL",
            "SELECT concat_ws(' ', did, coalesce(handle, '-'), active, coalesce(status, '-')) \
             FROM accounts",
        ),
        (
            "offers",
            "SELECT concat_ws(' ', uri, rev, title, status, capacity) FROM offers_index",
            "SELECT concat_ws(' ', uri, rev, title, status, capacity) FROM offers_index",
        ),
        (
            "requests",
            "SELECT concat_ws(' ', uri, rev, offer_uri, status) FROM booking_requests",
            "SELECT concat_ws(' ', uri, rev, offer_uri, status) FROM booking_requests",
        ),
        (
            "bookings",
            "SELECT concat_ws(' ', uri, rev, offer_uri, status) FROM bookings",
            "SELECT concat_ws(' ', uri, rev, offer_uri, status) FROM bookings",
        ),
    ] {
        let expected = BTreeSet::from_iter(workers[0].database.rows(sqlite).await);
        let found = BTreeSet::from_iter(schema.column(postgres).await);
        assert_same(what, &found, &expected);
    }
}
