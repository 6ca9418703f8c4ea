//! The session of one client, from its handshake to its end.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::handshake::server::{
    Callback, ErrorResponse, Request, Response,
};
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

use super::Options;
use super::log::{Log, Start};
use super::messages::{FUTURE_CURSOR, OUTDATED_CURSOR};
use crate::model::cursor_of;

const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// Messages of the client are read after this many frames, also while frames are sent without a
/// pause.
const FRAMES_BETWEEN_READS: u64 = 64;

struct Session {
    socket: WebSocketStream<TcpStream>,
    log: Arc<Log>,
    growth: watch::Receiver<()>,
    /// The index in the log of the next frame to send.
    next: u64,
    sent: u64,
    pace: Pace,
    options: Options,
}

/// The end of a session.
enum Ending {
    /// With a closing handshake, at the wish of either side.
    Close(CloseCode),
    /// Without a closing handshake.
    Cut,
}

/// Serves `stream` until either side ends it. Errors are ignored here, because the client notices
/// them.
pub(super) async fn serve(stream: TcpStream, log: Arc<Log>, options: Options) {
    let mut cursor = None;
    let accept = accept_hdr_async(stream, ReadCursor(&mut cursor));
    let Ok(Ok(socket)) = timeout(HANDSHAKE_DEADLINE, accept).await else {
        return;
    };
    let session = Session {
        socket,
        // Subscribed before the start is looked up, so that no push is missed in between.
        growth: log.growth(),
        log,
        next: 0,
        sent: 0,
        pace: Pace::new(options.rate),
        options,
    };
    // An error means that the client has gone away.
    let _ = session.run(cursor).await;
}

/// Extracts the cursor from a request, and refuses an invalid one.
struct ReadCursor<'a>(&'a mut Option<u64>);

// === impl ReadCursor ===

impl Callback for ReadCursor<'_> {
    fn on_request(self, request: &Request, response: Response) -> Result<Response, ErrorResponse> {
        match cursor_of(request.uri().query().unwrap_or_default()) {
            Ok(cursor) => {
                *self.0 = cursor;
                Ok(response)
            }
            Err(error) => {
                let mut refusal = ErrorResponse::new(Some(error.to_string()));
                *refusal.status_mut() = StatusCode::BAD_REQUEST;
                Err(refusal)
            }
        }
    }
}

// === impl Session ===

impl Session {
    async fn run(mut self, cursor: Option<u64>) -> Result<(), tungstenite::Error> {
        match self.log.start(cursor) {
            Start::At(index) => self.next = index,
            Start::Future => {
                self.feed(Bytes::from_static(FUTURE_CURSOR)).await?;
                return self.close(CloseCode::Policy).await;
            }
            Start::Outdated(index) => {
                self.feed(Bytes::from_static(OUTDATED_CURSOR)).await?;
                self.next = index;
            }
        }
        match self.stream().await? {
            Ending::Close(code) => self.close(code).await,
            Ending::Cut => self.socket.flush().await,
        }
    }

    async fn stream(&mut self) -> Result<Ending, tungstenite::Error> {
        loop {
            if self
                .options
                .drop_after
                .is_some_and(|limit| self.sent >= limit)
            {
                return Ok(Ending::Cut);
            }
            if let Some(frame) = self.log.frame(self.next) {
                self.wait_until_due().await?;
                self.feed(frame).await?;
                self.next += 1;
                self.sent += 1;
                if self.sent.is_multiple_of(FRAMES_BETWEEN_READS) && self.has_left() {
                    return Ok(Ending::Close(CloseCode::Normal));
                }
            } else if self.options.close_at_end {
                return Ok(Ending::Close(CloseCode::Normal));
            } else {
                self.socket.flush().await?;
                if self.wait_for_growth().await {
                    return Ok(Ending::Close(CloseCode::Normal));
                }
                self.pace = Pace::new(self.options.rate);
            }
        }
    }

    /// Waits for the log to grow; true if the client left meanwhile.
    async fn wait_for_growth(&mut self) -> bool {
        loop {
            tokio::select! {
                // The log owns the sender and lives as long as this session.
                _ = self.growth.changed() => return false,
                message = self.socket.next() => if is_last(message.as_ref()) {
                    return true;
                },
            }
        }
    }

    /// Reads the client's messages, so that tungstenite answers its pings.
    fn has_left(&mut self) -> bool {
        let message = self.socket.next().now_or_never();
        message.is_some_and(|message| is_last(message.as_ref()))
    }

    async fn wait_until_due(&mut self) -> Result<(), tungstenite::Error> {
        if let Some(due) = self.pace.next_due() {
            self.socket.flush().await?;
            sleep_until(due).await;
        }
        Ok(())
    }

    async fn feed(&mut self, frame: Bytes) -> Result<(), tungstenite::Error> {
        self.socket.feed(Message::Binary(frame)).await
    }

    /// Closes the connection, and waits until the client has read everything. If a socket is
    /// dropped with unread bytes in it, frames that are still being sent are lost.
    async fn close(mut self, code: CloseCode) -> Result<(), tungstenite::Error> {
        let reason = "".into();
        self.socket.close(Some(CloseFrame { code, reason })).await?;
        let drained = async { while let Some(Ok(_)) = self.socket.next().await {} };
        let _ = timeout(CLOSE_DEADLINE, drained).await;
        Ok(())
    }
}

fn is_last(message: Option<&Result<Message, tungstenite::Error>>) -> bool {
    matches!(message, None | Some(Err(_) | Ok(Message::Close(_))))
}

/// Spaces events evenly on average, because the clock's millisecond is coarser than most intervals.
struct Pace {
    rate: Option<NonZeroU32>,
    since: Instant,
    events: u64,
}

// === impl Pace ===

impl Pace {
    fn new(rate: Option<NonZeroU32>) -> Self {
        Self {
            rate,
            since: Instant::now(),
            events: 0,
        }
    }

    /// The time of the next event, if it is in the future.
    fn next_due(&mut self) -> Option<Instant> {
        let rate = f64::from(self.rate?.get());
        let due = self.since + Duration::from_secs_f64(self.events as f64 / rate);
        self.events += 1;
        (due > Instant::now()).then_some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn events_keep_their_rate_over_time() {
        let mut pace = Pace::new(NonZeroU32::new(4000));
        let begin = Instant::now();
        for _ in 0..=8000 {
            if let Some(due) = pace.next_due() {
                sleep_until(due).await;
            }
        }
        let took = begin.elapsed();
        assert!(took >= Duration::from_secs(2), "{took:?}");
        assert!(took < Duration::from_millis(2010), "{took:?}");
    }
}
