//! The bare limit of the socket: a client that discards every message.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// The time to read `count` messages from a replay at `url`.
pub(crate) async fn read(url: String, count: u64) -> Duration {
    let address = url.trim_start_matches("ws://").trim_end_matches('/');
    let started = Instant::now();
    let stream = TcpStream::connect(address).await.unwrap();
    let config = WebSocketConfig::default();
    let (mut socket, _) = client_async_with_config(&url, stream, Some(config))
        .await
        .unwrap();
    for _ in 0..count {
        socket.next().await.unwrap().unwrap();
    }
    started.elapsed()
}
