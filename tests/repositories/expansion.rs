//! Outsiders send few bytes that stand for many. Whatever they send, the program's peak of memory
//! stays within its budget and a constant. The real program runs in a process of its own, and the
//! kernel reports its peak. Holds invariants 4.8, 4.9 and 4.10.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::store::plan::ResyncCause;
use huddle_firehose::store::repo_store::{RepoChange, RepoEvent, RepoStore};
use huddle_firehose::store::sqlite::SqliteStore;
use ipld_core::ipld;
use ipld_core::ipld::Ipld;
use jiff::Timestamp;
use simulated_network::car::{Blocks, address_of, encode, write_car};
use simulated_network::frame::{self, LogEntry, Stamp};
use simulated_network::http::HttpServer;
use simulated_network::mishap::{Endpoint, Mishap};
use simulated_network::network::Network;
use simulated_network::relay::{Options, Relay};
use simulated_network::repo::Repository;
use simulated_network::shape::Shape;
use simulated_network::tid::tid;
use tempfile::TempDir;
use test_support::simulation::verified::POLL_INTERVAL;
use test_support::worker_process::terminate;
use tokio::process::Child;
use tokio::time::{Duration, Instant, sleep};

use super::A;
use super::measured::{is_skipped, peak_memory, program};

const MIB: usize = 1 << 20;
/// The default of the setting `memory_budget`.
const BUDGET: usize = 64 * MIB;
/// The least value of the setting. One repository at a time is fetched with it.
const LEAST_BUDGET: usize = 8 * MIB;
/// What the program takes besides its budget: its code, its threads, and the database's cache.
const BESIDE_THE_BUDGET: usize = 64 * MIB;
/// The number of decoders decides how much is decoded at the same time.
const DECODERS: [usize; 2] = [2, 8];
/// Long enough for the slowest machine. A test that passes does not wait for it.
const PATIENCE: Duration = Duration::from_secs(20 * 60);
const NOTE: &str = "com.huddle.note";

/// The program, the servers that it uses, and an account that attacks it.
struct Scene {
    network: Arc<Mutex<Network>>,
    http: HttpServer,
    relay: Relay,
    store: SqliteStore,
    program: Child,
    attacker: String,
    repository: Repository,
    seq: u64,
    budget: usize,
    _directory: TempDir,
}

impl Scene {
    /// Starts the program with this budget and number of decoders, and waits until it knows all
    /// accounts.
    async fn start(budget: usize, decoders: usize, accounts: usize) -> Self {
        let shape = Shape {
            accounts,
            ..Shape::default()
        };
        let mut network = Network::new(1, shape);
        for account in 0..accounts {
            network.write(account, &[A], &[]);
        }
        let attacker = network.accounts()[0].clone();
        let seq = network.log().iter().filter_map(|entry| entry.seq).max();
        let network = Arc::new(Mutex::new(network));
        let http = HttpServer::start(network.clone()).await.unwrap();
        let relay = Relay::start_before(http.address(), Options::default())
            .await
            .unwrap();
        relay.append(network.lock().unwrap().log());
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("huddle.db").display());
        let store = SqliteStore::open(&url).await.unwrap();
        let program = program(&relay, &http, &url)
            .args(["--decoders", &decoders.to_string()])
            .args(["--memory-budget", &budget.to_string()])
            .spawn()
            .unwrap();
        let mut scene = Self {
            network,
            http,
            relay,
            store,
            program,
            attacker: attacker.did,
            repository: attacker.repo,
            seq: seq.unwrap(),
            budget,
            _directory: directory,
        };
        let known = "SELECT count(*) FROM repos WHERE state = 'synchronized' AND has_parked = 0";
        scene.until(known, accounts).await;
        scene
    }

    /// Waits until the query gives at least `count`.
    async fn until(&mut self, query: &'static str, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found: i64 = sqlx::query_scalar(query)
                .fetch_one(self.store.reader())
                .await
                .unwrap();
            if usize::try_from(found).unwrap() >= count {
                return;
            }
            assert_eq!(self.program.try_wait().unwrap(), None, "it has ended");
            assert!(Instant::now() < deadline, "{found} of {count}: {query}");
            sleep(POLL_INTERVAL).await;
        }
    }

    fn stamp(&mut self) -> Stamp {
        self.seq += 1;
        Stamp {
            seq: self.seq,
            time: "2026-01-01T00:00:00Z".to_owned(),
        }
    }

    fn send(&self, seq: Option<u64>, frame: Bytes) {
        let entry = match seq {
            Some(seq) => LogEntry::numbered(seq, frame),
            None => LogEntry::unnumbered(frame),
        };
        self.relay.append(&[entry]);
    }

    /// Sends one commit that puts `record` at `paths` paths.
    fn commit(&mut self, paths: usize, record: &Ipld) {
        let stamp = self.stamp();
        let (seq, block) = (stamp.seq, encode(record));
        let writes = (0..paths).map(|path| (format!("{NOTE}/{seq}-{path}"), Some(block.clone())));
        // By the clock that the program has too, and later than all revs of the network.
        let now = u64::try_from(Timestamp::now().as_microsecond()).unwrap();
        let commit = self.repository.apply_blocks(writes.collect(), tid(now, 0));
        let frame = frame::commit(stamp, &self.attacker, commit);
        self.send(Some(seq), frame);
    }

    /// Waits until everything before is applied, and ends the program. Asserts that its peak was
    /// within its bound.
    async fn conclude(mut self, attack: &str) {
        let Stamp { seq, time } = self.stamp();
        let last = frame::identity(Stamp { seq, time }, &self.attacker, None);
        self.send(Some(seq), last);
        let cursor = "SELECT max(CAST(cursor AS INTEGER)) FROM firehose_cursor";
        self.until(cursor, usize::try_from(seq).unwrap()).await;
        self.assert_bounded(attack).await;
    }

    async fn assert_bounded(mut self, attack: &str) {
        let peak = peak_memory(&self.program);
        eprintln!("{attack}: the peak was {} MiB", peak / MIB);
        assert!(
            peak <= self.budget + BESIDE_THE_BUDGET,
            "{attack}: {peak} bytes"
        );
        terminate(&self.program).await;
        assert!(self.program.wait().await.unwrap().success());
    }
}

