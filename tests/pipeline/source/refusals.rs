//! Servers that refuse: the worker's own delays, and those that a server requests.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use huddle_firehose::config::Config;
use simulated_network::frame;
use test_support::connection_losses::{Loss, Losses};
use test_support::running_worker::config;
use test_support::scripted_server::{Request, Server};
use test_support::tables::Database;
use tokio_tungstenite::tungstenite::Message;

use super::{survive_unharmed, worker_at};

const MIN: Duration = Duration::from_millis(10);
const MAX: Duration = Duration::from_millis(80);
/// Enough attempts to reach the longest delay.
const REFUSALS: usize = 6;

fn with_backoff() -> Config {
    Config {
        reconnect_min: MIN,
        reconnect_max: MAX,
        ..config()
    }
}

/// Asserts that the delays double from `min` to `max`, each reduced by up to 30 % at random.
fn assert_backing_off(losses: &[Loss], min: Duration, max: Duration) {
    for (attempt, loss) in losses.iter().enumerate() {
        let most = (min * (1 << attempt)).min(max);
        // The log rounds down to whole milliseconds.
        let least = most.mul_f64(0.7) - Duration::from_millis(1);
        assert!(
            (least..=most).contains(&loss.retry_in),
            "attempt {attempt}: {loss:?} is not between {least:?} and {most:?}"
        );
    }
}

#[tokio::test]
async fn a_server_that_closes_at_once_is_dialled_with_growing_delays() {
    let survived = survive_unharmed(with_backoff(), REFUSALS, async |request, _| drop(request));
    let survived = survived.await;
    assert_eq!(survived.cursors.len(), REFUSALS + 1);
    assert_backing_off(&survived.losses, MIN, MAX);
}

#[tokio::test]
async fn a_server_that_closes_after_the_handshake_is_dialled_with_growing_delays() {
    let survived = survive_unharmed(with_backoff(), REFUSALS, async |request: Request, _| {
        drop(request.upgrade_raw().await);
    });
    let survived = survived.await;
    assert_eq!(survived.cursors.len(), REFUSALS + 1);
    assert_backing_off(&survived.losses, MIN, MAX);
}

#[tokio::test]
async fn a_server_with_errors_is_dialled_with_growing_delays() {
    let survived = survive_unharmed(with_backoff(), REFUSALS, async |request: Request, _| {
        let status = ["500 Oops", "502 Bad Gateway", "503 Busy"][request.number % 3];
        request.answer(http(status, "")).await;
    });
    let survived = survived.await;
    assert_eq!(survived.cursors.len(), REFUSALS + 1);
    assert_backing_off(&survived.losses, MIN, MAX);
    let reason = "the server answered with HTTP status 500";
    assert_eq!(survived.reasons()[0], reason);
}

#[tokio::test]
async fn a_server_without_the_method_is_dialled_at_the_longest_delay_only() {
    let survived = survive_unharmed(with_backoff(), 2, async |request: Request, _| {
        request.answer(http("501 Not Implemented", "")).await;
    });
    let survived = survived.await;
    assert_eq!(survived.losses.len(), 2);
    for loss in &survived.losses {
        assert!(loss.retry_in >= MAX.mul_f64(0.69), "{loss:?}");
    }
}

#[tokio::test]
async fn a_server_with_retry_after_is_not_dialled_before_that_time() {
    for status in ["429 Too Many Requests", "503 Busy"] {
        let server = Server::answering(&http(status, "Retry-After: 7\r\n")).await;
        let (losses, database) = (Losses::listen(), Database::new());
        let worker = worker_at(&server, with_backoff(), &database).await;
        let loss = losses.first(1).await.remove(0);
        assert_eq!(loss.retry_in, Duration::from_secs(7), "{status}");

        let code = &status[..3];
        let rejected = format!("huddle_rejected_connections_total{{status=\"{code}\"}} 1");
        let metrics = worker.tree.prometheus().render();
        assert!(metrics.contains(&rejected), "{metrics}");
        worker.drain().await;
        assert_eq!(server.request_lines().len(), 1, "{status}");
    }
}

fn http(status: &str, header: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{header}Content-Length: 6\r\n\r\n<html>")
}

#[tokio::test]
async fn a_server_that_refuses_every_cursor_as_future_is_dialled_with_growing_delays() {
    let server = Server::start(async |request: Request| {
        let mut socket = request.upgrade().await;
        let error = Message::Binary(frame::error("FutureCursor"));
        let _sent = socket.send(error).await;
        let _closed = socket.close(None).await;
        while let Some(Ok(_)) = socket.next().await {}
    })
    .await;
    let (losses, database) = (Losses::listen(), Database::new());
    let worker = worker_at(&server, with_backoff(), &database).await;
    let seen = losses.first(REFUSALS).await;
    assert_backing_off(&seen, MIN, MAX);
    worker.assert_restarted(&[]);
    worker.drain().await;
    let gaps = database.rows("SELECT cause FROM gaps").await;
    assert_eq!(gaps, ["future_cursor"], "repeated refusals are one gap");
}
