//! Reads from a connection, and how connections end. Holds invariants 3.1 and 5.1.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use huddle_firehose::atproto::skim::MAX_FRAME_BYTES;
use huddle_firehose::source::error::ReadError;
use huddle_firehose::source::firehose::websocket::WebSocketOptions;
use huddle_firehose::source::frame_sink::{BatchLimits, FrameCollector};
use huddle_firehose::source::{Resume, Source};
use test_support::scripted_server::{Request, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::{AT_ONCE, SLOT_TIMEOUT, connect, read, read_to_end, source_with, up_to};

/// The bytes of a short binary message, as a server writes them.
fn binary(payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    assert!(length < 126);
    [&[0x82, length], payload].concat()
}

async fn send(socket: &mut WebSocketStream<TcpStream>, message: impl Into<Message>) {
    socket.send(message.into()).await.unwrap();
}

/// Keeps the connection open until the client disconnects.
async fn until_closed(mut stream: TcpStream) {
    while stream.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {}
}

#[tokio::test]
async fn frames_arrive_in_the_order_in_which_they_were_sent() {
    let server = Server::start(async |request: Request| {
        let mut socket = request.upgrade().await;
        for number in 0..500_u32 {
            let frame = Bytes::copy_from_slice(&number.to_be_bytes());
            socket.feed(Message::Binary(frame)).await.unwrap();
        }
        socket.close(None).await.unwrap();
        until_closed(socket.into_inner()).await;
    });
    let server = server.await;
    let mut frames = connect(&server.url("/"), Resume::Live).await;
    let (read, _) = read_to_end(frames.as_mut()).await;
    let numbers: Vec<u32> = read
        .iter()
        .map(|frame| u32::from_be_bytes(frame[..].try_into().unwrap()))
        .collect();
    assert_eq!(numbers, (0..500).collect::<Vec<u32>>());
}

#[tokio::test]
async fn a_batch_ends_at_its_limit_and_the_next_one_continues() {
    let server = Server::start(async |request: Request| {
        let mut stream = request.upgrade_raw().await;
        let bytes: Vec<u8> = (0..10).flat_map(|number| binary(&[number; 8])).collect();
        stream.write_all(&bytes).await.unwrap();
        until_closed(stream).await;
    });
    let server = server.await;
    let mut frames = connect(&server.url("/"), Resume::Live).await;
    let mut by_count = up_to(4);
    frames
        .read_batch(SLOT_TIMEOUT, &mut by_count)
        .await
        .unwrap();
    assert_eq!(by_count.frames.len(), 4);
    let mut by_bytes = FrameCollector::new(BatchLimits {
        frames: 1000,
        bytes: 17,
    });
    frames
        .read_batch(SLOT_TIMEOUT, &mut by_bytes)
        .await
        .unwrap();
    let expected = [[4; 8], [5; 8], [6; 8]].map(Bytes::from_owner);
    assert_eq!(by_bytes.frames, expected);
}

#[tokio::test]
async fn a_silent_server_keeps_the_reader_waiting_and_a_dropped_read_loses_nothing() {
    let speak = Arc::new(Notify::new());
    let spoken_to = Arc::clone(&speak);
    let server = Server::start(move |request: Request| {
        let speak = Arc::clone(&spoken_to);
        async move {
            let mut stream = request.upgrade_raw().await;
            let frame = binary(b"late");
            // Half a frame is on the wire when the read is dropped.
            stream.write_all(&frame[..3]).await.unwrap();
            speak.notified().await;
            stream.write_all(&frame[3..]).await.unwrap();
            until_closed(stream).await;
        }
    });
    let server = server.await;
    let mut frames = connect(&server.url("/"), Resume::Live).await;
    let mut batch = up_to(1000);
    let waited = timeout(
        Duration::from_millis(50),
        frames.read_batch(AT_ONCE, &mut batch),
    );
    assert!(waited.await.is_err());
    assert!(batch.frames.is_empty());
    speak.notify_one();
    frames.read_batch(AT_ONCE, &mut batch).await.unwrap();
    assert_eq!(batch.frames, ["late"]);
}

#[tokio::test]
async fn frames_taken_before_a_read_was_dropped_stay_in_the_batch() {
    let server = Server::start(async |request: Request| {
        let mut stream = request.upgrade_raw().await;
        stream.write_all(&binary(b"early")).await.unwrap();
        until_closed(stream).await;
    });
    let server = server.await;
    let mut frames = connect(&server.url("/"), Resume::Live).await;
    let mut batch = up_to(1000);
    while batch.frames.is_empty() {
        let a_moment = Duration::from_millis(20);
        let dropped = timeout(a_moment, frames.read_batch(SLOT_TIMEOUT, &mut batch));
        assert!(dropped.await.is_err());
    }
    assert_eq!(batch.frames, ["early"]);
    // The next call continues with the frames in the batch, and does not wait for a first frame.
    frames.read_batch(AT_ONCE, &mut batch).await.unwrap();
    assert_eq!(batch.frames, ["early"]);
}

#[tokio::test]
async fn frames_somewhat_larger_than_the_protocol_allows_are_read_and_larger_ones_refused() {
    let server = Server::start(async |request: Request| {
        let mut socket = request.upgrade().await;
        send(&mut socket, vec![1; 5_000_000]).await;
        send(&mut socket, vec![2; 6_000_000]).await;
        // The client disconnects before it has read all of this.
        let _ = socket.send(vec![3; 9_000_000].into()).await;
    });
    let server = server.await;
    let mut frames = connect(&server.url("/"), Resume::Live).await;
    let (read, error) = read_to_end(frames.as_mut()).await;
    assert_eq!(read, [vec![1; 5_000_000], vec![2; 6_000_000]]);
    assert!(
        matches!(
            error,
            ReadError::TooLarge {
                bytes: 9_000_000,
                limit: MAX_FRAME_BYTES
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_text_message_is_ignored_and_counted() {
    let server = Server::start(async |request: Request| {
        let mut socket = request.upgrade().await;
        send(&mut socket, "{}").await;
        send(&mut socket, vec![1]).await;
        until_closed(socket.into_inner()).await;
    });
    let server = server.await;
    let mut frames = connect(&server.url("/"), Resume::Live).await;
    assert_eq!(read(frames.as_mut(), 1).await, [vec![1]]);
    assert_eq!(frames.ignored(), 1);
}

#[tokio::test]
async fn a_ping_is_answered_while_the_reader_waits() {
    let server = Server::start(async |request: Request| {
        let mut socket = request.upgrade().await;
        send(&mut socket, Message::Ping("are you there".into())).await;
        let answer = socket.next().await.unwrap().unwrap();
        assert_eq!(answer, Message::Pong("are you there".into()));
        send(&mut socket, b"answered".to_vec()).await;
        until_closed(socket.into_inner()).await;
    });
    let server = server.await;
    let mut frames = connect(&server.url("/"), Resume::Live).await;
    assert_eq!(read(frames.as_mut(), 1).await, ["answered"]);
}

#[tokio::test]
async fn a_reader_that_waits_sends_pings() {
    let server = Server::start(async |request: Request| {
        let mut socket = request.upgrade().await;
        for _ in 0..2 {
            let ping = socket.next().await.unwrap().unwrap();
            assert!(ping.is_ping());
        }
        send(&mut socket, b"two pings".to_vec()).await;
        until_closed(socket.into_inner()).await;
    });
    let server = server.await;
    let options = WebSocketOptions {
        ping_interval: Duration::from_millis(10),
        ..WebSocketOptions::default()
    };
    let source = source_with(&server.url("/"), options);
    let mut frames = source.connect(Resume::Live).await.unwrap();
    assert_eq!(read(frames.as_mut(), 1).await, ["two pings"]);
}

#[tokio::test]
async fn a_connection_cut_inside_a_frame_keeps_the_frames_before() {
    let server = Server::start(async |request: Request| {
        let mut stream = request.upgrade_raw().await;
        let whole = binary(b"whole");
        let bytes = [&whole[..], &binary(b"half")[..4]].concat();
        stream.write_all(&bytes).await.unwrap();
    });
    let server = server.await;
    let mut frames = connect(&server.url("/"), Resume::Live).await;
    let (read, error) = read_to_end(frames.as_mut()).await;
    assert_eq!(read, ["whole"]);
    assert!(matches!(error, ReadError::Reset), "{error}");
}

#[tokio::test]
async fn a_close_frame_is_an_error_with_its_code_and_reason_and_is_answered() {
    let (answered, answer) = tokio::sync::oneshot::channel();
    let answered = Arc::new(std::sync::Mutex::new(Some(answered)));
    let server = Server::start(move |request: Request| {
        let answered = answered.lock().unwrap().take().unwrap();
        async move {
            let mut socket = request.upgrade().await;
            let close = CloseFrame {
                code: CloseCode::Away,
                reason: "deploy".into(),
            };
            socket.close(Some(close)).await.unwrap();
            let answer = socket.next().await;
            answered.send(answer).unwrap();
        }
    });
    let server = server.await;
    let mut frames = connect(&server.url("/"), Resume::Live).await;
    let (read, error) = read_to_end(frames.as_mut()).await;
    assert!(read.is_empty());
    assert!(
        matches!(&error, ReadError::Closed { code: Some(1001), reason } if reason == "deploy"),
        "{error}"
    );
    let answer = answer.await.unwrap();
    assert!(matches!(answer, Some(Ok(Message::Close(_)))), "{answer:?}");
}

#[tokio::test]
async fn garbage_after_the_handshake_is_an_error_of_the_protocol() {
    let server = Server::start(async |request: Request| {
        let mut stream = request.upgrade_raw().await;
        stream.write_all(&[0xff; 64]).await.unwrap();
        until_closed(stream).await;
    });
    let server = server.await;
    let mut frames = connect(&server.url("/"), Resume::Live).await;
    let (read, error) = read_to_end(frames.as_mut()).await;
    assert!(read.is_empty());
    assert!(matches!(error, ReadError::Protocol(_)), "{error}");
    let (_, error) = read_to_end(frames.as_mut()).await;
    assert!(matches!(error, ReadError::Ended), "{error}");
}