fn text(bytes: usize) -> Ipld {
    ipld!({ "$type": NOTE, "text": "a".repeat(bytes) })
}

/// A byte each, and fourteen as JSON.
fn empty_byte_strings(count: usize) -> Ipld {
    ipld!({ "$type": NOTE, "bytes": vec![Ipld::Bytes(Vec::new()); count] })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_names_one_record_many_times_costs_its_rows_one_by_one() {
    if is_skipped() {
        return;
    }
    for decoders in DECODERS {
        let mut scene = Scene::start(BUDGET, decoders, 2).await;
        // Below the limit every row is kept, and beyond it the commit is a dead letter.
        scene.commit(200, &text(100_000));
        scene.commit(30, &empty_byte_strings(100_000));
        let notes = "SELECT count(*) FROM records WHERE collection = 'com.huddle.note'";
        scene.until(notes, 230).await;
        scene.commit(200, &text(1_000_000));
        let letters = "SELECT count(*) FROM dead_letters WHERE error LIKE '%67108864 are allowed%'";
        scene.until(letters, 1).await;
        scene
            .conclude(&format!("many paths, {decoders} decoders"))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_grow_when_they_become_json_are_written_one_by_one() {
    if is_skipped() {
        return;
    }
    for decoders in DECODERS {
        let mut scene = Scene::start(BUDGET, decoders, 2).await;
        for _ in 0..6 {
            scene.commit(1, &empty_byte_strings(1_000_000));
        }
        let notes = "SELECT count(*) FROM records WHERE collection = 'com.huddle.note' \
                     AND length(record) > 14000000";
        scene.until(notes, 6).await;
        scene
            .conclude(&format!("growing records, {decoders} decoders"))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_tiny_frames_is_charged_for_what_each_becomes() {
    const FRAMES: usize = 60_000;
    if is_skipped() {
        return;
    }
    for decoders in DECODERS {
        let mut scene = Scene::start(BUDGET, decoders, 2).await;
        for number in 0..FRAMES {
            let garbage = Bytes::from(format!("{number:08}"));
            scene.send(None, garbage);
            if number % 4 == 0 {
                let stamp = scene.stamp();
                let seq = stamp.seq;
                let did = format!("did:plc:stranger{number}");
                scene.send(Some(seq), frame::identity(stamp, &did, Some("a.example")));
            }
        }
        scene
            .conclude(&format!("tiny frames, {decoders} decoders"))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_of_many_blocks_wait_for_memory_and_keep_their_index_in_a_file() {
    const REPOSITORIES: usize = 8;
    const BLOCKS: u32 = 100_000;
    if is_skipped() {
        return;
    }
    let mut scene = Scene::start(LEAST_BUDGET, 2, REPOSITORIES).await;
    let mut car = write_car(address_of(b"no commit"), &Blocks::new());
    for number in 0..BLOCKS {
        let block = number.to_be_bytes();
        let section = [address_of(&block).to_bytes().as_slice(), &block].concat();
        // Below 128 a length is one byte.
        car.push(u8::try_from(section.len()).unwrap());
        car.extend(section);
    }
    scene
        .http
        .misbehave(Endpoint::GetRepo, Mishap::Body(car.into()), u64::MAX);
    let accounts = scene.network.lock().unwrap().accounts().to_vec();
    for account in accounts {
        let did = Did::parse(&account.did).unwrap();
        let event = RepoEvent::RequestResync {
            cause: ResyncCause::Operator,
        };
        let change = RepoChange::Repo { did: &did, event };
        scene.store.change(change).await.unwrap();
    }
    let tried = "SELECT count(DISTINCT did) FROM resyncs WHERE cause = 'operator'";
    scene.until(tried, REPOSITORIES).await;
    scene.assert_bounded("many blocks").await;
}
