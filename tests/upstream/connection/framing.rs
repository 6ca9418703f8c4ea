//! Fragmented messages, and messages in forms that were not negotiated. Holds invariant 9.1.

use huddle_firehose::atproto::skim::MAX_FRAME_BYTES;
use huddle_firehose::source::Resume;
use huddle_firehose::source::error::ReadError;
use test_support::scripted_server::{Request, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{connect, read_to_end};

/// The header with which a server announces compression.
const DEFLATE: &str = "Sec-WebSocket-Extensions: permessage-deflate\r\n";

/// A server that writes these bytes after its handshake, and then waits until the client
/// disconnects.
async fn server_writing(headers: &'static str, bytes: Vec<u8>) -> Server {
    Server::start(move |request: Request| {
        let bytes = bytes.clone();
        async move {
            let mut stream = request.upgrade_saying(headers).await;
            // The client disconnects before it has read everything.
            let _ = stream.write_all(&bytes).await;
            while stream.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {}
        }
    })
    .await
}

#[tokio::test]
async fn a_compressed_message_is_an_error_of_the_protocol() {
    // RSV1 marks a compressed message, also without an announcement.
    for headers in ["", DEFLATE] {
        let bytes = [&[0x82, 2, b'o', b'k'], &[0xc2, 3, 1, 2, 3][..]].concat();
        let server = server_writing(headers, bytes).await;
        let mut frames = connect(&server.url("/"), Resume::Live).await;
        let (read, error) = read_to_end(frames.as_mut()).await;
        assert_eq!(read, ["ok"]);
        assert!(matches!(error, ReadError::Protocol(_)), "{error}");
    }
}

#[tokio::test]
async fn a_fragmented_message_is_assembled_around_control_frames() {
    let pieces: [&[u8]; 4] = [
        &[0x02, 2, b'o', b'n'],
        // A ping.
        &[0x89, 1, b'?'],
        &[0x00, 0],
        &[0x80, 1, b'e'],
    ];
    let server = server_writing("", [&pieces.concat()[..], &[0x88, 0]].concat()).await;
    let mut frames = connect(&server.url("/"), Resume::Live).await;
    let (read, error) = read_to_end(frames.as_mut()).await;
    assert_eq!(read, ["one"]);
    assert!(matches!(error, ReadError::Closed { .. }), "{error}");
}

#[tokio::test]
async fn a_message_with_too_many_fragments_is_refused() {
    const PIECE: usize = 1 << 20;
    let piece = |opcode| {
        let mut piece = vec![opcode, 127];
        piece.extend((PIECE as u64).to_be_bytes());
        piece.resize(piece.len() + PIECE, 0);
        piece
    };
    let mut bytes = piece(0x02);
    for _ in 0..MAX_FRAME_BYTES / PIECE {
        bytes.extend(piece(0x00));
    }
    let server = server_writing("", bytes).await;
    let mut frames = connect(&server.url("/"), Resume::Live).await;
    let (read, error) = read_to_end(frames.as_mut()).await;
    assert!(read.is_empty());
    assert!(matches!(error, ReadError::TooLarge { .. }), "{error}");
}
