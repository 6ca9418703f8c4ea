//! Requests the endpoints over a real socket. Holds invariant 8.6.

use std::net::SocketAddr;

use huddle_firehose::admin::http::{HttpState, serve};
use huddle_firehose::config::Layers;
use huddle_firehose::model::Position;
use huddle_firehose::telemetry::metrics::Metrics;
use huddle_firehose::telemetry::status::{ConnectionState, SourceStatus, StatusBoard};
use huddle_firehose::worker;
use jiff::Timestamp;
use reqwest::{Response, StatusCode};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Server {
    address: SocketAddr,
    metrics: Metrics,
    status: StatusBoard,
    stop: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    async fn start() -> Self {
        let (metrics, prometheus) = Metrics::new();
        let status = StatusBoard::default();
        let config = Layers::new().resolve().unwrap().config;
        let state = HttpState {
            metrics: metrics.clone(),
            prometheus,
            status: status.clone(),
            thresholds: worker::Options::from(&config).thresholds,
            allowed_hosts: ["huddle".to_owned()].into(),
            changes: None,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(listener, state, stop.clone()));
        Self {
            address,
            metrics,
            status,
            stop,
            task,
        }
    }

    async fn get(&self, path: &str) -> Response {
        reqwest::get(format!("http://{}{path}", self.address))
            .await
            .unwrap()
    }

    fn connect_source(&self) {
        let now = Timestamp::now();
        let mut source = SourceStatus::default();
        source.set_connection(ConnectionState::Connected { since: now }, now);
        let time = Some(now);
        source.set_received(Position { seq: 7, time }, now);
        source.set_applied(Position { seq: 7, time }, now);
        self.status.update(|status| {
            status.sources.insert("wss://relay/".to_owned(), source);
        });
    }
}

#[tokio::test]
async fn metrics_are_prometheus_text_and_include_the_status() {
    let server = Server::start().await;
    server.connect_source();
    server.metrics.redelivered.increment(2);
    let response = server.get("/metrics").await;
    assert_eq!(response.status(), StatusCode::OK);
    let format = response.headers()["content-type"].to_str().unwrap();
    assert!(format.starts_with("text/plain; version=0.0.4"), "{format}");
    let text = response.text().await.unwrap();
    assert!(text.contains("\nhuddle_redelivered_total 2\n"), "{text}");
    assert!(text.contains("\nhuddle_cursor_seq{source=\"wss://relay/\"} 7\n"));
}

#[tokio::test]
async fn the_process_is_healthy_though_it_is_not_ready() {
    let server = Server::start().await;
    assert_eq!(server.get("/healthz").await.status(), StatusCode::OK);

    let response = server.get("/readyz").await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["ready"], false);
    assert_eq!(body["reasons"][0]["component"], "worker");
}

#[tokio::test]
async fn a_connected_worker_is_ready_until_it_drains() {
    let server = Server::start().await;
    server.connect_source();
    let response = server.get("/readyz").await;
    assert_eq!(response.status(), StatusCode::OK);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body, serde_json::json!({ "ready": true, "reasons": [] }));

    server.status.update(|status| status.draining = true);
    let response = server.get("/readyz").await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn the_status_has_the_lag_of_each_source() {
    let server = Server::start().await;
    server.connect_source();
    let body: Value = server.get("/status").await.json().await.unwrap();
    let source = &body["sources"]["wss://relay/"];
    assert_eq!(source["connection"]["state"], "connected");
    assert_eq!(source["applied"]["seq"], 7);
    assert_eq!(source["processing_lag_seconds"], 0.0);
    assert_eq!(source["source_lag_seconds"], 0.0);
    assert_eq!(body["queue"]["depth"], 0);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_answered_in_json() {
    let server = Server::start().await;
    let response = server.get("/").await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"], "no such path");

    let url = format!("http://{}/status", server.address);
    let response = reqwest::Client::new().post(url).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    let body: Value = response.json().await.unwrap();
    assert!(body["error"].is_string());
}

#[tokio::test]
async fn a_connection_is_closed_after_its_answer() {
    let server = Server::start().await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    client
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: huddle\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("ok\n"), "{answer}");
}

/// Holds invariant 12.5.
#[tokio::test]
async fn probes_are_answered_while_slow_clients_hold_every_place() {
    let server = Server::start().await;
    let mut slow = Vec::new();
    // Twice as many as there are places.
    for _ in 0..8 {
        for _ in 0..64 {
            let mut client = TcpStream::connect(server.address).await.unwrap();
            client
                .write_all(b"GET /healthz HTTP/1.1\r\nX: ")
                .await
                .unwrap();
            slow.push(client);
        }
        assert_eq!(server.get("/healthz").await.status(), StatusCode::OK);
    }
}

/// Holds invariant 12.6.
#[tokio::test]
async fn a_request_for_a_name_that_is_not_ours_is_misdirected() {
    let server = Server::start().await;
    for path in ["/status", "/metrics", "/healthz", "/readyz", "/nowhere"] {
        let request = reqwest::Client::new()
            .get(format!("http://{}{path}", server.address))
            .header("host", "rebound.example");
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::MISDIRECTED_REQUEST, "{path}");
    }
}

#[tokio::test]
async fn the_server_ends_when_its_token_is_cancelled() {
    let server = Server::start().await;
    assert_eq!(server.get("/healthz").await.status(), StatusCode::OK);
    server.stop.cancel();
    server.task.await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}
