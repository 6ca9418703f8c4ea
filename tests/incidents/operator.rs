//! Incidents 2 and 16: what an operator sees, and what no one else may see or do. Holds invariant
//! 8.6.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use huddle_firehose::config::{Config, Layers};
use huddle_firehose::source::Source;
use huddle_firehose::source::firehose::websocket::{WebSocketOptions, WebSocketSource};
use huddle_firehose::store::Store;
use huddle_firehose::telemetry::status::ConnectionState;
use huddle_firehose::testing::fault::Faults;
use huddle_firehose::testing::mock_relay::MockRelay;
use huddle_firehose::worker;
use huddle_firehose::worker::{Assembly, Parts, RunningWorker};
use reqwest::{Client, Method, StatusCode};
use sqlx::Executor;
use test_support::connection_losses::Losses;
use test_support::mock_relay::relay;
use test_support::observed_source::Observed;
use test_support::running_worker::config;
use test_support::scripted_server::{Request, Server};
use test_support::tables::Database;
use test_support::waiting::{eventually, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::log_builder::{ANN, LogBuilder};

const PATHS: [&str; 5] = ["/metrics", "/healthz", "/readyz", "/status", "/"];

/// A worker with its endpoints.
struct Operated {
    tree: RunningWorker,
    address: SocketAddr,
}

impl Operated {
    async fn start(config: Config, source: Arc<dyn Source>, store: impl Store) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let options = worker::Options::from(&config);
        let assembly = Assembly::new(Parts {
            rules: worker::rules(&options, source.as_ref()).unwrap(),
            repositories: None,
            options,
            source,
            store: Arc::new(store),
            feed: None,
            views: Arc::default(),
            changes_token: None,
            listener: Some(listener),
            control: None,
            faults: Faults::default(),
        });
        let tree = RunningWorker::start(assembly).await.unwrap();
        Self { tree, address }
    }

    async fn ask(&self, method: Method, path: &str) -> (StatusCode, String) {
        let url = format!("http://{}{path}", self.address);
        let response = soon(Client::new().request(method, url).send())
            .await
            .unwrap();
        let status = response.status();
        (status, response.text().await.unwrap())
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        self.ask(Method::GET, path).await
    }

    fn is_connected(&self) -> bool {
        let status = self.tree.context().status.snapshot();
        let mut sources = status.sources.values();
        sources.any(|source| matches!(source.connection, ConnectionState::Connected { .. }))
    }

    async fn drain(self) {
        soon(self.tree.drain()).await.unwrap();
    }
}

async fn operated(relay: &MockRelay, database: &Database) -> Operated {
    let store = database.impatient_store().await;
    Operated::start(config(), Observed::at(relay), store).await
}

// === Incident 2 ===

#[tokio::test]
async fn incident_02_a_worker_whose_tables_stand_still_is_not_ready() {
    let (mut log_builder, database) = (LogBuilder::new(), Database::new());
    let relay = relay(Vec::new()).await;
    let worker = operated(&relay, &database).await;
    eventually("a connection", || worker.is_connected()).await;
    assert_eq!(worker.get("/readyz").await.0, StatusCode::OK);

    let mut lock = database.lock().await;
    log_builder.put(ANN, "com.huddle.note/1", 1);
    relay.push(log_builder.log[0].clone());
    let status = worker.tree.context().status.clone();
    eventually("a refusal", || status.snapshot().queue.blocked.is_some()).await;
    assert!(worker.is_connected());
    let (code, reasons) = worker.get("/readyz").await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    assert!(reasons.contains("database is locked"), "{reasons}");

    lock.execute("ROLLBACK").await.unwrap();
    eventually("the end of it", || {
        status.snapshot().queue.blocked.is_none()
    })
    .await;
    assert_eq!(worker.get("/readyz").await.0, StatusCode::OK);
    worker.drain().await;
}

// === Incident 16 ===

#[test]
fn incident_16_by_default_the_endpoints_listen_on_loopback_only() {
    let config = Layers::new().resolve().unwrap().config;
    assert!(config.listen.is_loopback());
}

#[test]
fn incident_16_credentials_in_a_url_are_refused_without_being_repeated() {
    let mut layers = Layers::new();
    let text = "source_url = 'wss://user:hunter2@relay.example'";
    layers.file("huddle.toml".as_ref(), text);
    let refusal = layers.resolve().unwrap_err().to_string();
    assert!(refusal.contains("source_url"), "{refusal}");
    assert!(!refusal.contains("hunter2"), "{refusal}");
}

#[tokio::test]
async fn incident_16_credentials_in_a_url_are_shown_nowhere() {
    // The first answers are errors, because errors are logged with their URL.
    let server = Server::start(async |request: Request| match request.number {
        0 => request.answer("HTTP/1.1 401 No\r\n\r\n".to_owned()).await,
        _ => request.serve(&[]).await,
    })
    .await;
    let url = server
        .url("/s?token=hunter2")
        .replace("//", "//user:hunter2@");
    let source = WebSocketSource::try_new(url.parse().unwrap(), WebSocketOptions::default());
    let (losses, database) = (Losses::listen(), Database::new());
    let store = database.store().await;
    let worker = Operated::start(config(), Arc::new(source.unwrap()), store).await;
    losses.first(1).await;
    let mut shown = String::new();
    for path in PATHS {
        shown += &worker.get(path).await.1;
    }
    eventually("a connection", || worker.is_connected()).await;
    for path in PATHS {
        shown += &worker.get(path).await.1;
    }
    worker.drain().await;
    shown += &format!("{:?} {:?}", losses.so_far(), database.tables().await);
    assert!(server.request_lines()[0].contains("hunter2"));
    assert!(shown.contains("status 401"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn incident_16_nothing_can_be_changed_from_outside() {
    let database = Database::new();
    let relay = relay(Vec::new()).await;
    let worker = operated(&relay, &database).await;
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        for path in &PATHS[..4] {
            let (code, _) = worker.ask(method.clone(), path).await;
            assert_eq!(code, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        }
    }
    worker.drain().await;
}

#[tokio::test]
async fn incident_16_a_request_without_end_is_cut_off() {
    let database = Database::new();
    let relay = relay(Vec::new()).await;
    let worker = operated(&relay, &database).await;
    let endless_header = ("GET /status HTTP/1.1\r\n", "X: x\r\n".repeat(1000));
    let head = "POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n";
    let endless_body = (head, "x".repeat(10_000));
    for (begin, more) in [endless_header, endless_body] {
        let stream = TcpStream::connect(worker.address).await.unwrap();
        let (mut answer, mut request) = stream.into_split();
        request.write_all(begin.as_bytes()).await.unwrap();
        let sent = async { while request.write_all(more.as_bytes()).await.is_ok() {} };
        let answered = async { while answer.read(&mut [0; 1024]).await.is_ok_and(|n| n > 0) {} };
        // Both directions end.
        soon(async { tokio::join!(sent, answered) }).await;
    }
    worker.drain().await;
}
