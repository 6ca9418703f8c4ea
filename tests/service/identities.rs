//! Identities across restarts of the real program, which is killed. Holds invariant 9.14.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use huddle_firehose::store::identity_store::IdentityStore;
use huddle_firehose::store::sqlite::{Access, Options, SqliteStore};
use simulated_network::http::HttpServer;
use simulated_network::mishap::{Endpoint, Mishap};
use simulated_network::network::Network;
use simulated_network::relay::{self, Relay};
use simulated_network::shape::Shape;
use tempfile::TempDir;
use test_support::waiting::SLOT_TIMEOUT;
use test_support::worker_process::{Program, command};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

const OFFERS: [&str; 3] = [
    "com.huddle.slotOffer/key-0",
    "com.huddle.slotOffer/key-1",
    "com.huddle.slotOffer/key-2",
];

/// A network with its relay and its directory, and the folder of a worker.
struct World {
    network: Arc<Mutex<Network>>,
    relay: Relay,
    http: HttpServer,
    folder: TempDir,
}

impl World {
    async fn new() -> Self {
        let shape = Shape {
            accounts: 2,
            ..Shape::default()
        };
        let network = Arc::new(Mutex::new(Network::new(1, shape)));
        let http = HttpServer::start(network.clone()).await.unwrap();
        let relay = Relay::start_before(http.address(), relay::Options::default());
        let relay = relay.await.unwrap();
        relay.append(network.lock().unwrap().log());
        Self {
            network,
            relay,
            http,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn database_url(&self) -> String {
        format!(
            "sqlite://{}",
            self.folder.path().join("huddle.db").display()
        )
    }

    async fn start(&self) -> Program {
        let mut command = Command::from(command(env!("CARGO_BIN_EXE_huddle-firehose")));
        command
            .args([
                "run",
                "--listen",
                "127.0.0.1:0",
                "--allow-private-addresses",
            ])
            .args(["--source-url", &self.relay.url()])
            .args(["--plc-url", &self.http.url()])
            .args(["--database-url", &self.database_url()]);
        Program::start(command).await
    }

    /// Changes the network, and waits until the events are durable.
    async fn tell(&self, program: &Program, happen: impl FnOnce(&mut Network)) {
        let last = {
            let mut network = self.network.lock().unwrap();
            let before = network.log().len();
            happen(&mut network);
            self.relay.append(&network.log()[before..]);
            network
                .log()
                .iter()
                .filter_map(|entry| entry.seq)
                .next_back()
        };
        let url = self.relay.url();
        until(async || {
            let status = program.status().await;
            let applied = &status["sources"].as_object().unwrap();
            let applied = applied
                .values()
                .next()
                .map(|source| &source["applied"]["seq"]);
            assert!(!applied.is_some_and(serde_json::Value::is_null), "{url}");
            applied.and_then(serde_json::Value::as_u64) == last
        })
        .await;
    }

    async fn store(&self) -> SqliteStore {
        let options = Options {
            access: Access::Read,
            ..Options::default()
        };
        let opened = SqliteStore::open_with(&self.database_url(), options).await;
        opened.unwrap()
    }

    /// The DIDs of the stored identities.
    async fn stored(&self) -> Vec<String> {
        let stored = self.store().await.load_identities(100).await.unwrap();
        let dids = stored
            .into_iter()
            .map(|stored| stored.identity.did.to_string());
        dids.collect()
    }

    async fn until_visible(&self, records: i64) {
        until(async || {
            let store = self.store().await;
            let count = sqlx::query_scalar("SELECT count(*) FROM visible_records");
            let count: i64 = count.fetch_one(store.reader()).await.unwrap();
            count == records
        })
        .await;
    }

    fn did(&self, number: usize) -> String {
        self.network.lock().unwrap().accounts()[number].did.clone()
    }
}

async fn until(is_so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + SLOT_TIMEOUT;
    while !is_so().await {
        assert!(Instant::now() < deadline, "never came to pass");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn kill(program: &mut Program) {
    program.child.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_knows_its_accounts_again_but_no_key_that_an_event_has_voided() {
    let world = World::new().await;
    let mut program = world.start().await;
    world
        .tell(&program, |network| {
            network.write(0, &[OFFERS[0]], &[]);
            network.write(1, &[OFFERS[0]], &[]);
        })
        .await;
    world.until_visible(2).await;
    until(async || world.stored().await.len() == 2).await;
    kill(&mut program).await;

    // The directory fails, and is not needed.
    let mishap = Mishap::Status(503);
    world
        .http
        .misbehave(Endpoint::DidDocument, mishap, u64::MAX);
    let mut program = world.start().await;
    world
        .tell(&program, |network| {
            network.write(0, &[OFFERS[1]], &[]);
            network.write(1, &[OFFERS[1]], &[]);
        })
        .await;
    world.until_visible(4).await;

    world
        .tell(&program, |network| network.emit_empty_identity(0))
        .await;
    kill(&mut program).await;
    assert_eq!(world.stored().await, [world.did(1)]);

    // Only the account of the event waits for the directory.
    let program = world.start().await;
    world
        .tell(&program, |network| {
            network.write(0, &[OFFERS[2]], &[]);
            network.write(1, &[OFFERS[2]], &[]);
        })
        .await;
    world.until_visible(5).await;
    world.http.behave(Endpoint::DidDocument);
    world.until_visible(6).await;
}
