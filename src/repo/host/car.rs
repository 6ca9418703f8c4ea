//! Reads a CAR from the body of an HTTP response.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::io::AsyncRead;
use tokio::time::{Instant, timeout_at};
use tokio_util::io::StreamReader;

use super::Deadlines;

/// Reads `body` within `deadlines`. A missed deadline is an error of the reader.
pub(super) fn reader(body: Incoming, deadlines: Deadlines) -> impl AsyncRead + Send + Unpin {
    let Deadlines {
        silence,
        transfer,
        least_rate,
        ..
    } = deadlines;
    let start = Instant::now();
    let pieces = stream::unfold(Some((body, 0)), move |state| async move {
        let (mut body, received) = state?;
        // A slow host occupies a slot that other hosts wait for.
        let pace = silence + Duration::from_secs(received / least_rate);
        let end = start + transfer.min(pace);
        let deadline = end.min(Instant::now() + silence);
        let piece = match timeout_at(deadline, piece(&mut body)).await {
            Ok(piece) => piece?,
            Err(_) if deadline < end => Err(late(format!("no data for {silence:?}"))),
            Err(_) if pace < transfer => {
                Err(late(format!("slower than {least_rate} bytes a second")))
            }
            Err(_) => Err(late(format!("not complete within {transfer:?}"))),
        };
        let rest = match &piece {
            Ok(piece) => Some((body, received + piece.len() as u64)),
            Err(_) => None,
        };
        Some((piece, rest))
    });
    StreamReader::new(Box::pin(pieces))
}

fn late(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, reason)
}

/// The next data of a body; `None` at its end.
async fn piece(body: &mut Incoming) -> Option<io::Result<Bytes>> {
    match body.frame().await? {
        // Trailers are ignored.
        Ok(frame) => Some(Ok(frame.into_data().unwrap_or_default())),
        Err(error) => Some(Err(io::Error::other(error))),
    }
}
