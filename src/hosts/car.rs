//! A CAR that is still to be read.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::io::AsyncRead;
use tokio::time::{Instant, timeout_at};
use tokio_util::io::StreamReader;

/// Reads a body that may be silent for so long at once, and take so long altogether. What goes wrong
/// comes as an error of the reader.
pub(super) fn reader(
    body: Incoming,
    silence: Duration,
    transfer: Duration,
) -> impl AsyncRead + Send + Unpin {
    let end = Instant::now() + transfer;
    let pieces = stream::unfold(Some(body), move |body| async move {
        let mut body = body?;
        let deadline = end.min(Instant::now() + silence);
        let piece = match timeout_at(deadline, piece(&mut body)).await {
            Ok(piece) => piece?,
            Err(_) if deadline == end => Err(late(format!("not whole within {transfer:?}"))),
            Err(_) => Err(late(format!("nothing more came within {silence:?}"))),
        };
        let rest = piece.is_ok().then_some(body);
        Some((piece, rest))
    });
    StreamReader::new(Box::pin(pieces))
}

fn late(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, reason)
}

/// What comes next of a body; `None` at its end.
async fn piece(body: &mut Incoming) -> Option<io::Result<Bytes>> {
    match body.frame().await? {
        // Trailers are no part of it.
        Ok(frame) => Some(Ok(frame.into_data().unwrap_or_default())),
        Err(error) => Some(Err(io::Error::other(error))),
    }
}
