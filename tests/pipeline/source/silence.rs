//! Links that are open and carry nothing.

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

/// Short enough for a test to wait for, and doubled after each fruitless attempt.
fn impatient() -> Config {
    Config {
        silence_min: Duration::from_millis(100),
        silence_max: Duration::from_secs(5),
        ..config()
    }
}

#[tokio::test]
async fn a_half_open_link_is_given_up_and_the_stream_goes_on_where_it_was() {
    let survived = survive_unharmed(impatient(), 1, async |request, frames| {
        // The peer is gone, and its end of the connection was never closed: nobody reads, nobody
        // writes, no ping is answered.
        let _held = request.serve_some(&frames, SOME).await;
        pending().await
    });
    let survived = survived.await;
    assert!(survived.reasons()[0].starts_with("no data for"));
    assert!(survived.cursors[1] > Some(0), "{:?}", survived.cursors);
}

#[tokio::test]
async fn a_link_on_which_only_pings_are_answered_is_given_up() {
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
            // tungstenite answers a ping as the next message is awaited.
            while let Some(Ok(message)) = socket.next().await {
                answered.fetch_add(usize::from(message.is_ping()), Ordering::SeqCst);
                let _ = socket.send(Message::Ping(Bytes::new())).await;
            }
        }
    };
    let survived = survive_unharmed(impatient(), usize::MAX, fault).await;
    assert!(survived.reasons()[0].starts_with("no data for"));
}

#[tokio::test]
async fn a_frame_that_drips_in_and_never_ends_is_not_waited_for() {
    let survived = survive_unharmed(impatient(), 1, async |request, frames| {
        let Some(socket) = request.serve_some(&frames, SOME).await else {
            return;
        };
        let mut stream = socket.into_inner();
        // A binary message of 64 KiB less one byte, a byte at a time.
        let mut drops = [0x82, 126, 0xff, 0xff].into_iter().chain([0; 60_000]);
        while let Some(drop) = drops.next()
            && stream.write_u8(drop).await.is_ok()
        {
            sleep(Duration::from_millis(1)).await;
        }
    });
    let survived = survived.await;
    assert!(survived.reasons()[0].starts_with("no data for"));
}

#[tokio::test]
async fn text_without_end_is_no_sign_of_life() {
    let survived = survive_unharmed(impatient(), 1, async |request, frames| {
        let Some(mut socket) = request.serve_some(&frames, SOME).await else {
            return;
        };
        while socket.send(Message::text("{\"hello\":1}")).await.is_ok() {
            sleep(Duration::from_millis(1)).await;
        }
    });
    let survived = survived.await;
    assert!(survived.reasons()[0].starts_with("no data for"));
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_left_and_tried_again() {
    let survived = survive_unharmed(impatient(), 4, async |request: Request, _| {
        match request.number {
            // Before the upgrade, by the deadline of the dial.
            0 | 1 => request.ignore().await,
            // Behind it, by the rule of silence.
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
        assert!(reason.starts_with("no data for"), "{reason}");
    }
}
