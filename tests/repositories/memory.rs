//! The memory that the program needs for a large repository is far less than its size. The real
//! program runs in a process of its own, and the kernel reports its peak. Holds invariant 4.5.

use huddle_firehose::store::plan::ResyncCause;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::store::repo_store::{RepoChange, RepoEvent, RepoStore};
use huddle_firehose::store::sqlite::SqliteStore;
use ipld_core::ipld;
use simulated_network::account::Account;
use simulated_network::car::{address_of, encode};
use simulated_network::http::HttpServer;
use simulated_network::mishap::{Endpoint, Mishap};
use simulated_network::network::Network;
use simulated_network::relay::{Options, Relay};
use simulated_network::repo::Repository;
use simulated_network::shape::Shape;
use tempfile::TempDir;
use test_support::simulation::verified::POLL_INTERVAL;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::measured::{is_skipped, peak_memory, program};
use super::{A, B, C};

const MIB: usize = 1 << 20;
/// Large enough to notice a repository that is held in memory, and small enough for a fast default
/// suite.
const SIZE: usize = 24 * MIB;
/// The memory that the program may need besides the index, for any length of the repository. Half
/// of it is the database's page cache, which a small repository leaves empty. The rest is a few
/// long records at a time, each as CBOR, as JSON and in the database's arguments.
const WORKING_MEMORY: usize = 32 * MIB;
/// Long enough for hundreds of megabytes on any machine. A test that passes does not wait for it.
const SLOT_TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// One record in this many bytes is wanted, and it has the maximal size.
const WANTED_EVERY: usize = 8 * MIB;
const WANTED_TEXT: usize = 1_000_000;
/// All other records are short, as most real ones, which makes the index long.
const UNWANTED_TEXT: usize = 256;

/// The program, and the servers that it uses.
struct Scene {
    network: Arc<Mutex<Network>>,
    http: HttpServer,
    store: SqliteStore,
    program: Child,
    _relay: Relay,
    _directory: TempDir,
}

/// The result of a requested fetch.
#[derive(Debug, sqlx::FromRow)]
struct Resync {
    created: i64,
    bytes: i64,
    error: Option<String>,
}

impl Scene {
    /// Starts the program. The first account has offers, which the relay delivered.
    async fn start() -> Self {
        let shape = Shape {
            accounts: 2,
            ..Shape::default()
        };
        let mut network = Network::new(1, shape);
        network.write(0, &[A, B, C], &[]);
        let network = Arc::new(Mutex::new(network));
        let http = HttpServer::start(network.clone()).await.unwrap();
        let relay = Relay::start_before(http.address(), Options::default())
            .await
            .unwrap();
        relay.append(network.lock().unwrap().log());
        let directory = tempfile::tempdir().unwrap();
        let database_url = format!("sqlite://{}", directory.path().join("huddle.db").display());
        let store = SqliteStore::open(&database_url).await.unwrap();
        let program = program(&relay, &http, &database_url).spawn().unwrap();
        Self {
            network,
            http,
            store,
            program,
            _relay: relay,
            _directory: directory,
        }
    }

    fn account(&self, number: usize) -> Account {
        self.network.lock().unwrap().accounts()[number].clone()
    }

    /// Requests a fetch, like an operator, and waits for its end.
    async fn fetch(&mut self, did: &str) -> Resync {
        let known = Did::parse(did).unwrap();
        let event = RepoEvent::RequestResync {
            cause: ResyncCause::Operator,
        };
        let change = RepoChange::Repo { did: &known, event };
        self.store.change(change).await.unwrap();
        let query = "SELECT created, bytes, error FROM resyncs WHERE did = ? ORDER BY id";
        let deadline = Instant::now() + SLOT_TIMEOUT;
        loop {
            let row = sqlx::query_as(query).bind(did);
            let row: Option<Resync> = row.fetch_optional(self.store.reader()).await.unwrap();
            if let Some(resync) = row {
                assert_eq!(resync.error, None);
                return resync;
            }
            assert_eq!(self.program.try_wait().unwrap(), None, "it has ended");
            assert!(Instant::now() < deadline, "{did} was never fetched");
            sleep(POLL_INTERVAL).await;
        }
    }

