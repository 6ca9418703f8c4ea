//! The bare limit: a client that throws every message away.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::replay::Replay;
use crate::runtime;

/// How long it takes to read `count` messages, on a runtime like the worker's.
pub(crate) fn read(replay: &Replay, count: u64) -> Duration {
    runtime().block_on(async {
        let address = replay.url.trim_start_matches("ws://").trim_end_matches('/');
        let started = Instant::now();
        let stream = TcpStream::connect(address).await.unwrap();
        let config = WebSocketConfig::default().read_buffer_size(128 * 1024);
        let (mut socket, _) = client_async_with_config(&replay.url, stream, Some(config))
            .await
            .unwrap();
        for _ in 0..count {
            socket.next().await.unwrap().unwrap();
        }
        started.elapsed()
    })
}
