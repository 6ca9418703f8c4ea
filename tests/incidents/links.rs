//! Incidents 1 and 7: connections that stall, and a consumer that is slower than its source.
//! Holds invariant 8.2.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use huddle_firehose::atproto::skim::seq_of;
use huddle_firehose::config::Config;
use huddle_firehose::source::firehose::websocket::WebSocketOptions;
use huddle_firehose::testing::fault::Faults;
use jiff::Timestamp;
use simulated_network::frame;
use test_support::connection_losses::Losses;
use test_support::mock_relay::relay;
use test_support::observed_source::Observed;
use test_support::running_worker::{Worker, config};
use test_support::scripted_server::{Request, Server};
use test_support::tables::Database;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::log_builder::{ANN, LogBuilder, last_seq};
use crate::{dead_letters, index, numbers};

const SILENCE: Duration = Duration::from_millis(40);

fn impatient() -> Config {
    Config {
        silence_min: SILENCE,
        silence_max: 4 * SILENCE,
        ..config()
    }
}

async fn worker_at(server: &Server, config: Config, database: &Database) -> Worker {
    let options = WebSocketOptions {
        ping_interval: Duration::from_millis(2),
        ..WebSocketOptions::default()
    };
    let source = Observed::with_options(&server.url("/"), options);
    let store = database.store().await;
    Worker::start_at(config, source, store, Faults::default()).await
}

fn events(count: u64) -> Vec<Bytes> {
    let mut log_builder = LogBuilder::new();
    for n in 1..=count {
        log_builder.put(ANN, &format!("com.huddle.note/{n}"), n);
    }
    log_builder.log
}

#[tokio::test]
async fn incident_01_pings_do_not_keep_a_silent_source_alive() {
    let (log, database) = (Arc::new(events(20)), Database::new());
    let end = last_seq(&log);
    let server = Server::start(move |request: Request| {
        let log = log.clone();
        async move {
            if request.number > 0 {
                return request.serve(&log).await;
            }
            // Half of the log, and then only pings, on a working connection.
            let mut socket = request.serve_some(&log, log.len() / 2).await.unwrap();
            while let Some(Ok(_)) = socket.next().await {
                let _ = socket.send(Message::Ping(Bytes::new())).await;
            }
        }
    })
    .await;
    let losses = Losses::listen();
    let worker = worker_at(&server, impatient(), &database).await;
    worker.reaches(end).await;
    worker.drain().await;
    assert!(losses.so_far()[0].reason.starts_with("source quiet for"));
    assert_eq!(numbers(&database).await.len(), 20);
}

#[tokio::test]
async fn incident_01_a_quiet_source_is_redialled_ever_less_often() {
    const CONNECTIONS: usize = 5;
    let begun = Arc::new(Mutex::new(Vec::new()));
    let seen = begun.clone();
    let server = Server::start(move |request: Request| {
        seen.lock().unwrap().push(Instant::now());
        async move {
            let _held = request.upgrade_raw().await;
            pending().await
        }
    })
    .await;
    let (losses, database) = (Losses::listen(), Database::new());
    let worker = worker_at(&server, impatient(), &database).await;
    losses.first(CONNECTIONS).await;
    worker.drain().await;
    let begun = begun.lock().unwrap();
    let patience = [1, 2, 4, 4].map(|times| times * SILENCE);
    for (pair, least) in begun.windows(2).zip(patience) {
        let lasted = pair[1] - pair[0];
        assert!(lasted >= least, "{lasted:?} is less than {least:?}");
    }
}

#[tokio::test]
async fn incident_07_unwanted_commits_are_not_decoded() {
    let mut log_builder = LogBuilder::new();
    log_builder.put(ANN, "com.huddle.note/1", 1);
    let mut unwanted = log_builder.apply(ANN, vec![("app.bsky.feed.post/1", Some(vec![0xa0]))]);
    // These blocks cannot be decoded, so the test fails if the worker decodes them.
    unwanted.blocks = vec![0xff; 100_000];
    log_builder.emit_commit(ANN, unwanted);
    log_builder.put(ANN, "com.huddle.note/2", 2);
    let database = index(log_builder.log).await;
    assert_eq!(dead_letters(&database).await, [""; 0]);
    assert_eq!(numbers(&database).await.len(), 2);
}

#[tokio::test]
async fn incident_07_a_consumer_that_was_too_slow_resumes_at_its_cursor() {
    let (log, database) = (Arc::new(events(40)), Database::new());
    let (end, half) = (last_seq(&log), log.len() / 2);
    // It is asked to begin with the last event that it has sent.
    let before_last_sent = seq_of(&log[half - 2]);
    let server = Server::start(move |request: Request| {
        let log = log.clone();
        async move {
            if request.number > 0 {
                return request.serve(&log).await;
            }
            let mut socket = request.serve_some(&log, half).await.unwrap();
            let error = Message::Binary(frame::error("ConsumerTooSlow"));
            socket.send(error).await.unwrap();
            socket.close(None).await.unwrap();
            while let Some(Ok(_)) = socket.next().await {}
        }
    })
    .await;
    let losses = Losses::listen();
    let worker = worker_at(&server, config(), &database).await;
    worker.reaches(end).await;
    worker.drain().await;
    assert_eq!(losses.so_far()[0].reason, "ConsumerTooSlow: no");
    assert_eq!(server.cursors(), [Some(0), before_last_sent]);
    assert_eq!(numbers(&database).await.len(), 40);
}

#[tokio::test]
async fn incident_07_the_lag_is_measured_in_seconds_and_not_in_events() {
    const LATE: u64 = 7200;
    let mut log_builder = LogBuilder::new();
    let now = Timestamp::now().as_microsecond().unsigned_abs();
    log_builder.clock = now - LATE * 1_000_000;
    log_builder.put(ANN, "com.huddle.note/1", 1);
    let (end, database) = (last_seq(&log_builder.log), Database::new());
    let relay = relay(log_builder.log).await;
    let worker = Worker::start(&relay, &database).await;
    worker.reaches(end).await;
    let lag = worker
        .source_status()
        .source_lag_seconds(None, Timestamp::now());
    assert!(lag.is_some_and(|lag| lag >= LATE as f64), "{lag:?}");
    worker.drain().await;
}
