//! Connections that are open but deliver nothing. Holds invariant 8.2.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use huddle_firehose::config::Config;
use test_support::running_worker::config;
use test_support::scripted_server::Request;
use tokio::io::AsyncWriteExt;
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::Message;

use super::{SOME, survive_unharmed};

/// Short enough for a test. It doubles after each attempt without data.
fn impatient() -> Config {
    Config {
        silence_min: Duration::from_millis(100),
        silence_max: Duration::from_secs(5),
        ..config()
    }
}

#[tokio::test]
async fn a_half_open_connection_is_given_up_and_the_stream_continues_at_the_cursor() {
    let survived = survive_unharmed(impatient(), 1, async |request, frames| {
        // The peer is gone without closing its end: it reads and writes nothing, and answers no
        // ping.
        let _held = request.serve_some(&frames, SOME).await;
        pending().await
    });
    let survived = survived.await;
    assert!(survived.reasons()[0].starts_with("source quiet for"));
    assert!(survived.cursors[1] > Some(0), "{:?}", survived.cursors);
}

#[tokio::test]
async fn a_connection_that_only_answers_pings_is_given_up() {
    const ENOUGH: usize = 3;
    let answered = Arc::new(AtomicUsize::new(0));
    let fault = move |request: Request, frames: Arc<[Bytes]>| {
        let answered = answered.clone();
        async move {
            if answered.load(Ordering::SeqCst) >= ENOUGH {
                return request.serve(&frames).await;
            }
            let Some(mut socket) = request.serve_some(&frames, SOME).await else {
                return;
            };
            // tungstenite answers a ping while it waits for the next message.
            while let Some(Ok(message)) = socket.next().await {
                answered.fetch_add(usize::from(message.is_ping()), Ordering::SeqCst);
                let _ = socket.send(Message::Ping(Bytes::new())).await;
            }
        }
    };
    let survived = survive_unharmed(impatient(), usize::MAX, fault).await;
    assert!(survived.reasons()[0].starts_with("source quiet for"));
}

#[tokio::test]
async fn a_frame_that_arrives_byte_by_byte_is_given_up() {
    let survived = survive_unharmed(impatient(), 1, async |request, frames| {
        let Some(socket) = request.serve_some(&frames, SOME).await else {
            return;
        };
        let mut stream = socket.into_inner();
        // A binary message of 64 KiB minus one byte, one byte at a time.
        let mut drops = [0x82, 126, 0xff, 0xff].into_iter().chain([0; 60_000]);
        while let Some(drop) = drops.next()
            && stream.write_u8(drop).await.is_ok()
        {
            sleep(Duration::from_millis(1)).await;
        }
    });
    let survived = survived.await;
    assert!(survived.reasons()[0].starts_with("source quiet for"));
}

#[tokio::test]
async fn text_messages_do_not_count_as_data() {
    let survived = survive_unharmed(impatient(), 1, async |request, frames| {
        let Some(mut socket) = request.serve_some(&frames, SOME).await else {
            return;
        };
        while socket.send(Message::text("{\"hello\":1}")).await.is_ok() {
            sleep(Duration::from_millis(1)).await;
        }
    });
    let survived = survived.await;
    assert!(survived.reasons()[0].starts_with("source quiet for"));
}

#[tokio::test]
async fn a_server_that_accepts_and_sends_nothing_is_given_up_and_tried_again() {
    let survived = survive_unharmed(impatient(), 4, async |request: Request, _| {
        match request.number {
            // Silent before the upgrade: the deadline of the dial ends it.
            0 | 1 => request.ignore().await,
            // Silent after the upgrade: the silence detector ends it.
            _ => {
                let _held = request.upgrade_raw().await;
                pending().await
            }
        }
    });
    let survived = survived.await;
    let [before, again, behind, still] = &survived.reasons()[..4] else {
        unreachable!()
    };
    for reason in [before, again] {
        assert!(reason.starts_with("no connection within"), "{reason}");
    }
    for reason in [behind, still] {
        assert!(reason.starts_with("source quiet for"), "{reason}");
    }
}