    /// The paths and CIDs that the tables have of an account.
    async fn records(&self, did: &str) -> BTreeMap<String, String> {
        let query = "SELECT collection || '/' || rkey, cid FROM records WHERE did = ?";
        let rows: Vec<(String, String)> = sqlx::query_as(query)
            .bind(did)
            .fetch_all(self.store.reader())
            .await
            .unwrap();
        rows.into_iter().collect()
    }

    async fn terminate(mut self) {
        let id = self.program.id().unwrap().to_string();
        let told = Command::new("kill").args(["-TERM", &id]).status();
        assert!(told.await.unwrap().success());
        let ended = timeout(SLOT_TIMEOUT, self.program.wait()).await.unwrap();
        assert!(ended.unwrap().success());
    }
}

/// The size from the environment variable, which is in mebibytes.
fn size() -> usize {
    let asked_for = std::env::var("HUDDLE_LARGE_REPOSITORY").ok();
    asked_for.map_or(SIZE, |mebibytes| mebibytes.parse::<usize>().unwrap() * MIB)
}

/// Builds an account's repository with at least `size` bytes of records, as a CAR. Returns also the
/// wanted records by path.
fn large_repository(account: &Account, size: usize) -> (Bytes, BTreeMap<String, String>) {
    let (mut writes, mut wanted) = (Vec::new(), BTreeMap::new());
    let mut length = 0;
    while length < size {
        let is_wanted = wanted.len() < size.div_ceil(WANTED_EVERY);
        let (collection, text) = match is_wanted {
            true => ("com.huddle.profile", WANTED_TEXT),
            false => ("app.bsky.feed.like", UNWANTED_TEXT),
        };
        let number = writes.len();
        let text = format!("{number} {}", "x".repeat(text));
        let record = encode(&ipld!({ "$type": collection, "text": text }));
        let path = format!("{collection}/{number:013}");
        if is_wanted {
            wanted.insert(path.clone(), address_of(&record).to_string());
        }
        length += record.len();
        writes.push((path, Some(record)));
    }
    let mut repository = Repository::new(&account.did, account.repo.key().clone());
    let rev = account.repo.head().unwrap().rev.clone();
    // The first commit contains all records.
    let commit = repository.apply_blocks(writes, rev);
    (commit.blocks.into(), wanted)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_repository_needs_far_less_memory_than_its_size() {
    if is_skipped() {
        return;
    }
    let size = size();
    let mut scene = Scene::start().await;
    // The memory for a small repository, and for everything before, does not count.
    let small = scene.account(0);
    scene.fetch(&small.did).await;
    let before = peak_memory(&scene.program);

    let large = scene.account(1);
    let building = Instant::now();
    let (car, wanted) = large_repository(&large, size);
    let built = building.elapsed();
    let mishap = Mishap::Body(car);
    scene.http.misbehave(Endpoint::GetRepo, mishap, u64::MAX);
    let fetching = Instant::now();
    let resync = scene.fetch(&large.did).await;
    let growth = peak_memory(&scene.program) - before;
    eprintln!(
        "{size} bytes of records: built in {built:?}, fetched in {:?}; the peak was {before} bytes, and \
         grew by {growth}; {resync:?}",
        fetching.elapsed(),
    );

    assert!(usize::try_from(resync.bytes).unwrap() >= size);
    assert_eq!(usize::try_from(resync.created).unwrap(), wanted.len());
    assert_eq!(scene.records(&large.did).await, wanted);
    // The index takes 16 bytes for each block. The shortest blocks have 128 bytes on average, so it
    // takes an eighth of the size.
    let bound = WORKING_MEMORY + size / 8;
    assert!(growth < bound, "it grew by {growth} bytes, of {bound}");
    scene.terminate().await;
}
