//! Connections that break, and servers that do not speak WebSocket.

use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use simulated_network::frame;
use socket2::SockRef;
use test_support::running_worker::config;
use test_support::scripted_server::Request;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

use super::{SOME, survive_unharmed};

#[tokio::test]
async fn a_reset_inside_a_frame_costs_a_reconnect() {
    let survived = survive_unharmed(config(), 2, async |request, frames| {
        let Some(mut socket) = request.serve_some(&frames, SOME).await else {
            return;
        };
        // A reset overtakes what the client has not read yet, also the handshake.
        let _sent = socket.send(Message::Ping(Bytes::new())).await;
        while let Some(Ok(message)) = socket.next().await
            && !message.is_pong()
        {}
        let mut stream = socket.into_inner();
        let _sent = stream.write_all(&[0x82, 126, 0x10, 0x00, 1, 2, 3]).await;
        // Without this the kernel would close the connection properly.
        let _set = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    });
    let survived = survived.await;
    let reset = "cut off without a closing handshake";
    assert_eq!(survived.reasons(), [reset; 2]);
}

#[tokio::test]
async fn a_protocol_error_costs_a_reconnect() {
    let survived = survive_unharmed(config(), 2, async |request: Request, frames| {
        let compressed = request.number == 1;
        let Some(socket) = request.serve_some(&frames, SOME).await else {
            return;
        };
        let mut stream = socket.into_inner();
        let _sent = match compressed {
            // RSV1, with which permessage-deflate marks a compressed message.
            true => stream.write_all(&[0xc2, 3, 1, 2, 3]).await,
            false => stream.write_all(&[0xff; 64]).await,
        };
        pending().await
    });
    let survived = survived.await;
    assert_eq!(survived.losses.len(), 2);
    for reason in survived.reasons() {
        assert!(reason.starts_with("not the WebSocket protocol"), "{reason}");
    }
}

#[tokio::test]
async fn an_error_frame_ends_the_connection_whether_or_not_the_server_closes_it() {
    let survived = survive_unharmed(config(), 2, async |request: Request, frames| {
        let closes = request.number == 1;
        let Some(mut socket) = request.serve_some(&frames, SOME).await else {
            return;
        };
        let error = Message::Binary(frame::error("ConsumerTooSlow"));
        let _sent = socket.send(error).await;
        if closes {
            let _closed = socket.close(None).await;
        }
        while let Some(Ok(_)) = socket.next().await {}
    });
    let survived = survived.await;
    assert_eq!(survived.reasons(), ["ConsumerTooSlow: no"; 2]);
}
