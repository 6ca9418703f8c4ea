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
    let end = start + transfer;
    let pieces = stream::unfold(Some((body, start + silence)), move |state| async move {
        let (mut body, pace) = state?;
        // A slow host occupies a slot that other hosts wait for.
        let quiet = Instant::now() + silence;
        let deadline = pace.min(quiet).min(end);
        let piece = match timeout_at(deadline, piece(&mut body)).await {
            Ok(piece) => piece?,
            Err(_) if deadline == quiet => Err(late(format!("no data for {silence:?}"))),
            Err(_) if deadline == end => Err(late(format!("not complete within {transfer:?}"))),
            Err(_) => Err(late(format!("slower than {least_rate} bytes a second"))),
        };
        let rest = match &piece {
            // What came fast at the beginning allows no slow transfer later: each piece prolongs the
            // deadline, but never beyond two silences from now.
            Ok(piece) => {
                let gained = Duration::from_secs_f64(piece.len() as f64 / least_rate as f64);
                Some((body, (pace + gained).min(Instant::now() + 2 * silence)))
            }
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
