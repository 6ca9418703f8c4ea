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

use super::Deadlines;

/// Reads a body within `deadlines`. What goes wrong comes as an error of the reader.
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
        // Who drips holds a place that others wait for.
        let pace = silence + Duration::from_secs(received / least_rate);
        let end = start + transfer.min(pace);
        let deadline = end.min(Instant::now() + silence);
        let piece = match timeout_at(deadline, piece(&mut body)).await {
            Ok(piece) => piece?,
            Err(_) if deadline < end => Err(late(format!("nothing more came within {silence:?}"))),
            Err(_) if pace < transfer => {
                Err(late(format!("less than {least_rate} bytes a second")))
            }
            Err(_) => Err(late(format!("not whole within {transfer:?}"))),
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

/// What comes next of a body; `None` at its end.
async fn piece(body: &mut Incoming) -> Option<io::Result<Bytes>> {
    match body.frame().await? {
        // Trailers are no part of it.
        Ok(frame) => Some(Ok(frame.into_data().unwrap_or_default())),
        Err(error) => Some(Err(io::Error::other(error))),
    }
}
