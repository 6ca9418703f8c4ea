//! Messages in pieces, and in forms that nobody asked for.

use huddle_firehose::atproto::skim::MAX_FRAME_BYTES;
use huddle_firehose::source::Resume;
use huddle_firehose::source::error::ReadError;
use test_support::scripted_server::{Request, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{connect, read_to_end};

/// By which a server says that it will compress.
const DEFLATE: &str = "Sec-WebSocket-Extensions: permessage-deflate\r\n";

/// A server that writes these bytes after its handshake, and then waits for the client to leave.
async fn server_writing(headers: &'static str, bytes: Vec<u8>) -> Server {
    Server::start(move |request: Request| {
        let bytes = bytes.clone();
        async move {
            let mut stream = request.upgrade_saying(headers).await;
            // The client leaves amid what it refuses.
            let _ = stream.write_all(&bytes).await;
            while stream.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {}
        }
    })
    .await
}

#[tokio::test]
async fn a_compressed_message_is_an_error_of_the_protocol() {
    // RSV1 marks what was compressed, whether or not the server has announced it.
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
async fn a_message_in_pieces_is_put_together_whatever_comes_between() {
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
async fn pieces_without_end_are_refused_once_they_are_too_many() {
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
